"""quantize: the engine's precision written into the graph, and the graph held against the eager model."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz import ort, testdata
    from qntz.artifacts import read_json, read_npz, read_runs, write_bytes, write_json, write_model
    from qntz.figures import gate, measure, metrics_of, named_metric
    from qntz.histograms import data_files, histograms_from
    from qntz.quantize import calibration_cache, changed, chooses, poor, quantize, ranges_json, runnable

    config, model, paths, plugins = job.config.quantize, job.config.model, job.paths, job.plugins
    scored = named_metric(model.metric, plugins.records("qntz_metrics"))
    arrays = read_npz(job.of.histograms)
    histograms = histograms_from(arrays, str(job.of.histograms))
    probes = read_runs(job.of.probes)
    quantized = quantize(
        job.of.simplified,
        histograms,
        None,
        config,
        methods=plugins.records("qntz_threshold_methods"),
        passes=plugins.provided("qntz_graph_passes", phase="quantize"),
        data=data_files(arrays),
        probes=probes,
        held_out=testdata.batched(model, read_runs(job.of.held_out)) if chooses(config) else (),
        metric=scored,
        sources=read_json(job.of.sources),
    )
    samples = testdata.read(model, plugins.records("qntz_data_sources"), job.root)
    session = ort.session(runnable(quantized.file))
    figures = measure(
        lambda inputs: ort.run(session, inputs),
        probes,
        read_runs(job.of.golden),
        testdata.batched(model, samples),
        read_runs(job.of.reference),
        scored,
    )
    gate(figures, config.precision, config.tolerance, scored, "quantized.onnx")
    write_model(paths.quantized, quantized.file, both=True)
    told = metrics_of(figures, scored, {})
    write_json(paths.ranges, ranges_json(quantized))
    write_bytes(paths.calibration_cache, calibration_cache(quantized))
    write_json(paths.quantize_json, {**quantized.as_dict(), "figures": told, "bytes": quantized.file.size})
    lost = (*poor(quantized.layers, config.least_db, job.root), *changed(quantized.constants, job.root))
    for note in (*lost, *quantized.notes):
        job.say(f"note: {note}")
    job.say(
        f"{config.precision}, "
        + ", ".join(f"{name} {value:g}" for name, value in told.items() if isinstance(value, (int, float)))
    )


if __name__ == "__main__":
    run("quantize", work)
