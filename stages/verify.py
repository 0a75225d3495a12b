"""verify: the engine against the eager model; where it cannot run here, its graph, and it says so."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz import testdata
    from qntz.artifacts import bytes_of, json_bytes, read_runs, write_together
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
        sizes={"onnx": size_at(paths.quantized), "engine": bytes_of(paths.plan)},
        runnable=runnable(read_packed(paths.quantized)),
    )
    write_together(
        {
            paths.metrics: json_bytes(verified.metrics),
            paths.probe_figures: verified.probe_figures.encode(),
            paths.layer_figures: verified.layer_figures.encode(),
        }
    )
    job.say(f"within tolerance; engine {verified.engine}")


if __name__ == "__main__":
    run("verify", work)
