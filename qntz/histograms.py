"""Activation histograms: log-spaced bins made of the upper 16 bits of a float32 (sign, exponent, 7 bits of mantissa).

No range is needed beforehand, so that one pass suffices; counts add up, so that they do not depend on order or
batching. A bin is at most 0.8 % wide; the exact minimum and maximum stand beside the counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qntz.errors import ArtifactError

BINS = 1 << 16
CHANNEL_BINS = 384  # by magnitude, 8 an octave from 2 ** -32 on; the first has what is smaller, the last what is larger
_LEAST = (127 - 32) * 8  # of the upper 12 bits of a float32 without its sign: 8 of exponent and 3 of mantissa
_FINER = BINS // 2 // (256 * 8)  # bins of a tensor in one of a channel
_PARTS = 2.0**40
_SUMMED = 2.0**62  # what a sum stays below, so that whole numbers of 64 bits hold it in whatever order
Histograms = Mapping[str, "Histogram"]


@dataclass(frozen=True)
class Channels:
    """What was seen of a tensor's channels, coarser than of the tensor.

    Attributes:
        counts: int64 [C, 384], by magnitude. amax: the largest magnitudes, exact, float32 [C].
    """

    counts: np.ndarray
    amax: np.ndarray

    def moments(self) -> np.ndarray:
        """The mean square of each channel, float64 [C], by the middles of the bins."""
        total = np.maximum(self.counts.sum(1), 1)
        return self.counts @ channel_middles() ** 2 / total

    def merged(self, other: Channels) -> Channels:
        return Channels(self.counts + other.counts, np.maximum(self.amax, other.amax))

    def divided(self, exponents: np.ndarray, *, signed: bool) -> Histogram:
        """The histogram of the tensor whose channels are divided by 2 ** exponents, integers [C]. A power of two moves
        a bin onto another exactly; of signs is kept whether there are any, and the counts of a bin are spread evenly
        over its finer ones."""
        coarse = np.zeros(256 * 8, dtype=np.int64)
        for exponent in np.unique(exponents):
            counts = self.counts[exponents == exponent].sum(0)
            coarse[0] += counts[0]  # what is next to zero
            at = np.clip(np.arange(1, CHANNEL_BINS) + _LEAST - 8 * int(exponent), 0, len(coarse) - 9)
            np.add.at(coarse, at, counts[1:])
        share, rest = np.divmod(coarse, _FINER)
        fine = share[:, None] + (np.arange(_FINER) < rest[:, None])
        fine[0] = 0
        fine[0, 0] = coarse[0]
        counts = np.zeros(BINS, dtype=np.int64)
        counts[: BINS // 2] = fine.reshape(-1)
        largest = float((self.amax * np.exp2(-exponents.astype(np.float64))).max(initial=0.0))
        return Histogram(counts, -largest if signed else 0.0, largest)


@dataclass(frozen=True)
class Sums:
    """The sums over a tensor's channels, exact whatever the order: fixed-point numbers in two parts.

    Attributes:
        whole, parts: int64 [C]; a sum is whole + parts / 2 ** 40. counts: int64 [C], how many elements went into it.
    """

    whole: np.ndarray
    parts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, counts: np.ndarray) -> Sums:
        """sums: float64 [C]. counts: integers [C]."""
        whole = np.clip(np.rint(sums), -_SUMMED, _SUMMED)
        sums = np.clip(sums, -_SUMMED, _SUMMED)
        return cls(whole.astype(np.int64), np.rint((sums - whole) * _PARTS).astype(np.int64), counts.astype(np.int64))

    @property
    def means(self) -> np.ndarray:
        """The mean of each channel, float64 [C]; 0 where nothing was seen."""
        return (self.whole + self.parts / _PARTS) / np.maximum(self.counts, 1)

    def divided(self, exponents: np.ndarray) -> Sums:
        """Those of the channels divided by 2 ** exponents, integers [C]."""
        sums = (self.whole + self.parts / _PARTS) * np.exp2(-exponents.astype(np.float64))
        return Sums.of(sums, self.counts)

    def merged(self, other: Sums) -> Sums:
        return Sums(self.whole + other.whole, self.parts + other.parts, self.counts + other.counts)

    def within(self, amax: float) -> Sums | None:
        """Itself, or None where elements of this magnitude may have summed to more than it holds."""
        return self if amax * float(self.counts.max(initial=0)) < _SUMMED else None


def channel_bins(values: np.ndarray) -> np.ndarray:
    """The bin of `Channels.counts` of each float32, int64."""
    upper = values.view(np.uint32) >> 20 & 0x7FF
    return np.clip(upper.astype(np.int64) - _LEAST, 0, CHANNEL_BINS - 1)


def channel_middles() -> np.ndarray:
    """The middle magnitude of each bin of `Channels.counts`, float64 [384]; 0 for the first."""
    low = ((np.arange(CHANNEL_BINS, dtype=np.uint32) + _LEAST) << 20).view(np.float32).astype(np.float64)
    high = ((np.arange(CHANNEL_BINS, dtype=np.uint32) + _LEAST + 1) << 20).view(np.float32).astype(np.float64)
    return np.where(np.arange(CHANNEL_BINS), (low + high) / 2, 0.0)


@dataclass(frozen=True)
class Histogram:
    """What was seen of one tensor.

    Attributes:
        counts: int64 [65536], by the upper 16 bits of the value. minimum, maximum: exact, over all elements.
        channels: of a tensor that can be rescaled by channel, in the order of `qntz.scalable`.
        sums: along the axis that weights read, `qntz.quantizable.read_axes`.
    """

    counts: np.ndarray
    minimum: float
    maximum: float
    channels: Channels | None = None
    sums: Sums | None = None

    @property
    def amax(self) -> float:
        """The largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """The non-empty bins by magnitude, rising: (magnitude float64 [k], the middle of each bin but at most `amax`;
        count int64 [k], both signs together)."""
        both = self.counts[: BINS // 2] + self.counts[BINS // 2 :]
        bins = np.flatnonzero(both)
        low = (bins.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        high = ((bins.astype(np.uint32) << 16) | 0xFFFF).view(np.float32).astype(np.float64)
        return np.minimum((low + high) / 2, self.amax), both[bins]

    def merged(self, other: Histogram) -> Histogram:
        """The histogram of both sets of elements."""
        both = self.channels and other.channels and self.channels.merged(other.channels)
        low, high = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        sums = self.sums and other.sums and self.sums.merged(other.sums).within(max(abs(low), abs(high)))
        return Histogram(self.counts + other.counts, low, high, both, sums)


def counts_of(values: np.ndarray, stride: int = 1) -> np.ndarray:
    """The counts, int64 [65536], of every `stride`-th of float32 values of any shape."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    upper = flat.view(np.uint16)[1 :: 2 * stride]  # little-endian: the upper half comes second
    return np.bincount(upper, minlength=BINS)


def histogram_of(values: np.ndarray, stride: int = 1) -> Histogram:
    """The histogram of float32 values of any shape; every `stride`-th element is counted, minimum and maximum are of
    all. Values must be finite."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    counts = counts_of(flat, stride)
    return Histogram(counts, float(flat.min()) + 0.0, float(flat.max()) + 0.0)  # which of two zeros is first is chance


def coprime_stride(shape: Sequence[int], least: int) -> int:
    """The smallest stride from `least` on that has no factor in common with any size of the shape, so that it visits
    each position of each axis as often as another; 1 for 1."""
    size = math.prod(shape)
    return next(stride for stride in itertools.count(least) if math.gcd(stride, size) == 1)


def arrays_of(histograms: Histograms, made_from: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """The histograms as arrays for an .npz: names, ranges float64 [n, 2], the non-empty bins of each, and the files of
    data that they were made from, path and SHA-256 as text [m, 2]."""
    names = sorted(histograms)
    arrays: dict[str, np.ndarray] = {
        "names": np.array(names, dtype=np.str_),
        "ranges": np.array([[histograms[n].minimum, histograms[n].maximum] for n in names], dtype="<f8").reshape(-1, 2),
        "made_from": np.array(sorted((made_from or {}).items()), dtype=np.str_).reshape(-1, 2),
    }
    for index, name in enumerate(names):
        bins = np.flatnonzero(histograms[name].counts)
        arrays[f"bins/{index:05}"] = bins.astype("<u2")
        arrays[f"counts/{index:05}"] = histograms[name].counts[bins].astype("<i8")
        if (channels := histograms[name].channels) is not None:
            places = np.flatnonzero(channels.counts)
            arrays[f"channels/{index:05}/places"] = places.astype("<u4")
            arrays[f"channels/{index:05}/counts"] = channels.counts.reshape(-1)[places].astype("<i8")
            arrays[f"channels/{index:05}/amax"] = channels.amax.astype("<f4")
        if (sums := histograms[name].sums) is not None:
            arrays[f"sums/{index:05}"] = np.stack([sums.whole, sums.parts, sums.counts]).astype("<i8")
    return arrays


def histograms_from(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, Histogram]:
    """The inverse of `arrays_of`; raises ArtifactError where an array is missing."""
    try:
        histograms = {}
        for index, name in enumerate(arrays["names"]):
            counts = np.zeros(BINS, dtype=np.int64)
            counts[arrays[f"bins/{index:05}"]] = arrays[f"counts/{index:05}"]
            low, high = (float(value) for value in arrays["ranges"][index])
            sums = arrays.get(f"sums/{index:05}")
            histograms[str(name)] = Histogram(
                counts, low, high, _channels_from(arrays, f"channels/{index:05}"), None if sums is None else Sums(*sums)
            )
        return histograms
    except KeyError as error:
        raise ArtifactError("holds no histograms", where=where, why=f"no array {error}") from None


def _channels_from(arrays: Mapping[str, np.ndarray], key: str) -> Channels | None:
    if f"{key}/amax" not in arrays:
        return None
    amax = arrays[f"{key}/amax"]
    counts = np.zeros((len(amax), CHANNEL_BINS), dtype=np.int64)
    counts.reshape(-1)[arrays[f"{key}/places"]] = arrays[f"{key}/counts"]
    return Channels(counts, amax)


def data_files(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The files of data that histograms were made from: SHA-256 by path."""
    return {str(path): str(digest) for path, digest in arrays.get("made_from", ())}
