"""Runs the graph passes that plugins provide, and tells whether each fired; for export, simplify and quantize."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import onnx

from qntz import ort
from qntz.compare import differences
from qntz.config import require_names
from qntz.errors import ExportError, PluginError, RewriteError, did_you_mean, one_line
from qntz.graph import default_opset, folded, inferred, operators
from qntz.packed import Packed, packed, size_of
from qntz.records import Arrays, Provided
from qntz.versions import unmet


def by_patterns(*rules: Any) -> Callable[[onnx.ModelProto], tuple[onnx.ModelProto, int]]:
    """The `apply` of a `records.GraphPass` from onnxscript's rewrite rules (`onnxscript.rewriter.pattern.RewriteRule`,
    or classes of `RewriteRuleClassBase`), which match subgraphs, whose shapes are inferred, and put others in their
    place."""

    def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
        import onnx_ir
        from onnxscript.rewriter import RewriteRuleClassBase, RewriteRuleSet

        known = [r.rule() if isinstance(r, type) and issubclass(r, RewriteRuleClassBase) else r for r in rules]
        graph = onnx_ir.serde.deserialize_model(inferred(model))
        count = RewriteRuleSet(known).apply_to_model(graph)
        return (onnx_ir.serde.serialize_model(graph), count) if count else (model, 0)

    return apply


def apply_passes(
    model: onnx.ModelProto,
    passes: Sequence[Provided],
    require: Sequence[str],
    forbid: Sequence[str],
    *,
    opset: int | None = None,
    probes: Sequence[Arrays] = (),
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """The model after all passes but the forbidden ones, in the order given.

    Args:
        passes: `records.GraphPass` with their providers, already ordered.
        require, forbid: names of passes that must fire and that must not run. Names in `forbid` that no pass has are
            left to the caller (`require_known`), as a stage may have other things to forbid.
        opset: of the model, which some passes ask for; None: the model's. probes: inputs by name, on which the graph
            is run before and after each pass that fires.

    Returns:
        The model, and of each pass {"name", "provider", "fired" (number of places changed), "reason" (why it did not
        fire, or ""), "error" (how far the outputs are from those before it, over the largest magnitude; None where
        ONNX Runtime cannot tell), "tolerance"}, and of one that fired what `qntz.graph.folded` tells.

    Raises:
        RewriteError: a required pass is unknown, forbidden as well, or did not fire; or the outputs differ.
        PluginError: a pass raised, or returned something else than (model, count).
    """
    require_names(require, "require")
    require_names(forbid, "forbid")
    require_known(require, passes)
    told: list[dict[str, Any]] = []
    opset = opset if opset is not None else default_opset(model)
    for provided in passes:
        name, provider = provided.record.name, provided.provider
        fired, error = 0, None
        reason = "forbidden" if name in forbid else unmet(provided, opset)
        if not reason:
            before = packed(model, "before.onnx") if probes else None
            size = operators(model), size_of(model)
            model, fired = _applied(model, provided)
            reason = "" if fired else "the graph has nothing that it matches"
            error = _proven(before, model, provided, probes) if fired and before is not None else None
        if name in require and not fired:
            raise RewriteError(
                f"graph pass {name!r} is required and did not fire",
                where=provider,
                why=reason,
                do="Take it out of `require`, or mend its match.",
            )
        proof: dict[str, Any] = {"error": error, "tolerance": provided.record.tolerance}
        if fired:
            proof |= folded(size, (operators(model), size_of(model)))
        told.append({"name": name, "provider": provider, "fired": fired, "reason": reason, **proof})
    return model, told


def _proven(before: Packed, after: onnx.ModelProto, provided: Provided, probes: Sequence[Arrays]) -> float | None:
    """How far the outputs are from those before the pass; None where ONNX Runtime does not run what was before it."""
    name, tolerance = provided.record.name, provided.record.tolerance
    try:
        wanted = ort.run_all(before, probes)
    except ExportError:
        return None
    worst = max(differences(ort.run_all(packed(after, "after.onnx"), probes), wanted), key=lambda one: one.error)
    if not worst.error <= tolerance:
        raise RewriteError(
            f"graph pass {name!r} changes what the graph computes",
            where=provided.provider,
            why=f"{worst.output} is off by {worst.error:.3g} of its largest magnitude (tolerance {tolerance:g})",
            do="Repair the pass, or name it in `forbid`.",
        )
    return worst.error


def require_known(names: Iterable[str], passes: Sequence[Provided]) -> None:
    """Raises RewriteError where a name is that of no pass."""
    known = [provided.record.name for provided in passes]
    for name in names:
        if name not in known:
            raise RewriteError(f"no graph pass {name!r}", do=did_you_mean(name, known))


def _applied(model: onnx.ModelProto, provided: Provided) -> tuple[onnx.ModelProto, int]:
    name, provider = provided.record.name, provided.provider
    try:
        answer = provided.record.apply(model)
    except Exception as error:
        raise PluginError(f"graph pass {name!r} fails", where=provider, why=one_line(error)) from error
    if (
        isinstance(answer, tuple)
        and len(answer) == 2
        and isinstance(answer[0], onnx.ModelProto)
        and isinstance(answer[1], int)
    ):
        return answer[0], int(answer[1])
    raise PluginError(
        f"graph pass {name!r} returned {type(answer).__name__}",
        where=provider,
        why="apply returns the model and how many places it changed",
        do="Return (model, count).",
    )
