"""Samples from a data source: opened, held against the model's inputs, and put into batches."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qntz.config import DimConfig, InputConfig
from qntz.errors import DEBUG, DataError, PluginError, QntzError, did_you_mean, one_line
from qntz.records import FILE, TARGET, Arrays, DataSource


def open_samples(
    data: Mapping[str, Any],
    sources: Mapping[str, DataSource],
    inputs: Mapping[str, InputConfig],
    dims: Mapping[str, DimConfig],
    root: Path,
    where: str,
) -> Iterator[Arrays]:
    """The checked samples of one `data` section, at most `count` of them (all where it names none).

    Each sample is a dict of arrays without batch dimension by input name, and the label under "target" if there is one.

    Raises:
        DataError: no such source, no samples, or a sample that does not fit the model (`where` and its number named).
        PluginError: the source raises anything but qntz's own errors.
    """
    options = dict(data)
    name = options.pop("source")
    if name not in sources:
        raise DataError(f"no data source {name!r}", where=where, do=did_you_mean(name, sources))
    limit = options.get("count")
    given = 0
    for given, sample in enumerate(_opened(sources[name], options, root, where), start=1):
        file = f" ({sample[FILE]})" if isinstance(sample, Mapping) and FILE in sample and FILE not in inputs else ""
        sample = checked(sample, inputs, dims, f"{where}, sample {given - 1}{file}")
        yield {name: array for name, array in sample.items() if name != FILE} if file else sample
        if limit is not None and given >= limit:
            return
    if given == 0:
        raise DataError("no samples", where=where, do="Point it at data; qntz never calibrates on random numbers.")
    if limit is not None and given < limit:
        raise DataError(
            f"{given} samples where {limit} are asked for", where=where, do=f"Set count: {given}, or add data."
        )


def spread(total: int, count: int | None) -> range | list[int]:
    """The positions of `count` things spread evenly over `total`, in order; of all of them for None or too many."""
    if count is None or count >= total:
        return range(total)
    return [index * total // count for index in range(count)]


def _opened(source: DataSource, options: Mapping[str, Any], root: Path, where: str) -> Iterator[Arrays]:
    """The source's samples; what it raises names it."""
    number = 0
    try:
        # by name, in an order that no edit of the configuration changes
        for sample in source.open(dict(sorted(options.items())), root):
            yield sample
            number += 1
    except QntzError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"data source {source.name!r} fails",
            where=f"{where}, sample {number}",
            why=one_line(error, place=True),
            do=DEBUG,
        ) from error


def checked(sample: Arrays, inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig], where: str) -> Arrays:
    """The sample, where it fits the model's inputs; raises DataError where it does not."""
    if not isinstance(sample, Mapping):
        raise DataError(f"is a {type(sample).__name__}, no dict of arrays", where=where, do="Yield {name: array}.")
    sizes: dict[str, int] = {}
    for name, spec in inputs.items():
        if name not in sample:
            raise DataError(f"no input {name!r}", where=where, do=did_you_mean(name, sample))
        array = sample[name]
        if not isinstance(array, (np.ndarray, np.generic)):
            raise DataError(f"{name} is a {type(array).__name__}, no NumPy array", where=where, do="Use numpy.asarray.")
        if str(array.dtype) != spec.dtype:
            raise DataError(f"{name} is {array.dtype}, the model takes {spec.dtype}", where=where)
        shape = spec.shape[1:]
        if len(array.shape) != len(shape):
            raise DataError(
                f"{name} has shape {list(array.shape)}, the model takes {shape} a sample (without its first dimension)",
                where=where,
            )
        for size, wanted in zip(array.shape, shape, strict=True):
            why = ""
            if isinstance(wanted, int):
                fits = size == wanted
            elif not (fits := dims[wanted].min <= size <= dims[wanted].max):
                why = f"{wanted} goes from {dims[wanted].min} to {dims[wanted].max} (model.dims)"
            elif not (fits := sizes.setdefault(wanted, size) == size):
                why = f"{wanted} is {sizes[wanted]} elsewhere in the sample"
            if not fits:
                raise DataError(f"{name} has shape {list(array.shape)}, the model takes {shape}", where=where, why=why)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            kind = "NaN" if np.isnan(array).any() else "infinity"
            raise DataError(f"{name} holds {kind}", where=where, do="Repair or remove the sample.")
    return sample


class HeldOut:
    """Samples without some that are held out, chosen by what they hold: whatever the order, they are the same.

    Iterate over it, then read `samples`.

    Attributes:
        samples: those held out, in an order of their contents; at most a quarter of all.
    """

    def __init__(self, samples: Iterable[Arrays], count: int, least: int = 1) -> None:
        """count: how many are held out, 0 or more. least: they are a multiple of it, what a model takes at a time."""
        self._source, self._count, self._least = samples, count, least
        self.samples: list[Arrays] = []

    def __iter__(self) -> Iterator[Arrays]:
        held: list[tuple[str, int, Arrays]] = []
        total = 0
        for total, sample in enumerate(self._source, start=1):
            bisect.insort(held, (_digest(sample), total, sample), key=lambda entry: entry[:2])
            if len(held) > self._count:
                yield held.pop()[2]
        while len(held) > total // 4 or len(held) % self._least:
            yield held.pop()[2]
        self.samples = [sample for _, _, sample in held]


def _digest(sample: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def batches(
    samples: Iterable[Arrays], inputs: Mapping[str, InputConfig], size: int, least: int = 1
) -> Iterator[tuple[Arrays, np.ndarray | None]]:
    """Batches of (inputs by name [n, ...], targets [n, ...] or None); samples of another shape start a new batch.

    Raises:
        DataError: a batch of fewer than `least` samples is left, or some samples have a target and others none.
    """
    pending: list[Arrays] = []

    def shape(sample: Arrays) -> list[tuple[int, ...]]:
        return [sample[name].shape for name in inputs]

    def joined() -> tuple[Arrays, np.ndarray | None]:
        if len(pending) < least:
            raise DataError(
                f"{len(pending)} samples are left, and the model takes {least} or more at a time",
                where="data",
                do="Give a number of samples that divides.",
            )
        labelled = [s for s in pending if TARGET in s]
        if labelled and len(labelled) < len(pending):
            raise DataError(
                f"{len(pending) - len(labelled)} of {len(pending)} samples have no {TARGET!r}", where="data"
            )
        shapes = sorted({np.shape(s[TARGET]) for s in labelled})
        if len(shapes) > 1:
            raise DataError(f"the targets have shapes {', '.join(map(str, map(list, shapes)))}", where="data")
        targets = np.stack([s[TARGET] for s in labelled]) if labelled else None
        return {name: np.stack([s[name] for s in pending]) for name in inputs}, targets

    for sample in samples:
        if pending and (len(pending) == size or shape(sample) != shape(pending[0])):
            yield joined()
            pending = []
        pending.append(sample)
    if pending:
        yield joined()


def batch_size(wanted: int, inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig]) -> tuple[int, int]:
    """The number of samples a batch nearest to `wanted` that the model's first dimension takes, and the fewest."""
    first = next(iter(inputs.values())).shape[0]
    least, most = (first, first) if isinstance(first, int) else (dims[first].min, dims[first].max)
    return max(least, min(wanted, most)), least
