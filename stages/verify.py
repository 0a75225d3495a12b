"""verify: the engine against the eager model; where it cannot run here, its graph, and it says so."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz.artifacts import read_runs, write_json, write_text
    from qntz.engine import choose_backend
    from qntz.packed import read_packed, size_at
    from qntz.quantize import runnable
    from qntz.verify import verify
    from stages.testdata import metric, test_batches, test_samples

    paths = job.paths
    verified = verify(
        quantized=paths.quantized,
        simplified=job.of.simplified,
        plan=paths.plan,
        backend=choose_backend(job.config.engine.backend, job.plugins.records("qntz_backends")),
        engine=job.config.engine,
        precision=job.config.quantize.precision,
        config=job.config.verify,
        probes=read_runs(job.of.probes),
        golden=read_runs(job.of.golden),
        batches=test_batches(job, test_samples(job)),
        reference=read_runs(job.of.reference),
        metric=metric(job),
        sizes={"onnx": size_at(paths.quantized), "engine": paths.plan.stat().st_size},
        runnable=runnable(read_packed(paths.quantized)),
    )
    write_json(paths.metrics, verified.metrics)
    write_text(paths.probe_figures, verified.probe_figures)
    write_text(paths.layer_figures, verified.layer_figures)
    job.say(f"within tolerance; engine {verified.engine}")


if __name__ == "__main__":
    run("verify", work)
