"""What is seen of a tensor's channels, beside its histogram: what rescaling and the correction of biases ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qntz.histograms import CHANNEL_BINS, Channels, Sums, channel_bins, coprime_stride
from qntz.scalable import Layout

_STRIDE, _ENOUGH = 61, 8
_LONG = 512  # elements of a row that are reduced fast


@dataclass(frozen=True)
class Seen:
    """What one run shows.

    Attributes:
        stride: how many elements a sampled one stands for. bins: of the sampled elements, in the flattened counts.
        amax: the largest magnitude of each channel, of all elements. sums: of the sampled ones.
    """

    stride: int
    bins: np.ndarray | None = None
    amax: np.ndarray | None = None
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
        self._known: tuple[tuple[int, ...], int, dict[tuple[int, ...], np.ndarray]] = ((), 0, {})
        if layout is None:
            return
        channels, local = np.unique(layout.index, return_inverse=True)
        self._local = local.reshape(-1)
        self._plain = np.array_equal(self._local, np.arange(layout.index.size))
        self._counts = np.zeros((len(channels), CHANNEL_BINS), dtype=np.int32)
        self._amax = np.zeros(len(channels), dtype=np.float32)
        self._added = 0

    def seen(self, values: np.ndarray, *, large: bool, signed: bool) -> Seen:
        """What these values show: the largest magnitudes of all, and where there are many, the rest of every 61st
        element, or of fewer, but of 8 a channel. signed: whether any is negative."""
        channels = values.shape[self._axis] if self._axis is not None else len(self._amax)
        least = max(_STRIDE, values.size // (_ENOUGH * channels)) if large else 1
        stride = coprime_stride(values.shape, least)
        flat = values.reshape(-1)[::stride]
        bins = amax = sums = None
        if self._axis is not None:
            at, size = self._positions(values.shape, stride, (self._axis % values.ndim,)), values.shape[self._axis]
            sums = Sums.of(stride * np.bincount(at, flat, size), stride * np.bincount(at, minlength=size))
        if self._axes is not None:
            at = self._positions(values.shape, stride, self._axes)
            bins = (at if self._plain else self._local[at]).astype(np.int64) * CHANNEL_BINS + channel_bins(flat)
            amax = self._largest(values, signed)
        return Seen(stride, bins, amax, sums)

    def add(self, seen: Seen) -> None:
        """Takes in what `seen` gave; one thread at a time."""
        if seen.sums is not None:
            self._sums = seen.sums if self._sums is None else self._sums.merged(seen.sums)
        if seen.bins is not None:
            np.maximum(self._amax, seen.amax, out=self._amax)
            self._added += seen.stride * len(seen.bins)
            if self._added > np.iinfo(np.int32).max and self._counts.dtype == np.int32:
                self._counts = self._counts.astype(np.int64)
            stride = self._counts.dtype.type(seen.stride)  # of its type: else it is 50 times slower
            np.add.at(self._counts.reshape(-1), seen.bins, stride)

    def channels(self) -> Channels | None:
        """Of a tensor that can be rescaled."""
        return None if self._axes is None else Channels(self._counts.astype(np.int64), self._amax)

    def sums(self, amax: float) -> Sums | None:
        """Of a tensor that weights read, unless its largest magnitude is too large to sum exactly."""
        return self._sums and self._sums.within(amax)

    def _positions(self, shape: tuple[int, ...], stride: int, axes: tuple[int, ...]) -> np.ndarray:
        """The position along these axes, as if they were one, of every stride-th element, int32; of the last shape it
        is remembered."""
        known_shape, known_stride, known = self._known
        if (known_shape, known_stride) != (shape, stride):
            known = {}
            self._known = (shape, stride, known)
        if axes not in known:
            known[axes] = self._positions_of(np.arange(0, math.prod(shape), stride), shape, axes).astype(np.int32)
        return known[axes]

    def _positions_of(self, places: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> np.ndarray:
        if self._block:
            block, image = self._block, math.prod(shape[2:])
            return places % (shape[1] * image) // (image * block) * block + places % block
        at = np.zeros_like(places)
        for axis in axes:
            behind = math.prod(shape[axis + 1 :])
            at = at * shape[axis] + (places // behind if behind > 1 else places) % shape[axis]
        return at

    def _largest(self, values: np.ndarray, signed: bool) -> np.ndarray:
        whole = self._reduced(values, np.maximum)
        if signed:
            whole = np.maximum(whole, -self._reduced(values, np.minimum))
        if self._plain:
            return whole
        found = np.zeros(len(self._amax), dtype=np.float32)
        np.maximum.at(found, self._local, whole)
        return found

    def _reduced(self, values: np.ndarray, function: np.ufunc) -> np.ndarray:
        """By position along the axes of the layout, as if they were one."""
        axes, shape = self._axes or (), values.shape
        if self._block:
            blocks = shape[0] * shape[1] // self._block
            whole = _over_places(values.reshape(blocks, -1, self._block), function)
            whole = function.reduce(whole.reshape(shape[0], -1), axis=0)
        elif len(axes) == 1:
            before, behind = math.prod(shape[: axes[0]]), math.prod(shape[axes[0] + 1 :])
            split = values.reshape(before, shape[axes[0]], behind)
            whole = function.reduce(split[..., 0] if behind == 1 else function.reduce(split, axis=2), axis=0)
        else:
            whole = function.reduce(values, axis=tuple(axis for axis in range(values.ndim) if axis not in axes))
        return np.asarray(whole).reshape(-1)


def _over_places(split: np.ndarray, function: np.ufunc) -> np.ndarray:
    """[blocks, places, block] over the places, in long rows: short ones take a call each."""
    blocks, places, block = split.shape
    rows = math.gcd(places, 64)
    if rows * block >= _LONG:
        split = function.reduce(split.reshape(blocks, places // rows, rows * block), axis=1).reshape(
            blocks, rows, block
        )
    while split.shape[1] > 1:
        half = split.shape[1] // 2
        first = function(split[:, :half], split[:, half : 2 * half])
        if split.shape[1] % 2:
            function(first[:, :1], split[:, -1:], out=first[:, :1])
        split = first
    return split[:, 0]
