"""Compares the finished engine with the eager model, on the probes and on the test data, and judges it.

Where the engine cannot be run, the figures are those of the quantized graph under ONNX Runtime, and the result says so:
they are never given out as the engine's.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qntz import ort
from qntz.compare import largest_magnitudes, relative_error
from qntz.config import EngineConfig, VerifyConfig
from qntz.errors import ArtifactError, BackendError
from qntz.figures import Batch, Figures, gate, measure, metrics_of, pooled_sqnr_db
from qntz.packed import Packed
from qntz.records import Arrays, Backend, Metric

if TYPE_CHECKING:
    import onnx

PROBE_COLUMNS = ("probe", "output", "shape", "rel_error", "sqnr_db")
LAYER_COLUMNS = ("index", "layer", "tensor", "op", "sqnr_db")


@dataclass(frozen=True)
class Verified:
    """An engine that passed.

    Attributes:
        metrics: flat, for metrics.json, as `qntz.figures.metrics_of` says. engine: "run", or "not run: " with the
        reason and what the figures are of. probe_figures, layer_figures: CSV with the columns `PROBE_COLUMNS` and
        `LAYER_COLUMNS`. figures: all that was measured.
    """

    metrics: dict[str, Any]
    engine: str
    probe_figures: str
    layer_figures: str
    figures: Figures


def verify(
    *,
    quantized: Path,
    simplified: Path,
    plan: Path,
    backend: Backend,
    engine: EngineConfig,
    precision: str,
    config: VerifyConfig,
    probes: Sequence[Arrays],
    golden: Sequence[Arrays],
    batches: Iterable[Batch],
    reference: Sequence[Arrays],
    metric: Metric | None,
    sizes: Mapping[str, int],
    runnable: Packed | Path | None = None,
) -> Verified:
    """Measures the engine, and lets it pass or raises.

    Args:
        quantized: the graph that the engine was built of. simplified: the fp32 graph before quantization.
        runnable: stands for `quantized` where ONNX Runtime has no kernels for its types (bf16).
        precision: that stands in the graph. sizes: bytes of the artifacts, by the names that metrics.json gives them.
        probes, golden, batches, reference, metric: as `qntz.figures.measure` takes them.

    Raises:
        ArtifactError: there are no probes, or not one eager run for each.
        ParityError: the figures are not within `config.tolerance`.
        BackendError: the engine cannot be loaded or run, or cannot be run here although `config.require_run` asks it.
        DataError: the test data do not fit.
    """
    if not probes or len(probes) != len(golden):
        why, do = f"{len(probes)} probes, {len(golden)} runs of the eager model", "Run `dvc repro`."
        raise ArtifactError("the probes do not fit the eager model's outputs", why=why, do=do)
    graph = quantized if runnable is None else runnable
    why_not = backend.why_not_run(engine)
    if why_not is None:
        run, where, engine_said = backend.load(plan, engine).run, str(plan), "run"
    elif config.require_run:
        raise BackendError(
            "the engine cannot be run here",
            where=str(plan),
            why=why_not,
            do="Verify on a machine with the target GPU, or set verify.require_run: false.",
        )
    else:
        run, where = _onnx_runner(graph), str(quantized)
        chosen = ", in explicit Q/DQ: the engine has its ranges, and TensorRT chose its layers' precision"
        other = chosen if engine.implicit_int8 else ""
        engine_said = f"not run: {why_not}; the figures are of {quantized.name} under ONNX Runtime{other}"
    figures = measure(run, probes, golden, batches, reference, metric)
    gate(figures, precision, config.tolerance, metric, where)
    layers = layer_figures(simplified, graph, probes[0])
    return Verified(
        metrics=metrics_of(figures, metric, sizes, "yes" if why_not is None else f"no: {why_not}"),
        engine=engine_said,
        probe_figures=_csv(PROBE_COLUMNS, _probe_rows(figures)),
        layer_figures=_csv(LAYER_COLUMNS, ((i, n, t, o, _decibel(s)) for i, n, t, o, s in layers)),
        figures=figures,
    )


def layer_figures(simplified: Path, quantized: Packed | Path, probe: Arrays) -> list[tuple[int, str, str, str, float]]:
    """How far each intermediate tensor is from the unquantized graph's, on one probe.

    Compared are the floating tensors that a node of both top-level graphs yields under one name. Neither graph is
    optimized, so that Q/DQ means what it says and no tensor is fused away. Where channels were rescaled for the
    quantization, those of the simplified graph are rescaled alike.

    Returns:
        By position in the simplified graph: (that position, the node's name as `quantize.exclude` knows it, the tensor,
        the operator, SQNR in dB, infinite where both are equal).
    """
    import onnx

    from qntz.packed import packed, read_model
    from qntz.quantizable import node_names
    from qntz.scalable import divide, divided, scalable

    actual = quantized.model() if isinstance(quantized, Packed) else read_model(quantized)
    models = {"expected": read_model(simplified), "actual": actual}
    if by_node := divided(actual):
        found = scalable(models["expected"])
        divide(models["expected"], found, found.exponents(by_node))
    yielded = {name: _yielded(model.graph) for name, model in models.items()}
    names = node_names(models["expected"].graph)
    shared = [tensor for tensor in yielded["expected"] if tensor in yielded["actual"]]
    values: dict[str, Arrays] = {}
    for name, model in models.items():
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in shared if tensor not in known)
        values[name] = ort.run(ort.session(packed(model, f"{name}.onnx"), optimize=ort.DISABLE), probe)
    figures = []
    for tensor in shared:
        expected, actual = values["expected"][tensor], values["actual"][tensor]
        if not all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in (expected, actual)):
            continue
        index, operator = yielded["expected"][tensor]
        figures.append((index, names[index], tensor, operator, pooled_sqnr_db([actual], [expected])))
    return figures


def _onnx_runner(graph: Packed | Path) -> Callable[[Arrays], Arrays]:
    session = ort.session(graph)
    return lambda inputs: ort.run(session, inputs)


def _yielded(graph: onnx.GraphProto) -> dict[str, tuple[int, str]]:
    """The tensors that nodes of the top-level graph compute, with the node's position and operator."""
    return {
        tensor: (index, node.op_type)
        for index, node in enumerate(graph.node)
        if node.op_type != "Constant"
        for tensor in node.output
        if tensor
    }


def _probe_rows(figures: Figures) -> Iterator[tuple[Any, ...]]:
    largest = largest_magnitudes(figures.golden)
    for probe, (got, wanted) in enumerate(zip(figures.outputs, figures.golden, strict=True)):
        for name, reference in wanted.items():
            floating = reference.dtype.kind == "f"
            decibels = _decibel(pooled_sqnr_db([got[name]], [reference])) if floating else ""
            error = f"{relative_error(got[name], reference, largest[name]):.6g}"
            yield probe, name, "x".join(map(str, got[name].shape)), error, decibels


def _decibel(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
