"""What is decided before any Q/DQ is written: which nodes, rescaled channels, and the ranges of what they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qntz.config import BLOCKS, QuantizeConfig
from qntz.errors import QuantizeError, did_you_mean
from qntz.histograms import Histogram
from qntz.origins import Origin
from qntz.packed import packed
from qntz.quantizable import Candidate, candidates
from qntz.quantize.auto import AUTO, Judge
from qntz.quantize.biases import correct_biases
from qntz.quantize.formats import FORMATS, HALF_OPSET, INT8
from qntz.quantize.int4 import to_int4
from qntz.quantize.opsets import raised
from qntz.quantize.pairs import with_pairs
from qntz.quantize.patterns import excluded_by, matching
from qntz.quantize.ranges import thresholds, zeros
from qntz.quantize.rescaling import rescale
from qntz.quantize.weights import Scaling, Weights
from qntz.records import Arrays, ThresholdMethod


@dataclass(frozen=True)
class Prepared:
    """A graph of which any nodes can be quantized.

    Attributes:
        model: the float graph, rescaled, in an opset that has the format. chosen: the nodes to quantize. weights: of
            the model. ranges: amax by tensor, none where weights alone are quantized.
        histograms: of the rescaled graph, by tensor.
        means: of activations, by tensor, float64 by channel. correct: whether biases make up for the rounding of
            weights.
        method: of the thresholds. skipped: the reason by node. rescaled: the exponents of channels by node.
        compared: what the judge measured.
    """

    model: onnx.ModelProto
    chosen: tuple[Candidate, ...]
    weights: Weights
    ranges: dict[str, float]
    histograms: Mapping[str, Histogram]
    means: dict[str, np.ndarray]
    correct: bool
    method: str
    skipped: dict[str, str]
    rescaled: dict[str, list[int]]
    compared: tuple[dict[str, Any], ...] = ()

    def graph(self, nodes: Collection[str] | None = None) -> tuple[onnx.ModelProto, list[str]]:
        """The graph with Q/DQ before these of the chosen nodes, all for None; and those whose biases are corrected."""
        among = [one for one in self.chosen if nodes is None or one.node in nodes]
        if self.weights.scaling.format.activations:
            ranges = {tensor: self.ranges[tensor] for one in among for tensor in one.activations}
            graph = with_pairs(self.model, among, dict(sorted(ranges.items())), self.weights)
        else:
            graph = to_int4(self.model, among, self.weights)
        return graph, correct_biases(graph, among, self.means, self.weights.lost) if self.correct else []


def chooses(config: QuantizeConfig) -> bool:
    """Whether a judge is asked for the method."""
    return config.method == AUTO and FORMATS[config.precision].activations


def prepare(
    model: onnx.ModelProto,
    onnx_path: Path,
    histograms: Mapping[str, Histogram],
    config: QuantizeConfig,
    methods: Mapping[str, ThresholdMethod],
    probes: Sequence[Arrays],
    judge: Judge | None,
    come_from: Mapping[str, Origin],
) -> Prepared:
    """Decides all that `config` asks for; the arguments and errors are those of `qntz.quantize.quantize`.

    Args:
        model: read from `onnx_path`; it may be rescaled in place. judge: chooses the method, where there is one.
    """
    format = FORMATS[config.precision]
    scaling = Scaling(format, config.elsewhere == "fp16", 0 if format.activations else config.block)
    found = candidates(model)
    if not format.activations:
        found = _by_blocks(found, model, scaling)
    excluded = excluded_by(config.exclude, [candidate.node for candidate in found], come_from)
    skipped = {c.node: excluded.get(c.node, c.refusal) for c in found if c.node in excluded or c.refusal}
    wanted = [candidate for candidate in found if candidate.node not in skipped]
    by_node: dict[str, list[int]] = {}
    if wanted:
        key = "quantize.elsewhere" if scaling.half and format.opset < HALF_OPSET else "quantize.precision"
        model = raised(model, max(format.opset, HALF_OPSET if scaling.half else 0), onnx_path, probes, key)
    if config.rescale and format is INT8:
        by_node, histograms = rescale(model, wanted, histograms, onnx_path, probes)
    zero = zeros(wanted, histograms) if format.activations else {}
    skipped.update(zero)
    chosen = [candidate for candidate in wanted if candidate.node not in zero]
    if not chosen and all(one.refusal for one in found if one.node in excluded):
        reasons = sorted({zero.get(one.node, one.refusal) for one in found} - {""})
        raise QuantizeError(
            f"{format.name} would quantize nothing",
            why="; ".join(reasons) or "the graph has no Conv, ConvTranspose, Gemm or MatMul",
            do="Choose another precision.",
        )
    weights = Weights(model, scaling)
    own = _own_ranges(chosen, skipped, histograms, config, methods, come_from, scaling) if format.activations else {}
    means = {name: sums.means for name, one in histograms.items() if (sums := one.sums) is not None}

    def ready(method: str, correct: bool, compared: Sequence[dict[str, Any]] = ()) -> Prepared:
        ranges = {}
        if format.activations:
            ranges = {**thresholds(chosen, histograms, methods[method], config.options, scaling), **own}
        skips = dict(sorted(skipped.items()))
        told = tuple(compared)
        return Prepared(model, tuple(chosen), weights, ranges, histograms, means, correct, method, skips, by_node, told)

    if not format.activations:
        return ready("", config.correct_biases)
    if judge is None:
        return ready(config.method, config.correct_biases)
    if config.options:
        raise QuantizeError("options are one method's", where="quantize.options", do="Name the method.")
    best = judge.best(
        (names, lambda n=names: packed(ready(n["method"], n["correct_biases"]).graph()[0], "quantized.onnx"))
        for names in (
            {"method": name, "correct_biases": correct}
            for name in sorted(methods)
            if format.name in methods[name].precisions
            for correct in ((False, True) if config.correct_biases else (False,))
        )
    )
    return ready(best["method"], best["correct_biases"], judge.compared)


def _by_blocks(found: Sequence[Candidate], model: onnx.ModelProto, scaling: Scaling) -> list[Candidate]:
    """The candidates, refused where their weight is no matrix that blocks divide."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    name = scaling.format.name

    def refusal(one: Candidate) -> str:
        if one.refusal:
            return one.refusal
        if one.weight is None:
            return f"it has no weight, and {name} is for weights alone"
        if one.operator not in ("Gemm", "MatMul"):
            return f"{name} is for the weights of Gemm and MatMul"
        shape = held[one.weight].dims
        if not scaling.block_of(shape, one.axis or 0):
            return f"its {shape[1 - (one.axis or 0)]} inputs are no multiple of {min(BLOCKS)}"
        return ""

    return [dataclasses.replace(one, refusal=refusal(one)) for one in found]


def _own_ranges(
    chosen: Sequence[Candidate],
    skipped: Collection[str],
    histograms: Mapping[str, Histogram],
    config: QuantizeConfig,
    methods: Mapping[str, ThresholdMethod],
    come_from: Mapping[str, Origin],
    scaling: Scaling,
) -> dict[str, float]:
    """The ranges of tensors whose readers have a method of their own (`config.layers`)."""
    ranges: dict[str, float] = {}
    owner: dict[str, str] = {}
    for pattern, settings in config.layers.items():
        where = f"quantize.layers.{pattern}"
        name = str(settings.get("method", config.method))
        if name == AUTO:
            do = "Name a method: auto chooses one for the whole model."
            raise QuantizeError("auto is no method of a layer", where=where, do=do)
        if name not in methods:
            raise QuantizeError(f"no threshold method {name!r}", where=where, do=did_you_mean(name, list(methods)))
        matched = matching(pattern, [*(one.node for one in chosen), *skipped], come_from, where)
        among = [candidate for candidate in chosen if candidate.node in matched]
        options = settings.get("options", {})
        for tensor, amax in thresholds(among, histograms, methods[name], options, scaling, where).items():
            if owner.setdefault(tensor, pattern) != pattern and ranges[tensor] != amax:
                raise QuantizeError(
                    f"tensor {tensor!r} is given two ranges",
                    where=where,
                    why=f"{owner[tensor]!r} matches another of its readers",
                    do="Give all that read it one method.",
                )
            ranges[tensor] = amax
    return ranges
