"""What int8 takes before any Q/DQ is written: which nodes, rescaled channels, and the ranges of what they read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qntz.config import QuantizeConfig
from qntz.errors import QuantizeError, did_you_mean
from qntz.histograms import Histogram
from qntz.origins import Origin
from qntz.packed import packed
from qntz.quantizable import Candidate, candidates
from qntz.quantize.auto import Judge
from qntz.quantize.biases import correct_biases
from qntz.quantize.int8 import to_int8
from qntz.quantize.patterns import excluded_by, matching
from qntz.quantize.ranges import thresholds, zeros
from qntz.quantize.rescaling import rescale
from qntz.records import Arrays, ThresholdMethod


@dataclass(frozen=True)
class Prepared:
    """A graph of which any nodes can be quantized.

    Attributes:
        model: the float graph, rescaled. chosen: the nodes to quantize. ranges: amax by tensor.
        histograms: of the rescaled graph, by tensor.
        means: of activations, by tensor, float64 by channel. correct: whether biases make up for the rounding of
            weights.
        method: of the thresholds. skipped: the reason by node. rescaled: the exponents of channels by node.
        compared: what the judge measured.
    """

    model: onnx.ModelProto
    chosen: tuple[Candidate, ...]
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
        ranges = {tensor: self.ranges[tensor] for one in among for tensor in one.activations}
        graph = to_int8(self.model, among, dict(sorted(ranges.items())))
        return graph, correct_biases(graph, among, self.means) if self.correct else []


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
        model: read from `onnx_path`; it is rescaled in place. judge: chooses the method, where there is one.
    """
    found = candidates(model)
    excluded = excluded_by(config.exclude, [candidate.node for candidate in found], come_from)
    skipped = {c.node: excluded.get(c.node, c.refusal) for c in found if c.node in excluded or c.refusal}
    wanted = [candidate for candidate in found if candidate.node not in skipped]
    by_node: dict[str, list[int]] = {}
    if config.rescale:
        by_node, histograms = rescale(model, wanted, histograms, onnx_path, probes)
    zero = zeros(wanted, histograms)
    skipped.update(zero)
    chosen = [candidate for candidate in wanted if candidate.node not in zero]
    if not chosen and not excluded:
        reasons = sorted(set(skipped.values()))
        raise QuantizeError(
            "int8 would quantize nothing",
            why="; ".join(reasons) or "the graph has no Conv, ConvTranspose, Gemm or MatMul",
            do="Choose another precision.",
        )
    own = _own_ranges(chosen, histograms, config, methods, come_from)
    means = {name: sums.means for name, one in histograms.items() if (sums := one.sums) is not None}

    def ready(method: str, correct: bool, compared: Sequence[dict[str, Any]] = ()) -> Prepared:
        ranges = {**thresholds(chosen, histograms, methods[method], config.options), **own}
        skips = dict(sorted(skipped.items()))
        return Prepared(
            model, tuple(chosen), ranges, histograms, means, correct, method, skips, by_node, tuple(compared)
        )

    if judge is None:
        return ready(config.method, config.correct_biases)
    if config.options:
        raise QuantizeError("options are one method's", where="quantize.options", do="Name the method.")
    best = judge.best(
        (names, lambda n=names: packed(ready(n["method"], n["correct_biases"]).graph()[0], "quantized.onnx"))
        for names in (
            {"method": name, "correct_biases": correct}
            for name in sorted(methods)
            for correct in ((False, True) if config.correct_biases else (False,))
        )
    )
    return ready(best["method"], best["correct_biases"], judge.compared)


def _own_ranges(
    chosen: Sequence[Candidate],
    histograms: Mapping[str, Histogram],
    config: QuantizeConfig,
    methods: Mapping[str, ThresholdMethod],
    come_from: Mapping[str, Origin],
) -> dict[str, float]:
    """The ranges of tensors whose readers have a method of their own (`config.layers`)."""
    ranges: dict[str, float] = {}
    owner: dict[str, str] = {}
    for pattern, settings in config.layers.items():
        where = f"quantize.layers.{pattern}"
        name = str(settings.get("method", config.method))
        if name not in methods:
            raise QuantizeError(f"no threshold method {name!r}", where=where, do=did_you_mean(name, list(methods)))
        matched = matching(pattern, [candidate.node for candidate in chosen], come_from, where)
        among = [candidate for candidate in chosen if candidate.node in matched]
        for tensor, amax in thresholds(among, histograms, methods[name], settings.get("options", {})).items():
            if owner.setdefault(tensor, pattern) != pattern and ranges[tensor] != amax:
                raise QuantizeError(
                    f"tensor {tensor!r} is given two ranges",
                    where=where,
                    why=f"{owner[tensor]!r} matches another of its readers",
                    do="Give all that read it one method.",
                )
            ranges[tensor] = amax
    return ranges
