"""The inputs that are timed: of the sizes that an engine takes, of the test data where it has such, else drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qntz.config import InputConfig, ModelConfig
from qntz.errors import UsageError, did_you_mean
from qntz.probes import typical
from qntz.records import Arrays

SEED = 0


def batch_dimension(inputs: Mapping[str, InputConfig]) -> str | None:
    """The dimension that counts the samples, the first of the first input; None where that has no name."""
    first = next(iter(inputs.values())).shape[0]
    return first if isinstance(first, str) else None


def sizes_of(model: ModelConfig, batches: Sequence[int], given: Mapping[str, int]) -> list[dict[str, int]]:
    """The sizes of the dimensions in each set of inputs: the usual ones, those that are given, and of the batch each
    that is asked for (none: the smallest, the usual and the largest).

    Raises:
        UsageError: a dimension that the model does not have, or a size that it does not take.
    """
    usual = {name: dim.opt for name, dim in model.dims.items()}
    for name in given:
        if name not in usual:
            raise UsageError(f"no dimension {name!r}", where="--size", do=did_you_mean(name, usual))
    batch = batch_dimension(model.inputs)
    if batch is None:
        if batches:
            raise UsageError("the model has one batch size", where="--batch", do="Leave it out.")
        found = [{**usual, **given}]
    else:
        if batches and batch in given:
            why, do = "--batch gives them", "Leave one out."
            raise UsageError(f"{batch} has sizes already", where="--size", why=why, do=do)
        dim = model.dims[batch]
        asked = batches or ([given[batch]] if batch in given else sorted({dim.min, dim.opt, dim.max}))
        found = [{**usual, **given, batch: size} for size in asked]
    for sizes in found:
        for name, size in sizes.items():
            low, high = model.dims[name].min, model.dims[name].max
            if not low <= size <= high:
                where = "--batch" if name == batch and name not in given else "--size"
                raise UsageError(f"{name} {size}", where=where, why=f"the model takes {low} to {high}")
    return found


def made(inputs: Mapping[str, InputConfig], sizes: Mapping[str, int], samples: Iterable[Arrays]) -> tuple[Arrays, str]:
    """Inputs of these sizes, and what they are: samples of the test data in turn, where all inputs count samples along
    their first dimension and a sample has the size, else drawn as the probes are."""
    shapes = {name: [sizes.get(s, s) if isinstance(s, str) else s for s in spec.shape] for name, spec in inputs.items()}
    batch = batch_dimension(inputs)
    if batch is not None and all(spec.shape[0] == batch for spec in inputs.values()):
        first = list(itertools.islice(samples, sizes[batch]))
        if first and all(list(one[name].shape) == shapes[name][1:] for one in first for name in inputs):
            turns = list(itertools.islice(itertools.cycle(first), sizes[batch]))
            return {name: np.stack([one[name] for one in turns]) for name in inputs}, "test data"
    return typical(inputs, sizes, SEED), "drawn"


def named(sizes: Mapping[str, int]) -> str:
    """A set of inputs for the reader, "batch 8, length 128"."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the model's sizes"
