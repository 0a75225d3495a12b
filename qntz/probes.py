"""Probes: the inputs that every artifact of a model is compared on, made from the model's specification.

The first one is the example that a model is captured with: sizes of at least two, all different where the ranges
allow it, because an example of size one specialises. The others vary sizes and values: the smallest sizes, the
extremes of the range, zeros, large values. Among them are the smallest, the usual and the largest sizes, which an
engine's optimization profile is made of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from qntz.artifacts import read_npz
from qntz.config import DimConfig, InputConfig, ProbesConfig
from qntz.errors import DataError
from qntz.records import Arrays
from qntz.samples import checked

LARGEST = 1 << 20  # elements of the largest input of a probe: enough to vary the batch, small enough to run often
KINDS = ("typical", "low", "high", "wide", "zero")


def probes_for(
    config: ProbesConfig,
    inputs: Mapping[str, InputConfig],
    dims: Mapping[str, DimConfig],
    root: Path,
    samples: Iterable[Arrays] = (),
) -> list[Arrays]:
    """The probes that a model's configuration asks for: from its file, or synthetic ones and then real samples."""
    if config.file is not None:
        probes = read_probes(root / config.file, inputs, dims)
    else:
        probes = make_probes(inputs, dims, config.count, config.seed)
        probes += data_probes(samples, inputs, dims, config.data)
    _require_variety(probes, inputs, dims)
    return probes


def _require_variety(probes: list[Arrays], inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig]) -> None:
    """Raises DataError where a dynamic dimension has one size on all probes: a frozen size would not show."""
    seen: dict[str, set[int]] = {}
    for name, spec in inputs.items():
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                seen.setdefault(size, set()).update(probe[name].shape[axis] for probe in probes)
    for name, sizes in seen.items():
        if dims[name].min < dims[name].max and len(sizes) < 2:
            raise DataError(
                f"dimension {name!r} is {sizes.pop()} on every probe",
                where="model.probes",
                do="Give probes of two or more sizes, since a frozen size would not show otherwise.",
            )


def make_probes(
    inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig], count: int, seed: int
) -> list[Arrays]:
    """`count` synthetic probes, each a dict of arrays by input name with all dimensions; equal for an equal seed."""
    rng = np.random.default_rng(seed)
    probes = []
    for index in range(count):
        sizes = _within_reach(_sizes(dims, index, rng), inputs, dims, smallest=index == 1)
        kind = "typical" if index % 2 == 0 else KINDS[1 + (index // 2) % (len(KINDS) - 1)]
        probes.append({name: _values(spec, sizes, kind, rng) for name, spec in inputs.items()})
    return probes


def typical(inputs: Mapping[str, InputConfig], sizes: Mapping[str, int], seed: int) -> Arrays:
    """Inputs of these sizes, drawn as typical probes are; equal for an equal seed."""
    rng = np.random.default_rng(seed)
    return {name: _values(spec, sizes, "typical", rng) for name, spec in inputs.items()}


def _example_sizes(dims: Mapping[str, DimConfig]) -> dict[str, int]:
    """At least 2 and all different, where the ranges allow it."""
    taken: set[int] = set()
    sizes = {}
    for name, dim in dims.items():
        allowed = range(min(max(dim.min, 2), dim.max), dim.max + 1)
        sizes[name] = next((size for size in allowed if size not in taken), allowed[0])
        taken.add(sizes[name])
    return sizes


def _sizes(dims: Mapping[str, DimConfig], index: int, rng: np.random.Generator) -> dict[str, int]:
    example = _example_sizes(dims)
    if index == 0:
        return example
    if index == 1:  # the smallest, or where the example has it already the next
        return {n: dim.min if dim.min != example[n] else min(dim.min + 1, dim.max) for n, dim in dims.items()}
    if index == 2:
        return {name: dim.max for name, dim in dims.items()}
    if index == 3:
        return {name: dim.opt for name, dim in dims.items()}
    return {
        name: int(rng.integers(dim.min, min(dim.max, max(2 * dim.opt, dim.min + 7)) + 1)) for name, dim in dims.items()
    }


def _within_reach(
    sizes: dict[str, int], inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig], *, smallest: bool
) -> dict[str, int]:
    """The sizes, with the largest ones halved until no input has more than `LARGEST` elements; however large the inputs
    are, only the probe of the smallest sizes goes down to them, and to a size of one."""
    sizes = dict(sizes)
    least = {n: dim.min if smallest else min(dim.max, max(2, dim.min + 1)) for n, dim in dims.items()}

    def elements() -> int:
        return max(
            int(np.prod([sizes.get(s, s) if isinstance(s, str) else s for s in i.shape])) for i in inputs.values()
        )

    while elements() > LARGEST:
        name = max(sizes, key=lambda n: sizes[n] / least[n], default=None)
        if name is None or sizes[name] <= least[name]:
            break
        sizes[name] = max(least[name], sizes[name] // 2)
    return sizes


def _values(spec: InputConfig, sizes: Mapping[str, int], kind: str, rng: np.random.Generator) -> np.ndarray:
    shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
    if spec.dtype == "bool":
        fill = {"low": 0.0, "zero": 0.0, "high": 1.0}.get(kind)
        return (rng.random(shape) < 0.7) if fill is None else np.full(shape, bool(fill))
    bounded = spec.range is not None
    low, high = spec.range if spec.range is not None else (-4.0, 4.0)
    if kind in ("low", "high"):
        values = np.full(shape, low if kind == "low" else high)
    elif kind == "zero" and low <= 0 <= high:
        values = np.zeros(shape)
    elif spec.dtype.startswith("float"):
        values = (
            rng.uniform(low, high, shape) if bounded else rng.standard_normal(shape) * (10 if kind == "wide" else 1)
        )
    else:
        values = rng.integers(int(low), int(high), shape, endpoint=True)
    return values.astype(spec.dtype)


def data_probes(
    samples: Iterable[Arrays], inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig], count: int
) -> list[Arrays]:
    """`count` probes of real samples, of 1, 2, 3, ... samples as far as the first dimension allows."""
    batch = next(iter(inputs.values())).shape[0]
    low, high = (batch, batch) if isinstance(batch, int) else (dims[batch].min, dims[batch].max)
    iterator = iter(samples)
    probes = []
    for index in range(count):
        size = min(max(index + 1, low), high)
        if probes:  # of large samples two at a time: enough for a frozen batch to show
            each = max(array.size for array in probes[0].values()) // len(next(iter(probes[0].values())))
            size = min(size, max(LARGEST // each, 2, low))
        group = list(itertools.islice(iterator, size))
        if len(group) < size or len({tuple(s[name].shape for name in inputs) for s in group}) > 1:
            break
        probes.append({name: np.stack([sample[name] for sample in group]) for name in inputs})
    return probes


def read_probes(path: Path, inputs: Mapping[str, InputConfig], dims: Mapping[str, DimConfig]) -> list[Arrays]:
    """Probes from an .npz with keys "<probe>/<input>"; raises DataError where one does not fit the model."""
    grouped: dict[str, Arrays] = {}
    for key, array in sorted(read_npz(path).items()):
        probe, slash, name = key.partition("/")
        if not slash:
            raise DataError(f"key {key!r} names no probe", where=str(path), do='Keys are "<probe>/<input>".')
        grouped.setdefault(probe, {})[name] = array
    if len(grouped) < 2:
        raise DataError(f"{len(grouped)} probes", where=str(path), do="Give two or more, of different sizes.")
    for probe, arrays in grouped.items():
        for name in inputs:
            if name in arrays and arrays[name].ndim == 0:
                raise DataError(f"{name} is a scalar", where=f"{path}, probe {probe}")
        for index in range(min(len(array) for array in arrays.values())):
            checked({n: a[index] for n, a in arrays.items()}, inputs, dims, f"{path}, probe {probe}, row {index}")
    return list(grouped.values())
