"""How severe a leak is: what the runs showed of its effect when it is frozen, as a trace freezes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qntz.check import Leak, Subject
    from qntz.records import Severity

LIVE, RUN, SOURCE = "live object", "observed run", "static source"


def weigh(subject: Subject, leaks: Iterable[Leak]) -> tuple[Severity, str]:
    """The severity of leaks taken together, and what becomes of the outputs, in words."""
    effects = {subject.effect(leak) for leak in leaks}
    if "breaks" in effects:
        wrong = "frozen as tracing freezes it, it makes the outputs on other inputs wrong"
        # by these the model is captured by a trace only where that is right
        return (
            ("warning", f"{wrong}: not to be traced")
            if subject.route in ("auto", "mixed", "paths", "dynamo")
            else ("error", wrong)
        )
    if "harmless" in effects:
        return "warning", "frozen as tracing freezes it, it left the outputs on the other inputs as they were"
    return "warning", "what becomes of the outputs when it is frozen could not be tried"


def method(leak: Leak) -> str:
    """How the value left, as a user would look for it: "Tensor.item"."""
    return f"Tensor.{leak.kind}"


def origins(leaks: Iterable[Leak]) -> str:
    """Where the values left: "Tensor.item at net.py:7"."""
    return ", ".join(sorted({f"{method(leak)} at {leak.place.path}:{leak.place.line}" for leak in leaks}))
