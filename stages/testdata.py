"""A model's test data, held-out samples and metric, for the stages that measure on them: torchscript, quantize,
verify."""

from __future__ import annotations

from typing import Any

from qntz.records import Arrays, Metric
from qntz.samples import TEST_BATCH, batch_size, batches, open_samples
from stages.entry import Job


def test_samples(job: Job) -> list[Arrays]:
    """The samples, [] where the model has none: arrays without batch dimension by name, and "target"."""
    model = job.config.model
    if model.data.test is None:
        return []
    sources = job.plugins.records("qntz_data_sources")
    return list(open_samples(model.data.test, sources, model.inputs, model.dims, job.root, "model.data.test"))


def held_out(job: Job) -> list[tuple[Arrays, Any]]:
    """What calibration held out, in batches: (inputs by name, targets or None)."""
    from qntz.artifacts import read_runs

    return test_batches(job, read_runs(job.of.held_out))


def test_batches(job: Job, samples: list[Arrays]) -> list[tuple[Arrays, Any]]:
    """The samples in batches, the same in every stage: (inputs by name, targets or None)."""
    model = job.config.model
    size, least = batch_size(TEST_BATCH, model.inputs, model.dims)
    return list(batches(samples, model.inputs, size, least))


def metric(job: Job) -> Metric | None:
    """The model's metric, if it names one; raises ConfigError where no plugin provides it."""
    from qntz.figures import named_metric

    return named_metric(job.config.model.metric, job.plugins.records("qntz_metrics"))
