"""From histograms to ranges: thresholds by a method, and scales."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from qntz.errors import PluginError, QntzError, QuantizeError, did_you_mean, one_line
from qntz.histograms import Histogram
from qntz.quantizable import Candidate
from qntz.quantize.formats import INT8, Format
from qntz.quantize.weights import Scaling
from qntz.records import ThresholdMethod


def scale_of(amax: float, format: Format = INT8) -> np.float32:
    """The scale under which magnitudes up to `amax` become numbers of the format."""
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(amax / format.largest)


def thresholds(
    candidates: Iterable[Candidate],
    histograms: Mapping[str, Histogram],
    method: ThresholdMethod,
    options: Mapping[str, Any],
    scaling: Scaling,
    where: str = "quantize",
) -> dict[str, float]:
    """The range of every activation that the candidates read: amax by tensor, sorted; with scales of half precision
    what these make of it.

    Raises:
        QuantizeError: the method is not for this format, has no such option, or gives no usable threshold.
        PluginError: the method raised.
    """
    if scaling.format.name not in method.precisions:
        raise QuantizeError(
            f"method {method.name!r} is for {' and '.join(method.precisions)}, not {scaling.format.name}",
            where=f"{where}.method",
            do="Set method: max." if scaling.format.name != "int8" else "Choose another.",
        )
    _require_options(method, options, where)
    tensors = dict.fromkeys(tensor for candidate in candidates for tensor in candidate.activations)
    ranges = {tensor: _threshold(tensor, histograms[tensor], method, options, scaling) for tensor in tensors}
    return dict(sorted(ranges.items()))


def zeros(candidates: Iterable[Candidate], histograms: Mapping[str, Histogram]) -> dict[str, str]:
    """The reason by node for those that stay in floating point because an input was zero wherever it was seen.

    Raises:
        QuantizeError: a tensor has no histogram.
    """
    zero: dict[str, str] = {}
    for candidate in candidates:
        for tensor in candidate.activations:
            if tensor not in histograms:
                raise QuantizeError(
                    f"no histogram of {tensor!r}",
                    where=candidate.node,
                    why="the calibration data never gave it an element, or the histograms are of another graph",
                    do="Run calibrate again with `calibrate.needed: true`, or add the node to quantize.exclude.",
                )
            if histograms[tensor].amax == 0:
                zero[candidate.node] = f"its input {tensor!r} was zero on all calibration data"
    return zero


def _require_options(method: ThresholdMethod, options: Mapping[str, Any], where: str) -> None:
    parameters = list(inspect.signature(method.threshold).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for name in options:
        if name not in names:
            raise QuantizeError(
                f"method {method.name!r} has no option {name!r}", where=f"{where}.options", do=did_you_mean(name, names)
            )


def _threshold(
    tensor: str, histogram: Histogram, method: ThresholdMethod, options: Mapping[str, Any], scaling: Scaling
) -> float:
    try:
        amax = float(method.threshold(histogram, **options))
    except QntzError:
        raise
    except Exception as error:
        raise PluginError(f"threshold method {method.name!r} fails", where=tensor, why=one_line(error)) from error
    if not (math.isfinite(amax) and np.finfo(np.float32).tiny <= scale_of(amax, scaling.format) < math.inf):
        raise QuantizeError(
            f"method {method.name!r} gives {amax:g} as threshold",
            where=tensor,
            why="a scale of float32 must come of it",
            do="Choose another method, or exclude the node.",
        )
    if not scaling.half:
        return amax
    return float(scaling.held(np.float64([amax / scaling.format.largest]), tensor)[0]) * scaling.format.largest
