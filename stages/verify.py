"""verify: the engine against the eager model; where it cannot run here, its graph, and it says so."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz import testdata
    from qntz.artifacts import read_runs, write_json, write_text
    from qntz.engine import choose_backend
    from qntz.figures import named_metric
    from qntz.packed import read_packed, size_at
    from qntz.quantize import runnable
    from qntz.verify import verify

    paths, model, plugins = job.paths, job.config.model, job.plugins
    samples = testdata.read(model, plugins.records("qntz_data_sources"), job.root)
    verified = verify(
        quantized=paths.quantized,
        simplified=job.of.simplified,
        plan=paths.plan,
        backend=choose_backend(job.config.engine.backend, plugins.records("qntz_backends")),
        engine=job.config.engine,
        precision=job.config.quantize.precision,
        config=job.config.verify,
        probes=read_runs(job.of.probes),
        golden=read_runs(job.of.golden),
        batches=testdata.batched(model, samples),
        reference=read_runs(job.of.reference),
        metric=named_metric(model.metric, plugins.records("qntz_metrics")),
        sizes={"onnx": size_at(paths.quantized), "engine": paths.plan.stat().st_size},
        runnable=runnable(read_packed(paths.quantized)),
    )
    write_json(paths.metrics, verified.metrics)
    write_text(paths.probe_figures, verified.probe_figures)
    write_text(paths.layer_figures, verified.layer_figures)
    job.say(f"within tolerance; engine {verified.engine}")


if __name__ == "__main__":
    run("verify", work)
