"""What is seen of a tensor's channels, beside its histogram: what rescaling and the correction of biases ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qntz.histograms import CHANNEL_BINS, Channels, Sums, channel_bins, coprime_stride
from qntz.scalable import Layout


@dataclass(frozen=True)
class Seen:
    """What one run shows. places: in the flattened counts, of the sampled elements; stride: how many one stands for.
    ranges: float32 [C] each. sums: of the sampled elements."""

    stride: int
    places: np.ndarray | None = None
    ranges: tuple[np.ndarray, np.ndarray] | None = None
    sums: Sums | None = None


class ChannelCounts:
    """What was seen so far of one tensor's channels.

    ONNX Runtime may hold the tensor in blocks of channels, [N, C / block, H, W, block] in memory where the shape says
    [N, C, H, W].
    """

    def __init__(self, layout: Layout | None, axis: int | None, block: int) -> None:
        """layout: of a tensor that can be rescaled. axis: that weights read. block: 0 where the order is ONNX's."""
        self._axes, self._axis, self._block = None if layout is None else layout.axes, axis, block
        self._sums: Sums | None = None
        if layout is None:
            return
        channels, local = np.unique(layout.index, return_inverse=True)
        self._local = local.reshape(-1)
        self._plain = np.array_equal(self._local, np.arange(layout.index.size))
        self._counts = np.zeros((len(channels), CHANNEL_BINS), dtype=np.int64 if len(channels) < 64 else np.int32)
        self._minimum = np.full(len(channels), np.inf, dtype=np.float32)
        self._maximum = np.full(len(channels), -np.inf, dtype=np.float32)

    def seen(self, values: np.ndarray, least: int) -> Seen:
        """What these values show: ranges of all, the rest of every `least`-th element or of a few more than that."""
        stride = coprime_stride(values.shape, least)
        flat = values.reshape(-1)[::stride]
        places = np.arange(0, values.size, stride, dtype=np.int64)
        sums = at = None
        if self._axis is not None:
            at = self._positions(places, values.shape, (self._axis % values.ndim,))
            size = values.shape[self._axis]
            sums = Sums.of(stride * np.bincount(at, flat, size), stride * np.bincount(at, minlength=size))
        if self._axes is None:
            return Seen(stride, sums=sums)
        if at is None or self._axes != (self._axis % values.ndim,):  # type: ignore[operator]
            at = self._positions(places, values.shape, self._axes)
        ranges = self._reduced(values, np.minimum, np.inf), self._reduced(values, np.maximum, -np.inf)
        return Seen(stride, self._of(at) * CHANNEL_BINS + channel_bins(flat), ranges, sums)

    def add(self, seen: Seen) -> None:
        """Takes in what `seen` gave; one thread at a time."""
        if seen.sums is not None:
            self._sums = seen.sums if self._sums is None else self._sums.merged(seen.sums)
        if seen.ranges is not None:
            np.minimum(self._minimum, seen.ranges[0], out=self._minimum)
            np.maximum(self._maximum, seen.ranges[1], out=self._maximum)
            np.add.at(self._counts.reshape(-1), seen.places, seen.stride)

    def channels(self) -> Channels | None:
        """Of a tensor that can be rescaled."""
        if self._axes is None:
            return None
        return Channels(self._counts.astype(np.int64), self._minimum + 0.0, self._maximum + 0.0)

    def sums(self) -> Sums | None:
        """Of a tensor that weights read."""
        return self._sums

    def _of(self, positions: np.ndarray) -> np.ndarray:
        return positions if self._plain else self._local[positions]

    def _positions(self, places: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
        """The position along these axes, as if they were one, of the elements at these places of the flat tensor."""
        if self._block:
            block, image = self._block, math.prod(shape[2:])
            return places % (shape[1] * image) // (image * block) * block + places % block
        at = np.zeros_like(places)
        for axis in axes:
            behind = math.prod(shape[axis + 1 :])
            at = at * shape[axis] + (places // behind if behind > 1 else places) % shape[axis]
        return at

    def _reduced(self, values: np.ndarray, function: np.ufunc, start: float) -> np.ndarray:
        axes = self._axes or ()
        if self._block:
            whole = _over_blocks(values, self._block, function)
        elif len(axes) == 1:
            before, behind = math.prod(values.shape[: axes[0]]), math.prod(values.shape[axes[0] + 1 :])
            split = values.reshape(before, values.shape[axes[0]], behind)
            whole = function.reduce(split[..., 0] if behind == 1 else function.reduce(split, axis=2), axis=0)
        else:
            whole = function.reduce(values, axis=tuple(axis for axis in range(values.ndim) if axis not in axes))
        if self._plain:
            return np.asarray(whole).reshape(-1)
        found = np.full(len(self._minimum), start, dtype=np.float32)
        function.at(found, self._local, np.asarray(whole).reshape(-1))
        return found


def _over_blocks(values: np.ndarray, block: int, function: np.ufunc) -> np.ndarray:
    """Over samples and image: by rows of many places first, which are reduced fast."""
    samples, channels, image = values.shape[0], values.shape[1], math.prod(values.shape[2:])
    rows = math.gcd(image, 64)
    split = values.reshape(samples * channels // block, image // rows, rows * block)
    first = function.reduce(split, axis=1).reshape(samples, channels // block, rows, block)
    return np.asarray(function.reduce(first, axis=(0, 2))).reshape(-1)
