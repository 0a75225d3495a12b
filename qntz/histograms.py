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
Histograms = Mapping[str, "Histogram"]


@dataclass(frozen=True)
class Histogram:
    """What was seen of one tensor.

    Attributes:
        counts: int64 [65536], by the upper 16 bits of the value. minimum, maximum: exact, over all elements.
    """

    counts: np.ndarray
    minimum: float
    maximum: float

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
        return Histogram(self.counts + other.counts, min(self.minimum, other.minimum), max(self.maximum, other.maximum))


def histogram_of(values: np.ndarray, stride: int = 1) -> Histogram:
    """The histogram of float32 values of any shape; every `stride`-th element is counted, minimum and maximum are of
    all. Values must be finite."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    upper = flat.view(np.uint16)[1 :: 2 * stride]  # little-endian: the upper half comes second
    counts = np.bincount(upper, minlength=BINS)
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
    return arrays


def histograms_from(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, Histogram]:
    """The inverse of `arrays_of`; raises ArtifactError where an array is missing."""
    try:
        histograms = {}
        for index, name in enumerate(arrays["names"]):
            counts = np.zeros(BINS, dtype=np.int64)
            counts[arrays[f"bins/{index:05}"]] = arrays[f"counts/{index:05}"]
            histograms[str(name)] = Histogram(counts, *(float(v) for v in arrays["ranges"][index]))
        return histograms
    except KeyError as error:
        raise ArtifactError("holds no histograms", where=where, why=f"no array {error}") from None


def data_files(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The files of data that histograms were made from: SHA-256 by path."""
    return {str(path): str(digest) for path, digest in arrays.get("made_from", ())}
