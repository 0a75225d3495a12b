"""A model's test data, for all that measures on them: torchscript, quantize, verify, `qntz sensitivity`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from qntz.config import ModelConfig
from qntz.figures import Batch
from qntz.records import Arrays, DataSource
from qntz.samples import batch_size, batches, open_samples

BATCH = 32  # samples, everywhere alike, so that eager and artifact outputs pair up


def read(model: ModelConfig, sources: Mapping[str, DataSource], root: Path) -> list[Arrays]:
    """The checked samples of `model.data.test`, [] where it names none; raises as `qntz.samples.open_samples` does."""
    if model.data.test is None:
        return []
    return list(open_samples(model.data.test, sources, model.inputs, model.dims, root, "model.data.test"))


def batched(model: ModelConfig, samples: Iterable[Arrays]) -> list[Batch]:
    """The samples in batches: (inputs by name, targets or None); raises as `qntz.samples.batches` does."""
    size, least = batch_size(BATCH, model.inputs, model.dims)
    return list(batches(samples, model.inputs, size, least))
