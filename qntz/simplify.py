"""Simplifies an ONNX graph with onnxsim or onnxslim, then by plugins' graph passes, and proves that nothing changed."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz import ort
from qntz.compare import Difference, require_parity
from qntz.errors import ExportError, one_line
from qntz.graph import add_made_from, folded, made_from, nodes_of, operators, with_weights, without_weights
from qntz.graph_passes import apply_passes, require_known
from qntz.packed import Packed, is_large, packed, read_model, size_at, size_of
from qntz.records import Arrays, Provided


@dataclass(frozen=True)
class Simplified:
    """The simplified model as a file, operators and bytes before and after, what the simplifier folded, passes, and
    its parity with eager."""

    file: Packed
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    bytes_before: int
    folded: dict[str, Any]
    passes: list[dict[str, Any]]
    parity: Difference

    @property
    def data(self) -> bytes:
        """The bytes of the file; of a model beyond 2 GB those of its graph."""
        return self.file.data


def simplify(
    path: Path,
    probes: Sequence[Arrays],
    golden: Sequence[Arrays],
    *,
    method: str = "onnxsim",
    tolerance: float = 1e-4,
    passes: Sequence[Provided] = (),
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
) -> Simplified:
    """Simplifies the ONNX model at `path` by `method` and compares it with the eager outputs on every probe.

    Raises:
        ExportError: the simplifier cannot simplify the graph. RewriteError: a required pass did not fire.
        ParityError: outputs differ by more than `tolerance` of the largest magnitude.
    """
    require_known(forbid, passes)
    model = read_model(path)
    before, size = operators(model), size_at(path)
    domains = {node.domain for node in nodes_of(model.graph)}
    try:
        smaller = _simplified(model, method)
    except Exception as error:
        raise ExportError(
            f"{method} cannot simplify the graph",
            where=path.name,
            why=one_line(error),
            do=_another(method),
        ) from error
    _require_own_domains(smaller, domains, method)
    _lift_constants(smaller)
    did = {"name": method, **folded((before, size), (operators(smaller), size_of(smaller)))}
    smaller, told = apply_passes(smaller, passes, require, forbid, probes=probes)
    add_made_from(smaller, made_from(model))
    file = packed(smaller, "simplified.onnx")
    do = f"Set simplify.method to another than {method}, and report it there with model.onnx."
    parity = require_parity(ort.run_all(file, probes), golden, tolerance, "simplified.onnx", do)
    return Simplified(file, before, operators(smaller), size, did, told, parity)


def _simplified(model: Any, method: str) -> Any:
    """By the method; a model beyond 2 GB without its weights, which no simplifier takes, so that nothing is folded into
    them."""
    if not is_large(model):
        return _SIMPLIFIERS[method](model)
    smaller = _SIMPLIFIERS[method](without_weights(model))
    with_weights(smaller, model)
    return smaller


_FOR_ONNXRUNTIME = ("fuse_attention", "fuse_gqa")
"""What onnxsim fuses into operators of ONNX Runtime's own, which no other runtime takes and nobody can quantize."""


def _another(method: str) -> str:
    return "Set simplify.method to another: " + ", ".join(name for name in _SIMPLIFIERS if name != method) + "."


def _require_own_domains(model: Any, before: set[str], method: str) -> None:
    """Refuses operators of domains that the exported graph has not."""
    for node in nodes_of(model.graph):
        if node.domain not in {"", "ai.onnx", *before} and node.domain not in {one.domain for one in model.functions}:
            raise ExportError(
                f"{method} brings in an operator of {node.domain}, {node.op_type}",
                where="simplified.onnx",
                why="only ONNX Runtime takes it",
                do="Set simplify.method to another: "
                + ", ".join(name for name in _SIMPLIFIERS if name != method)
                + ".",
            )


def _onnxsim(model: Any) -> Any:
    with _without_torch():
        import onnxsim
    return onnxsim.simplify(model, skipped_optimizers=list(_FOR_ONNXRUNTIME))[0]


def _onnxslim(model: Any) -> Any:
    import onnxslim

    return onnxslim.slim(model)


_SIMPLIFIERS: dict[str, Callable[[Any], Any]] = {
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "none": lambda model: copy.deepcopy(model),
}


def _lift_constants(model: Any) -> None:
    """Turns the main graph's Constant nodes that hold a tensor into initializers: a weight that is a plain attribute of
    the model comes as a Constant, and only an initializer is quantized as a weight."""
    kept = []
    for node in model.graph.node:
        values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and values:
            values[0].name = node.output[0]
            model.graph.initializer.append(values[0])
        else:
            kept.append(node)
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(kept)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """onnxsim imports torch to look for a library that it then does without: 1.4 of this stage's 2.4 CPU seconds."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def record(simplified: Simplified, tolerance: float) -> dict[str, Any]:
    """simplify.json: operators and bytes before and after, what simplifier and passes did, and the parity."""
    return {
        "operators_before": simplified.operators_before,
        "operators_after": simplified.operators_after,
        "nodes_before": sum(simplified.operators_before.values()),
        "nodes_after": sum(simplified.operators_after.values()),
        "bytes_before": simplified.bytes_before,
        "bytes_after": simplified.file.size,
        "folded": simplified.folded,
        "passes": simplified.passes,
        "parity": simplified.parity.as_dict(),
        "tolerance": tolerance,
    }
