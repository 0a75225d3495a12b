"""The routes to a capture, each tried in a process of its own."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qntz.errors import CaptureError, CheckError, QntzError, one_line
from qntz.export import Exported
from qntz.guard import guarded
from qntz.model import ProgramModule, tensors
from qntz.records import Capture
from qntz.rewrite import Rewritten
from qntz.torchscript.archive import loaded, name_of, write_archive
from qntz.torchscript.captured import Captured
from qntz.torchscript.further import axes_of, resized
from qntz.torchscript.judge import Judge
from qntz.torchscript.mixed import NO_LEAK, Evidence, evidence_of, mixed
from qntz.torchscript.paths import joined_paths
from qntz.torchscript.program import excluded, program_of
from qntz.torchscript.routes import Plain, joined, place_of, scripted, settled, traced

LIMITS = {"seconds": "torchscript.seconds", "memory": "torchscript.memory_gib"}
EXCLUDED = 6  # sizes that are tried of those that an exported program's guards exclude


class Attempts:
    """The captures of one model, with its rewrites. judge: says which are right."""

    def __init__(self, judge: Judge, rewritten: Rewritten) -> None:
        self.judge, self.rewritten = judge, rewritten

    def route(
        self, method: str, seconds: float, memory: int, trial: Callable[[Capture], Exported] | None = None
    ) -> Captured:
        """What a route makes, if it is right on all inputs; and what the trial of an export makes of it. All of it runs
        in a process of its own, on what the archive holds.

        Raises:
            CaptureError: torch refuses, the outputs are not the model's, or the process ended, took too long or too
            much. What `trial` raises.
        """
        judge, count = self.judge, len(self.judge.further)
        folder = tempfile.TemporaryDirectory()

        def make() -> dict[str, Any]:
            with self.rewritten.in_force():
                module, why, warned = self._made(method)
            file = Path(folder.name) / name_of(module)
            try:
                statements = write_archive(module, file)
            except RuntimeError as error:
                raise CaptureError("the captured model cannot be saved", why=one_line(error)) from error
            module = loaded(file)
            if method == "dynamo":
                self._add_excluded(module)
            parity = judge.parity(module, method)
            told = {"file": file, "statements": statements, "method": method, "why": why, "parity": parity}
            told |= {"warnings": warned}
            if trial is not None:
                captured = Captured(**judge.compared_on(), **told)
                object.__setattr__(captured, "module", module)  # and not read again
                told["exported"] = trial(captured)
            return {**told, "further": judge.further[count:], "wanted": judge.wanted[count:]}

        told = _apart(make, f"the {method} route", seconds, memory)
        judge.further += told.pop("further")
        judge.wanted += told.pop("wanted")
        return Captured(folder=folder, **judge.compared_on(), **told)

    def _made(self, method: str) -> tuple[Any, str, tuple[str, ...]]:
        """The module, how in words, and torch's warnings."""
        judge, module = self.judge, self.rewritten.module
        if method == "dynamo":
            return program_of(self._plain(module), judge.example, judge.order, judge.shapes), "", ()
        if method == "trace":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                script = traced(module, judge.example, judge.order, judge.flat)
            lines = {str(w.message).splitlines()[0] for w in caught if issubclass(w.category, torch.jit.TracerWarning)}
            return script, "", tuple(sorted(lines))
        if method == "paths":
            return *self._paths(), ()
        script, told = self._mixed() if method == "mixed" else (scripted(module), "")
        return settled(script, judge.example, judge.order, judge.flat), told, ()

    def _evidence(self) -> Evidence:
        order, given = self.judge.order, (*self.judge.inputs, *self.judge.further)
        return evidence_of(self.rewritten.module, [dict(zip(order, tensors(one, order), strict=True)) for one in given])

    def _paths(self) -> tuple[torch.jit.ScriptModule, str]:
        judge, evidence = self.judge, self._evidence()
        if not evidence.leaks:
            raise CaptureError("there is one way through the model", why=NO_LEAK)
        examples = [tensors(one, judge.order) for one in (judge.example, *judge.inputs, *judge.further)]
        settle = functools.partial(joined, inputs=examples[0], order=judge.order)
        return joined_paths(self.rewritten.module, judge.order, examples, evidence.namespaces, settle)

    def _mixed(self) -> tuple[torch.jit.ScriptModule, str]:
        judge, evidence = self.judge, self._evidence()
        try:
            return mixed(self.rewritten.module, tensors(judge.example, judge.order), evidence, self._plain)
        except QntzError:
            raise
        except Exception as error:  # the compiler raises RuntimeError, OSError, TypeError, its own kinds and more
            raise CaptureError(
                "a part that has to be scripted cannot be", where=place_of(error), why=one_line(error)
            ) from error

    def _plain(self, module: torch.nn.Module) -> torch.nn.Module:
        return Plain.around(module, self.judge.order, self.judge.flat)

    def _add_excluded(self, program: torch.export.ExportedProgram) -> None:
        """Adds inputs of sizes for which the program was not made, which ONNX has no way to refuse."""
        judge = self.judge
        axes = axes_of(judge.shapes)
        for sizes in excluded(program, judge.example, judge.shapes, judge.dims):
            for label, size in sizes[:EXCLUDED]:
                if judge.add(resized(judge.example, axes[label], size)):
                    break


def saved(judge: Judge) -> Captured:
    """A model that came as TorchScript or as an exported program, as it is; raises CaptureError where its archive does
    not give the same outputs."""
    module: Any
    if isinstance(judge.module, ProgramModule):
        module, why = judge.module.program, "the model came as a saved exported program"
    else:
        module = settled(judge.module, judge.inputs[0], judge.order, judge.flat)
        why = "the model came as a saved TorchScript file"
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / name_of(module)
    statements = write_archive(module, file)
    module = loaded(file)  # what is written is what is judged
    return Captured(
        file=file,
        statements=statements,
        method="saved",
        why=why,
        parity=judge.parity(module, "saved"),
        folder=folder,
        **judge.compared_on(),
    )


def _apart(work: Callable[[], Any], what: str, seconds: float, memory: int) -> Any:
    """What `work` returns in a process of its own; raises CaptureError where that ends, takes too long or too much."""

    def alone(is_loaded: Callable[[], None]) -> Any:
        torch.set_num_threads(1)  # a fork has none of its parent's threads, and would wait for them
        is_loaded()
        return work()

    try:
        return guarded(alone, seconds=seconds, memory=memory, limits=LIMITS, what=what)
    except CheckError as error:
        raise CaptureError(error.what, where=error.where, why=error.why, do=error.do) from error
