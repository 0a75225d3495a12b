"""What each quantized layer keeps of its inputs and of its weight, from the histograms and the weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qntz.histograms import Histogram
from qntz.origins import Origin
from qntz.quantizable import Candidate
from qntz.quantize.formats import INT8, Format
from qntz.quantize.prepared import Prepared
from qntz.quantize.weights import Weights
from qntz.statements import shown


def kept(prepared: Prepared, come_from: Mapping[str, Origin]) -> dict[str, dict[str, Any]]:
    """By node: `inputs_db`, the SQNR in dB of each of its quantized inputs by tensor, `input_db`, the least of them,
    and `weight_db`, that of its weight, both None where none is quantized, `block`, the inputs that share a scale,
    where any do, and its `module` and `statement`."""
    weights = prepared.weights
    format = weights.scaling.format
    inputs = {name: input_db(prepared.histograms[name], amax, format) for name, amax in prepared.ranges.items()}
    told = {}
    for one in prepared.chosen:
        origin = come_from.get(one.node, Origin())
        told[one.node] = {
            "inputs_db": {tensor: round(inputs[tensor], 2) for tensor in one.activations} if inputs else {},
            "input_db": round(min(inputs[tensor] for tensor in one.activations), 2) if inputs else None,
            "weight_db": None if one.weight is None else round(_weight_db(one, weights), 2),
            **({"block": weights.block(one)} if weights.scaling.block else {}),
            "module": origin.module,
            "statement": origin.statement,
        }
    return told


def poor(layers: Mapping[str, Mapping[str, Any]], least_db: float, root: Path) -> list[str]:
    """A sentence for each layer, as `kept` tells them, that keeps less than `least_db` of an input or of its weight,
    with its line in the source below `root`."""
    told = []
    for node, one in layers.items():
        where = _place(one, root)
        for part in ("input", "weight"):
            if one[f"{part}_db"] is not None and one[f"{part}_db"] < least_db:
                told.append(f"{node}{where} keeps {one[f'{part}_db']:g} dB of its {part}")
    return told


def changed(constants: Mapping[str, Mapping[str, str]], root: Path) -> list[str]:
    """A sentence for each constant that half precision cannot hold, as `Quantized.constants` tells them."""
    return [f"{name}{_place(one, root)}: {one['what']}" for name, one in constants.items()]


def _place(one: Mapping[str, Any], root: Path) -> str:
    place = [one["module"], shown(one["statement"], root) if one["statement"] else ""]
    return f" ({', '.join(filter(None, place))})" if any(place) else ""


def input_db(histogram: Histogram, amax: float, format: Format = INT8) -> float:
    """The SQNR of a number format on what the histogram saw, in dB, at most 200, as `Format.noise` expects it."""
    values, counts = histogram.magnitudes()
    return _decibels(float(counts @ values**2), float(counts @ format.noise(values, amax)))


def _weight_db(one: Candidate, weights: Weights) -> float:
    signal = float((weights.array(one).astype(np.float64) ** 2).sum())
    return _decibels(signal, float((weights.lost(one) ** 2).sum()))


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return 200.0
    return min(10 * math.log10(signal / noise), 200.0) if signal else -200.0
