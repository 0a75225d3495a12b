"""Writes quantized.onnx: the simplified graph in fp32, fp16, bf16, int8, fp8 or int4, as it stands in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qntz.artifacts import write_model
from qntz.config import QuantizeConfig
from qntz.errors import QuantizeError, did_you_mean, one_line
from qntz.figures import Batch
from qntz.graph import add_made_from, check, default_opset, made_from, operators, subgraphs
from qntz.graph_passes import apply_passes, require_known
from qntz.histograms import Histogram
from qntz.origins import Origin, origin_of, origins
from qntz.packed import Packed, packed, read_model
from qntz.quantizable import WEIGHTED_OPS, node_names
from qntz.quantize.auto import AUTO, Judge
from qntz.quantize.cache import as_cache, as_json
from qntz.quantize.formats import FORMATS
from qntz.quantize.half import to_half
from qntz.quantize.losses import changed, kept, poor
from qntz.quantize.patterns import excluded_by
from qntz.quantize.prepared import Prepared, chooses, prepare
from qntz.quantize.twin import runnable
from qntz.records import Arrays, Metric, Provided, ThresholdMethod
from qntz.statements import shown

__all__ = ["Quantized", "calibration_cache", "changed", "chooses", "poor", "quantize", "ranges_json", "runnable"]
READ = {  # of the settings, by precision
    "int8": ("method", "options", "layers", "rescale", "correct_biases", "elsewhere"),
    "fp8": ("method", "options", "layers", "correct_biases", "elsewhere"),
    "int4": ("correct_biases", "elsewhere", "block"),
}
NAME = "quantized.onnx"  # in messages: the path that is written to may be a temporary one


@dataclass(frozen=True)
class Quantized:
    """What was written and why.

    Attributes:
        precision: fp32, fp16, bf16, int8, fp8 or int4. file: the quantized graph. method: the threshold method, "" but
            for int8 and fp8. calibrated: whether histograms were asked for.
        compared: what method "auto" measured: each method, whether with corrected biases, and the figures reached.
        ranges: the largest magnitude of each quantized activation, by tensor.
        quantized: names of the nodes in the lower precision, those of subgraphs left out. skipped: the reason by node.
        passes: what became of each graph pass. notes: what the user should know, a sentence each.
        layers: what each node with Q/DQ keeps of its input and weight, and where it comes from, as `losses.kept` says.
        constants: what became of those that half precision cannot hold (`what`), with their module and statement.
        corrected: the nodes whose biases make up for the rounding of their weights.
        rescaled: the powers of two by which channels were divided, by the node that makes them.
        operators_before, operators_after: how often each operator occurs.
    """

    precision: str
    file: Packed = field(repr=False)
    method: str = ""
    calibrated: bool = False
    compared: tuple[dict[str, Any], ...] = ()
    ranges: dict[str, float] = field(default_factory=dict)
    quantized: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    constants: dict[str, dict[str, str]] = field(default_factory=dict)
    rescaled: dict[str, list[int]] = field(default_factory=dict)
    corrected: tuple[str, ...] = ()
    passes: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    operators_before: dict[str, int] = field(default_factory=dict)
    operators_after: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For quantize.json; the ranges have their own file."""
        return {
            "precision": self.precision,
            "calibrated": self.calibrated,
            "method": self.method,
            "compared": list(self.compared),
            "quantized": list(self.quantized),
            "skipped": self.skipped,
            "layers": self.layers,
            "constants": self.constants,
            "rescaled": self.rescaled,
            "corrected": list(self.corrected),
            "passes": self.passes,
            "notes": list(self.notes),
            "operators_before": self.operators_before,
            "operators_after": self.operators_after,
        }


def quantize(
    onnx_path: Path,
    histograms: Mapping[str, Histogram],
    path: Path | None,
    config: QuantizeConfig,
    *,
    methods: Mapping[str, ThresholdMethod],
    passes: Sequence[Provided] = (),
    data: Mapping[str, str] | None = None,
    probes: Sequence[Arrays] = (),
    held_out: Sequence[Batch] = (),
    metric: Metric | None = None,
    sources: Mapping[str, Mapping[str, str]] | None = None,
) -> Quantized:
    """Quantizes the simplified graph and writes it to `path`, whole or not at all, where one is given.

    Args:
        histograms: by tensor; int8 and fp8 read them, and corrected biases of int4. methods: by name.
        passes: graph passes of phase "quantize", in their order; they run after the precision has changed.
        data: the files that the histograms were made from, SHA-256 by path, for the metadata of a graph with Q/DQ.
        probes: inputs by name, on which a graph that is rescaled, or of a higher opset, is proven equal before it is
            used; the first two are run, and without any, some made of the graph's input types.
        held_out, metric: batches of samples, inputs by name [n, ...] and targets or None, and what is asked of them
            beside SQNR: method "auto" chooses by them.
        sources: of the exported graph, as the export gave them: patterns of `config` match modules too.

    Raises:
        QuantizeError: a weight holds NaN or infinity, an excluded pattern matches nothing, the method is unknown, a
            histogram is missing, rescaling or a higher opset changes an output, or the graph cannot be quantized.
        RewriteError: a required pass did not fire. PluginError: a pass or a method raised.
        ArtifactError: `onnx_path` cannot be read or `path` be written.
    """
    model = read_model(onnx_path)
    require_known(config.forbid, passes)
    if config.method not in (*methods, AUTO):
        do = did_you_mean(config.method, [*methods, AUTO])
        raise QuantizeError(f"no threshold method {config.method!r}", where="quantize.method", do=do)
    before, files, opset = operators(model), made_from(model), default_opset(model)
    come_from = origins(model, sources or {})
    _require_finite(model, onnx_path.name, come_from)
    if config.precision in FORMATS:
        judge = Judge(onnx_path, held_out, metric) if chooses(config) else None
        ready = prepare(model, onnx_path, histograms, config, methods, probes, judge, come_from)
        model, corrected = ready.graph()
        result = {
            "method": ready.method,
            "compared": ready.compared,
            "ranges": ready.ranges,
            "quantized": tuple(candidate.node for candidate in ready.chosen),
            "skipped": ready.skipped,
            "layers": kept(ready, come_from),
            "rescaled": ready.rescaled,
            "corrected": tuple(corrected),
            "notes": (
                *(() if ready.chosen else ("every node that could be is excluded: nothing is quantized",)),
                *_uncorrected(ready),
                *_twice(model, ready),
            ),
        }
        if (raised := default_opset(ready.model)) > opset:
            result["notes"] += (f"the graph is of opset {raised}, not {opset}, which has no such Q/DQ",)
        if config.elsewhere != "fp32":
            model = _elsewhere(model, config.elsewhere, result, come_from)
        files.update(data or {} if config.calibrated else {})
    elif config.precision == "fp32":
        result = {"notes": ("exclude has no effect on fp32",) if config.exclude else ()}
    else:
        model, result = _half(model, config, come_from)
    result["notes"] += _idle(config)
    model, told = apply_passes(model, passes, config.require, config.forbid)
    add_made_from(model, files)
    _check(model, full=config.precision != "bf16")
    file = packed(model, NAME)
    if path is not None:
        write_model(path, file)
    return Quantized(
        config.precision,
        file,
        calibrated=config.calibrated,
        passes=told,
        operators_before=before,
        operators_after=operators(model),
        **result,
    )


def ranges_json(quantized: Quantized) -> dict[str, Any]:
    """The content of ranges.json, as `qntz.quantize.cache.as_json` says."""
    return as_json(quantized.ranges, quantized.precision, quantized.method)


def calibration_cache(quantized: Quantized) -> bytes:
    """The ranges as TensorRT's calibration cache (TensorRT 10 and earlier); for other precisions than int8 it names no
    tensor (a file without a byte would make DVC warn at each run)."""
    return as_cache(quantized.ranges if quantized.precision == "int8" else {}).encode("utf-8")


def _require_finite(model: onnx.ModelProto, where: str, come_from: Mapping[str, Origin]) -> None:
    """Refuses NaN in any initializer, and infinity in a weight; a mask that is added to scores may be infinite."""
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED_OPS for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            continue
        values = onnx.numpy_helper.to_array(tensor)
        kind = "NaN" if np.isnan(values).any() else "infinity" if np.isinf(values).any() else ""
        if kind == "NaN" or (kind and tensor.name in weights):
            origin = origin_of(tensor.name, model, come_from)
            module = f"module {origin.module}" if origin.module else ""
            place = ", ".join(filter(None, (where, module, shown(origin.statement, Path.cwd()))))
            raise QuantizeError(f"initializer {tensor.name!r} holds {kind}", where=place, do="Repair the weights.")


def _uncorrected(ready: Prepared) -> list[str]:
    """A sentence where weights alone are quantized, and what reads them was not seen by the calibration."""
    if not ready.correct or ready.weights.scaling.format.activations:
        return []
    unseen = [one.node for one in ready.chosen if one.activations[0] not in ready.means]
    return [f"no calibration data of what {', '.join(unseen)} read: biases stay"] if unseen else []


def _twice(model: onnx.ModelProto, ready: Prepared) -> list[str]:
    """A sentence for each weight that is stored both ways, because a node that is not quantized reads it too."""
    if ready.weights.scaling.format.activations:  # those stay floating, behind Q/DQ
        return []
    held = {tensor.name for tensor in model.graph.initializer}
    both = sorted({one.weight for one in ready.chosen if one.weight is not None} & held)
    return [f"{name} is stored in floating point too: what is not quantized reads it" for name in both]


def _elsewhere(
    model: onnx.ModelProto, precision: str, result: dict[str, Any], come_from: Mapping[str, Origin]
) -> onnx.ModelProto:
    """The graph with Q/DQ in half precision beside what is quantized; adds to `result` what stays float32, and why."""
    half = to_half(model, precision)
    kept = {name: why for name, why in half.float32.items() if name not in result["quantized"]}
    result["skipped"] = dict(sorted({**result["skipped"], **kept}.items()))
    result["constants"] = _placed(half.constants, model, come_from)
    return half.model


def _half(
    model: onnx.ModelProto, config: QuantizeConfig, come_from: Mapping[str, Origin]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    # If and Loop follow what their subgraphs hold, which patterns do not reach.
    named = zip(model.graph.node, node_names(model.graph), strict=True)
    names = [name for node, name in named if not any(subgraphs(attribute) for attribute in node.attribute)]
    excluded = excluded_by(config.exclude, names, come_from)
    half = to_half(model, config.precision, frozenset(excluded))
    skipped = {**half.float32, **excluded}
    quantized = tuple(name for name in names if name not in skipped)
    return half.model, {
        "quantized": quantized,
        "skipped": dict(sorted(skipped.items())),
        "constants": _placed(half.constants, model, come_from),
        "notes": (),
    }


def _placed(
    constants: Mapping[str, str], model: onnx.ModelProto, come_from: Mapping[str, Origin]
) -> dict[str, dict[str, str]]:
    placed = {}
    for name, what in constants.items():
        origin = origin_of(name, model, come_from)
        placed[name] = {"what": what, "module": origin.module, "statement": origin.statement}
    return placed


def _idle(config: QuantizeConfig) -> tuple[str, ...]:
    """What is set and this precision does not read."""
    default = QuantizeConfig()
    idle = [
        name
        for name in ("method", "options", "layers", "rescale", "correct_biases", "elsewhere", "block")
        if name not in READ.get(config.precision, ()) and getattr(config, name) != getattr(default, name)
    ]
    return tuple(f"{name} has no effect on {config.precision}" for name in idle)


def _check(model: onnx.ModelProto, *, full: bool) -> None:
    """ONNX's own check. Not of bfloat16's types: TensorRT takes it for operators whose schema lists float16 only."""
    try:
        check(model, full=full)
    except Exception as error:
        raise QuantizeError("the quantized graph is no valid ONNX", where=NAME, why=one_line(error)) from error
