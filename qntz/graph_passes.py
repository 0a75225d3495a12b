"""Runs the graph passes that plugins provide, and tells whether each fired; for export, simplify and quantize."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx

from qntz.errors import PluginError, RewriteError, did_you_mean, one_line
from qntz.records import Provided


def apply_passes(
    model: onnx.ModelProto, passes: Sequence[Provided], require: Sequence[str], forbid: Sequence[str]
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """The model after all passes but the forbidden ones, in the order given.

    Args:
        passes: `records.GraphPass` with their providers, already ordered.
        require, forbid: names of passes that must fire and that must not run. Names in `forbid` that no pass has are
            left to the caller (`require_known`), as a stage may have other things to forbid.

    Returns:
        The model, and of each pass {"name", "provider", "fired" (number of places changed), "reason" (why it did not
        fire, or "")}.

    Raises:
        RewriteError: a required pass is unknown, forbidden as well, or did not fire.
        PluginError: a pass raised, or returned something else than (model, count).
    """
    require_known(require, passes)
    told = []
    for provided in passes:
        name, provider = provided.record.name, provided.provider
        fired, reason = 0, "forbidden"
        if name not in forbid:
            model, fired = _applied(model, provided)
            reason = "" if fired else "the graph has nothing that it matches"
        if name in require and not fired:
            raise RewriteError(
                f"graph pass {name!r} is required and did not fire",
                where=provider,
                why=reason,
                do="Take it out of `require`, or mend its match.",
            )
        told.append({"name": name, "provider": provider, "fired": fired, "reason": reason})
    return model, told


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
