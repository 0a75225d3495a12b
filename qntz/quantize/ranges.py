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
from qntz.records import ThresholdMethod

INT8_MAX = 127


def scale_of(amax: float) -> np.float32:
    """The step of symmetric int8 that represents magnitudes up to `amax`."""
    return np.float32(amax / INT8_MAX)


def thresholds(
    candidates: Iterable[Candidate],
    histograms: Mapping[str, Histogram],
    method: ThresholdMethod,
    options: Mapping[str, Any],
) -> dict[str, float]:
    """The range of every activation that the candidates read: amax by tensor, sorted.

    Raises:
        QuantizeError: the method has no such option, or gives no usable threshold. PluginError: the method raised.
    """
    _require_options(method, options)
    tensors = dict.fromkeys(tensor for candidate in candidates for tensor in candidate.activations)
    ranges = {tensor: _threshold(tensor, histograms[tensor], method, options) for tensor in tensors}
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


def _require_options(method: ThresholdMethod, options: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(method.threshold).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for name in options:
        if name not in names:
            raise QuantizeError(
                f"method {method.name!r} has no option {name!r}", where="quantize.options", do=did_you_mean(name, names)
            )


def _threshold(tensor: str, histogram: Histogram, method: ThresholdMethod, options: Mapping[str, Any]) -> float:
    try:
        amax = float(method.threshold(histogram, **options))
    except QntzError:
        raise
    except Exception as error:
        raise PluginError(f"threshold method {method.name!r} fails", where=tensor, why=one_line(error)) from error
    if not (math.isfinite(amax) and scale_of(amax) >= np.finfo(np.float32).tiny):
        raise QuantizeError(
            f"method {method.name!r} gives {amax:g} as threshold",
            where=tensor,
            why="a scale of float32 must come of it",
            do="Choose another method, or exclude the node.",
        )
    return amax
