"""The shipped threshold methods: how much of an activation's range int8 shall cover.

Each is a pure function of `Histogram.magnitudes()` and returns amax, the largest magnitude to represent, in the
tensor's units; 0.0 for a tensor of zeros. int8 then has the scale amax / 127, fp8 amax / 448.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qntz.errors import QuantizeError
from qntz.histograms import Histogram
from qntz.hookspecs import hookimpl
from qntz.records import ThresholdMethod

LEVELS = 127  # int8, symmetric: -127..127
KL_BINS = 2048
KL_LEVELS = 128
MSE_OCTAVES = 10  # the search ends at amax / 1024
MSE_COARSE, MSE_FINE = 16, 128  # candidates an octave: 4.4 % apart, then 0.5 % around the best


@hookimpl
def qntz_threshold_methods() -> Iterator[ThresholdMethod]:
    yield ThresholdMethod("max", largest, ("int8", "fp8"))
    yield ThresholdMethod("percentile", percentile_of, ("int8", "fp8"))
    yield ThresholdMethod("mse", least_squared_error)
    yield ThresholdMethod("entropy", least_divergence)


def largest(histogram: Histogram) -> float:
    """The largest magnitude seen: nothing is clipped."""
    return histogram.amax


def percentile_of(histogram: Histogram, percentile: float = 99.99) -> float:
    """The magnitude that `percentile` per cent of the elements do not exceed, to within a bin (0.8 %).

    Raises:
        QuantizeError: percentile is not above 0 and at most 100.
    """
    if not isinstance(percentile, (int, float)) or not 0 < percentile <= 100:
        raise QuantizeError(f"{percentile!r} is no percentage", where="quantize.options.percentile", do="Give 0..100.")
    if percentile == 100:
        return histogram.amax
    magnitude, count = histogram.magnitudes()
    seen = np.cumsum(count)
    return float(magnitude[min(np.searchsorted(seen, seen[-1] * percentile / 100), len(seen) - 1)])


def least_squared_error(histogram: Histogram) -> float:
    """The threshold with the least expected squared error of int8, rounding and clipping together.

    Elements are taken to spread evenly within a bin, and the error is integrated over it: near the top a bin is about
    as wide as a step of int8, so that its middle alone would say nothing about rounding.
    """
    if histogram.amax == 0:
        return 0.0
    low, high, count = _edges(histogram)
    wide = high > low
    points, weight = low[~wide], count[~wide]  # bins of no width: the top one, where amax is its lower edge
    low, high, density = low[wide], high[wide], count[wide] / (high - low)[wide]

    def error(octaves: float) -> float:
        scale = histogram.amax * 2.0**-octaves / LEVELS
        spread = scale**3 * float(np.dot(density, _integral(high / scale) - _integral(low / scale)))
        rounded = scale * np.minimum(np.rint(points / scale), LEVELS)
        return spread + float(np.dot(weight, np.square(points - rounded)))

    coarse = min((i / MSE_COARSE for i in range(MSE_OCTAVES * MSE_COARSE + 1)), key=error)
    steps = MSE_FINE // MSE_COARSE
    fine = (max(coarse + i / MSE_FINE, 0.0) for i in range(-steps, steps + 1))
    return histogram.amax * 2.0 ** -min(fine, key=error)


def _integral(x: np.ndarray) -> np.ndarray:
    """The integral from 0 to x (x >= 0) of (t - min(round(t), 127))^2 dt."""
    nearest = np.minimum(np.rint(x), LEVELS)
    # Each whole step before contributes 1/12; then the cube grows from the middle of the last step.
    return nearest / 12 + (x - nearest) ** 3 / 3


def least_divergence(histogram: Histogram) -> float:
    """The threshold whose int8 distribution diverges least (Kullback-Leibler) from the clipped original.

    The method of TensorRT's entropy calibrator with 2,048 bins and 128 levels: S. Migacz, "8-bit Inference with
    TensorRT", GTC 2017, https://on-demand.gputechconf.com/gtc/2017/presentation/s7310-8-bit-inference-with-tensorrt.pdf.
    As in NVIDIA's pytorch-quantization the first bin, which the zeros of a ReLU fill, counts as much as the second.
    Nothing is clipped where fewer than 128 bins are filled.
    """
    if histogram.amax == 0:
        return 0.0
    bins = linear_bins(histogram, KL_BINS)
    bins[0] = bins[1]
    divergence = divergences(bins, KL_LEVELS)
    # Of equals the last: what is clipped for no gain is lost.
    kept = KL_BINS - int(np.argmin(divergence[::-1]))
    return histogram.amax * kept / KL_BINS


def divergences(bins: np.ndarray, levels: int) -> np.ndarray:
    """KL divergence of the clipped distribution from its `levels` levels, for each number of bins kept.

    For `kept` bins the reference is the first `kept` with the clipped mass added to the last; the candidate gives every
    filled bin the mean of the filled bins of its level, bin k being in level floor(k * levels / kept). Running totals
    give the sums of all levels at once.

    Args:
        bins: float64 [n], not negative.

    Returns:
        float64 [n - levels + 1] for kept = levels..n; infinite where the last bin kept is empty but mass is clipped,
        and where fewer bins than levels are filled although mass is clipped: each would have a level of its own, and a
        lone bin that takes all the clipped mass would count as exact.
    """
    kept = np.arange(levels, len(bins) + 1)
    total = bins.sum()
    mass = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0], np.cumsum(bins > 0)])
    own = np.concatenate([[0.0], np.cumsum(_x_log_x(bins))])
    starts = -(-np.arange(levels + 1)[None, :] * kept[:, None] // levels)
    level_mass = np.diff(mass[starts], axis=1)
    level_filled = np.diff(filled[starts], axis=1)
    last, clipped = bins[kept - 1], total - mass[kept]
    clipped[kept == len(bins)] = 0.0  # exactly, whatever the sums round to
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean = np.where(level_mass > 0, np.log(level_mass / level_filled), 0.0)
        reference = own[kept - 1] + _x_log_x(last + clipped)
        candidate = (level_mass * log_mean).sum(1) + clipped * log_mean[:, -1]
        divergence = (reference - candidate) / total - np.log(total) + np.log(mass[kept])
    impossible = (clipped > 0) & ((last == 0) | (filled[kept] < levels))
    return np.where(impossible | (mass[kept] == 0), np.inf, divergence)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.where(x > 0, x, 1.0))


def linear_bins(histogram: Histogram, number: int) -> np.ndarray:
    """The counts in `number` bins of equal width over 0..amax, float64; elements spread evenly within a log bin."""
    low, high, count = _edges(histogram)
    width = histogram.amax / number
    wide = high > low
    # The running total is a polygon through the bins' edges; bins of no width (zeros, or an amax at an edge) are steps.
    corners = np.stack([low[wide], high[wide]], axis=1).reshape(-1)
    totals = np.cumsum(count[wide])
    heights = np.stack([totals - count[wide], totals], axis=1).reshape(-1)
    edges = np.arange(number + 1) * width
    bins = np.diff(np.interp(edges, corners, heights)) if corners.size else np.zeros(number)
    np.add.at(bins, np.minimum((low[~wide] / width).astype(np.int64), number - 1), count[~wide])
    return bins


def _edges(histogram: Histogram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper edge of each non-empty magnitude bin, the top one cut at amax, and its count; all float64."""
    magnitude, count = histogram.magnitudes()
    upper_half = magnitude.astype(np.float32).view(np.uint32) >> 16
    low = (upper_half << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    high = ((upper_half << 16) | 0xFFFF).astype(np.uint32).view(np.float32).astype(np.float64)
    return low, np.maximum(low, np.minimum(high, histogram.amax)), count.astype(np.float64)
