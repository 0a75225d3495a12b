"""Inputs beyond those that were given, which tell a capture that is right from one that is right on those alone: other
values, of both signs, small, large and zero; and other sizes, of the dynamic dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from qntz.config import DimConfig
from qntz.records import Arrays

Shapes = Mapping[str, Sequence["int | str"]]

FACTORS = (0.5, 3.0)
EXTREMES = (0.0, -100.0, 0.01)
AGAIN = 0.875  # of what is taken again
LONGER = (1, 3)  # elements that are added to a dimension


def further_inputs(given: Sequence[Arrays], shapes: Shapes, dims: Mapping[str, DimConfig]) -> Iterator[Arrays]:
    """Made of the first and the last given inputs, the most telling first. Whole numbers and truths may stand for
    something, and are only put in another order. Sizes that have one name change together."""
    first, last = given[0], given[-1]
    groups = axes_of(shapes)
    yield scaled(first, -1.0)
    for label, axes in groups.items():
        size = next(last[name].shape[axis] for name, axis in axes)
        most = dims[label].max if label in dims else size + max(LONGER)
        least = dims[label].min if label in dims else 1
        for other in dict.fromkeys((min(size + LONGER[0], most), least, min(size + LONGER[1], most))):
            if other != size:
                yield resized(last, axes, other)
    for factor in FACTORS:
        yield scaled(first, factor)
        if len(given) > 1:
            yield scaled(last, -factor)


def apart(given: Sequence[Arrays], shapes: Shapes, dims: Mapping[str, DimConfig]) -> Iterator[list[Arrays]]:
    """For sizes that are one in all given inputs, though nobody has said that they are: the last given inputs with each
    of them changed alone."""
    last = given[-1]
    for label, axes in axes_of(shapes).items():
        if len(axes) > 1 and label not in dims:
            yield [resized(last, [(name, axis)], last[name].shape[axis] + LONGER[0]) for name, axis in axes]


def small_inputs(given: Sequence[Arrays], shapes: Shapes, dims: Mapping[str, DimConfig]) -> Iterator[Arrays]:
    """Other values, with the smallest sizes that were not given: of all dimensions, then of each."""
    smaller = {}
    for label, axes in axes_of(shapes).items():
        name, axis = axes[0]
        seen = {one[name].shape[axis] for one in given}
        bounds = dims[label] if label in dims else DimConfig(1, 1, 2 * max(seen))
        smaller[label] = next((s for s in range(bounds.min, bounds.max + 1) if s not in seen), None), axes
    turned = scaled(given[0], -1.0)
    sizes = [(size, axes) for size, axes in smaller.values() if size is not None]
    together = turned
    for size, axes in sizes:
        together = resized(together, axes, size)
    yield together
    if len(sizes) > 1:
        for size, axes in sizes:
            yield resized(turned, axes, size)


def extreme_inputs(given: Sequence[Arrays]) -> Iterator[Arrays]:
    """Zero, large and small values. What ranks or rounds gives its own answers there under another runtime, but the
    same in torch, captured or not."""
    for factor in EXTREMES:
        yield scaled(given[0], factor)
        if len(given) > 1:
            yield scaled(given[-1], -factor)


def shapes_of(given: Sequence[Arrays], dims: Mapping[str, DimConfig]) -> dict[str, tuple[int | str, ...]]:
    """The inputs' sizes, with a name for those that differ between the inputs: one name for those that have the same
    size in each of them, and of `dims` where all those sizes are within one that is not taken yet."""
    groups: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, first in given[0].items():
        for axis in range(first.ndim):
            sizes = tuple(inputs[name].shape[axis] for inputs in given)
            if len(set(sizes)) > 1:
                groups.setdefault(sizes, []).append((name, axis))
    shapes: dict[str, list[int | str]] = {name: list(array.shape) for name, array in given[0].items()}
    left = dict(dims)
    for sizes, axes in groups.items():
        label = next((name for name, dim in left.items() if all(dim.min <= size <= dim.max for size in sizes)), "")
        left.pop(label, None)
        for name, axis in axes:
            shapes[name][axis] = label or "{}_{}".format(*axes[0])
    return {name: tuple(shape) for name, shape in shapes.items()}


def axes_of(shapes: Shapes) -> dict[str, list[tuple[str, int]]]:
    """The (input, axis) pairs of each dynamic dimension, by its name."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                groups.setdefault(size, []).append((name, axis))
    return groups


def scaled(inputs: Arrays, factor: float) -> Arrays:
    """The inputs in the opposite order along all axes, floats times the factor."""
    turned = {name: np.ascontiguousarray(np.flip(array)) for name, array in inputs.items()}
    return {n: (a * factor).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in turned.items()}


def resized(inputs: Arrays, axes: Sequence[tuple[str, int]], size: int) -> Arrays:
    """The inputs with these axes cut, or filled by starting again, to a size; floats each time a little smaller, since
    of what is the same twice any may be the largest."""
    found = dict(inputs)
    for name, axis in axes:
        array, count = found[name], max(found[name].shape[axis], 1)
        places = np.arange(size)
        taken = np.take(array, places % count, axis=axis)
        if array.dtype.kind == "f" and size > count:
            factors = AGAIN ** (places // count).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
            taken = (taken * factors).astype(array.dtype)
        found[name] = taken
    return found
