"""Runs rewrites on their own examples: each has to fire, and the exported model to be the eager one, at all sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from qntz import ort
from qntz.compare import require_parity
from qntz.config import OPSET
from qntz.errors import QntzError, one_line
from qntz.export import SYMBOLICS, Exported, export
from qntz.graph_passes import apply_passes
from qntz.hookspecs import PHASES
from qntz.plugins import Plugins
from qntz.records import Example, FunctionRewrite, GraphPass, ModuleRewrite, Provided, Symbolic, Translation
from qntz.torchscript import REWRITES, Captured, capture
from qntz.versions import unmet

KINDS = {
    "qntz_module_rewrites": "module",
    "qntz_function_rewrites": "function",
    "qntz_symbolics": "symbolic",
    "qntz_translations": "translation",
    "qntz_graph_passes": "pass",
}
"""What a hook's records are called, of the hooks whose records are tested."""
EARLY = (ModuleRewrite, FunctionRewrite)  # what a capture applies


class Calls(torch.nn.Module):
    """A module around a function of tensors."""

    def __init__(self, function: Callable[..., Any], count: int) -> None:
        super().__init__()
        self.function = function
        names = ", ".join(f"x{i}" for i in range(count)) if count > 1 else "x"
        scope: dict[str, Any] = {}
        exec(f"def forward({names}):\n    return function({names})", {"function": function}, scope)
        self.forward = scope["forward"]


@dataclass(frozen=True)
class Outcome:
    """What became of one record's test.

    Attributes:
        kind: of the record, as `KINDS` has it. state: "right", "wrong", "skipped" (it is for another version) or
        "untested" (it has no examples). told: in a line. fired: how often, over its examples. error: the worst of the
        exported model, over the largest magnitude. without: what becomes of the first example without the record.
    """

    kind: str
    name: str
    provider: str
    state: Literal["right", "wrong", "skipped", "untested"]
    told: str = ""
    fired: int = 0
    error: float = 0.0
    without: str = ""


@dataclass(frozen=True)
class Run:
    """An example that was captured and exported with a record. fired: how often that did."""

    captured: Captured
    exported: Exported
    fired: int

    @property
    def error(self) -> float:
        """The worst, over the largest magnitude."""
        return max(self.captured.worst.error, self.exported.parity.error)


def outcomes(plugins: Plugins, names: Sequence[str] = (), opset: int = OPSET) -> Iterator[Outcome]:
    """Tests the rewrites that plugins give; names: those alone."""
    for kind, provided in records(plugins, opset):
        if not names or provided.record.name in names:
            yield outcome(provided, kind, plugins, opset)


def records(plugins: Plugins, opset: int = OPSET) -> Iterator[tuple[str, Provided]]:
    """The rewrites that plugins give, with their kinds, hook by hook; also those that are for another opset."""
    for hook, kind in KINDS.items():
        found: dict[tuple[str, str], Provided] = {}
        for arguments in _arguments(hook, plugins, opset):
            for one in plugins.provided(hook, **arguments):
                found.setdefault((one.provider, one.record.name), one)
        for one in found.values():
            yield kind, one


def _arguments(hook: str, plugins: Plugins, opset: int) -> Iterable[dict[str, Any]]:
    if hook == "qntz_graph_passes":
        return [{"phase": phase} for phase in PHASES]
    return [{"opset": opset}] if hook in SYMBOLICS else [{}]


def outcome(provided: Provided, kind: str, plugins: Plugins, opset: int = OPSET) -> Outcome:
    """One record's test."""
    name, examples = provided.record.name, provided.record.examples
    of = (kind, name, provided.provider)
    if not examples:
        return Outcome(*of, "untested", "it has no examples")
    fired, error, skipped = 0, 0.0, ""
    tested: list[Example] = []
    for number, example in enumerate(examples):
        at = example.opset or opset
        if reason := unmet(provided, at):
            skipped = reason
            continue
        model, runs = made(example)
        try:
            run = run_with(provided, model, runs, plugins, at)
        except QntzError as refused:
            return Outcome(*of, "wrong", f"example {number}: {refused}", fired, error)
        tested.append(example)
        fired, error = fired + run.fired, max(error, run.error)
    if not tested:
        return Outcome(*of, "skipped", skipped)
    return Outcome(*of, "right", "", fired, error, _without(provided, tested[0], plugins, tested[0].opset or opset))


def made(example: Example) -> tuple[torch.nn.Module, list[tuple[torch.Tensor, ...]]]:
    """An example's model, and its inputs, float32, from the normal distribution by a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    if example.module is not None:
        model = example.module().eval()
    elif example.function is not None:
        model = Calls(example.function, len(example.shapes[0]))
    else:
        raise ValueError("an example has a function or a module")
    runs = [tuple(torch.randn(shape, generator=generator) for shape in shapes) for shapes in example.shapes]
    return model, runs


def run_with(
    provided: Provided,
    model: torch.nn.Module,
    runs: Sequence[Any],
    plugins: Plugins,
    opset: int = OPSET,
    *,
    required: bool = True,
) -> Run:
    """Captures and exports a model with a record among those of the plugins, and compares on all runs.

    Args:
        runs: inputs as `capture` takes them; the first is the example. required: the record has to fire; else it is
        left out.

    Raises:
        QntzError: it does not fire, fails, or what was captured or exported is not the model.
    """
    record, asked = provided.record, "require" if required else "forbid"
    name, tolerance = record.name, max(record.tolerance, 1e-5)
    rewrites = _with(provided, [one for hook in REWRITES for one in plugins.provided(hook)], EARLY)
    mine = {asked: [name]}
    early = isinstance(record, EARLY)
    captured = capture(
        model,
        runs[0],
        runs[1:],
        method="dynamo" if isinstance(record, Translation) else "trace",
        opset=opset,
        rewrites=rewrites,
        **(mine if early else {}),
    )
    given = [one for hook in SYMBOLICS for one in plugins.provided(hook, opset=opset)]
    symbolics = _with(provided, given, (Symbolic, Translation))
    is_pass = isinstance(record, GraphPass)
    chosen = {} if early or is_pass else mine
    limit = 1e-4 if early or is_pass else tolerance
    exported = export(captured, opset=opset, tolerance=limit, symbolics=symbolics, passes=(), **chosen)
    if early:
        return Run(captured, exported, next(len(one.places) for one in captured.rewrites if one.name == name))
    if not is_pass:
        return Run(captured, exported, next((one["fired"] for one in exported.symbolics if one["name"] == name), 0))
    return Run(captured, exported, _passed(provided, exported, captured) if required else 0)


def _passed(provided: Provided, exported: Exported, captured: Captured) -> int:
    """How often a graph pass fired on what was exported; raises as `run_with`."""
    import onnx

    model = onnx.load_from_string(exported.data)
    model, told = apply_passes(model, [provided], [provided.record.name], [], probes=captured.probes)
    onnx.checker.check_model(model, full_check=True)
    outputs = ort.run_all(model.SerializeToString(), captured.probes)
    require_parity(outputs, captured.golden, 1e-4, provided.record.name, "Repair the pass.")
    return int(told[0]["fired"])


def _with(provided: Provided, given: Sequence[Provided], kinds: tuple[type, ...]) -> list[Provided]:
    """The records, and this one among them where it is of these kinds, in place of another of its name."""
    record = provided.record
    if not isinstance(record, kinds):
        return list(given)
    return [*(one for one in given if (one.record.name, type(one.record)) != (record.name, type(record))), provided]


def _without(provided: Provided, example: Example, plugins: Plugins, opset: int) -> str:
    """What becomes of an example without the record."""
    model, runs = made(example)
    try:
        run_with(provided, model, runs, plugins, opset, required=False)
    except QntzError as error:
        return f"refused: {error.why or error.what}"
    except Exception as error:
        return f"fails: {one_line(error)}"
    return "right as well"
