"""calibrate: one pass over the calibration data; histograms of every tensor that an engine may quantize."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz.artifacts import write_npz, write_runs
    from qntz.calibrate import collect
    from qntz.errors import DataError
    from qntz.histograms import arrays_of
    from qntz.progress import Bar
    from qntz.samples import HeldOut, batch_size, batches, open_samples

    model, config = job.config.model, job.config.calibrate
    if not config.needed:
        write_npz(job.of.histograms, arrays_of({}))
        write_runs(job.of.held_out, [])
        return job.say("no engine of this model needs histograms")
    data = model.data.calibrate
    if data is None:
        raise DataError(
            "no calibration data",
            where="model.data.calibrate",
            do="Name a source; qntz never calibrates on random data.",
        )
    sources = job.plugins.records("qntz_data_sources")
    size, least = batch_size(config.batch_size, model.inputs, model.dims)
    samples = HeldOut(
        open_samples(data, sources, model.inputs, model.dims, job.root, "model.data.calibrate"), config.held_out, least
    )
    with Bar(f"calibrate {job.name}") as progress:
        histograms = collect(
            job.of.simplified,
            (inputs for inputs, _ in batches(samples, model.inputs, size, least)),
            workers=config.workers,
            stride=config.stride,
            progress=progress,
            total=_batches(data.get("count"), config.held_out, size),
            split=least == 1,
        )
    write_npz(job.of.histograms, arrays_of(histograms, {**job.inputs["data"], **job.inputs["extra"]}))
    write_runs(job.of.held_out, samples.samples)
    return job.say(f"{len(histograms)} tensors; {len(samples.samples)} samples held out")


def _batches(count: int | None, held_out: int, size: int) -> int | None:
    """How many batches there will be of this many samples, without those held out; None where that is not known."""
    return None if count is None else -(-(count - min(held_out, count // 4)) // size)


if __name__ == "__main__":
    run("calibrate", work)
