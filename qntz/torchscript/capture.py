"""The routes by which a model is captured, and the comparison with the eager model that decides which of them
counts."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qntz import plugins
from qntz.compare import Difference, differences, require_parity
from qntz.config import METHODS, OPSET, DimConfig
from qntz.eager import Eager
from qntz.errors import (
    CaptureError,
    CheckError,
    ConfigError,
    ModelError,
    ParityError,
    QntzError,
    did_you_mean,
    one_line,
)
from qntz.export import SYMBOLICS, Exported, export
from qntz.guard import guarded
from qntz.model import (
    ProgramModule,
    arrays_in,
    arrays_of,
    evaluated,
    in_order,
    named_outputs,
    quiet,
    tensors,
)
from qntz.records import Arrays, Capture, Provided, RewriteProof
from qntz.rewrite import REWRITES, Rewritten, functions_of, is_telling, rewritten
from qntz.rewrite.functions import noted
from qntz.torchscript.archive import name_of, write_archive
from qntz.torchscript.further import (
    Shapes,
    apart,
    axes_of,
    extreme_inputs,
    further_inputs,
    resized,
    shapes_of,
    small_inputs,
)
from qntz.torchscript.mixed import NO_LEAK, Evidence, evidence_of, mixed
from qntz.torchscript.paths import joined_paths
from qntz.torchscript.places import Places
from qntz.torchscript.program import excluded, program_of
from qntz.torchscript.routes import Plain, joined, place_of, scripted, settled, traced

TOLD = {
    "trace": "the traced module",
    "mixed": "the module, traced and scripted,",
    "script": "the scripted module",
    "paths": "the module, traced in all ways,",
    "dynamo": "the exported program",
    "saved": "the saved model",
}
ORDER = ("trace", "mixed", "script", "paths", "dynamo")
"""The order in which `auto` tries the routes; never by measured time, so that every machine takes the same."""
LIMITS = {"seconds": "torchscript.seconds", "memory": "torchscript.memory_gib"}
WORK = 1e10
"""Floating point operations that the eager model may take on inputs which `auto` makes."""
FURTHER = (1, 24)  # the fewest and the most of them
COPIES = 6  # of the weights that a route, its archive and its trial hold, beyond the memory that it may take
LARGE = 8  # of so few the first are small
EXCLUDED = 6  # sizes that are tried of those that an exported program's guards exclude


@dataclass(frozen=True)
class Tried:
    """A route that was tried and not taken: why not, and where in the model ("" where it is not told)."""

    method: str
    why: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Captured(Capture):
    """A captured model, and how it came about.

    Attributes:
        method: a route's name, or "saved" (it came as TorchScript or as an exported program). why: in words.
        file: the module as torch.jit.load or torch.export.load reads it, the same bytes everywhere; it is there as long
        as the capture is.
        parity: the worst difference from the eager model on each probe. warnings: what torch warned of, sorted.
        tried: the routes that were tried before it. training: the submodules that were in training mode and were
        captured in evaluation mode. rewrites: what became of each.
    """

    method: str
    why: str
    file: Path
    parity: tuple[Difference, ...]
    warnings: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    training: tuple[str, ...] = ()
    rewrites: tuple[RewriteProof, ...] = ()
    folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)  # that the file is in

    @property
    def archive(self) -> bytes:
        """The bytes of the file."""
        return self.file.read_bytes()

    @property
    def order(self) -> tuple[str, ...]:
        """The input names in the order in which the module takes them."""
        return tuple(self.shapes)

    @property
    def worst(self) -> Difference:
        """The worst difference on any probe."""
        return max(self.parity, key=lambda one: one.error)


def capture(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Any,
    probes: Sequence[Any] = (),
    *,
    dims: Mapping[str, DimConfig] | None = None,
    shapes: Shapes | None = None,
    method: str = "auto",
    tolerance: float = 1e-4,
    opset: int | None = None,
    rewrites: Sequence[Provided] | None = None,
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
    symbolics: Sequence[Provided] | None = None,
    seconds: float = 600.0,
    memory: int = 8 << 30,
) -> Captured:
    """Captures `module` by `method` and compares it with the eager model on the example and every probe; with "auto" by
    the first route of `ORDER` that is right on them and on further inputs, which are made of them, both as it is and as
    ONNX. The model is captured in evaluation mode and on the CPU.

    Args:
        module: the model; one that is a ScriptModule or an exported program already is compared alone.
        example_inputs: arrays or tensors by input name, or a tuple of them in the order of forward's parameters; what
        is None is left out. probes: further inputs of the same kind.
        dims: the dynamic dimensions by name. shapes: of each input the sizes, with those names; without it a dimension
        is dynamic that differs between the example and a probe.
        tolerance: worst |difference| over the largest magnitude of an output.
        opset, symbolics: of the export that "auto" tries a route by, as `qntz.export.export` takes them.
        rewrites: of submodules, on a copy, and of functions; None: those that qntz ships, installed plugins provide,
        and the working directory holds in plugins/. require, forbid: names of rewrites that must fire, and must not.
        seconds, memory: what a route and the trial of its export may take in a process of their own; memory in bytes,
        beyond six times the model's weights.

    Raises:
        CaptureError: torch refuses, or the capture's outputs are not the model's; with every route that was `tried`.
        ModelError: the eager model refuses the inputs, gives NaN, or is not deterministic.
        RewriteError: a required rewrite did not fire, or a rewrite computes something else. PluginError: one fails.
        ConfigError: there is no such method.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", where="torchscript.method", do=did_you_mean(method, METHODS))
    eager = ProgramModule(module) if isinstance(module, torch.export.ExportedProgram) else module
    given = [arrays_in(eager, one) for one in (example_inputs, *probes)]
    order = in_order(eager, list(given[0]))
    for one in given[1:]:
        if set(one) != set(order):
            raise ModelError(
                "a probe has other inputs than the example", why=f"{', '.join(one)}, not {', '.join(order)}"
            )
    inputs = [{name: one[name] for name in order} for one in given]
    _require_evaluation(eager, inputs[0], order)
    with evaluated(eager) as training:
        work = _Work(eager, inputs, shapes or shapes_of(inputs, dims or {}), dims or {}, tolerance)
        work.require_sane()
        if isinstance(eager, (torch.jit.ScriptModule, ProgramModule)):
            work.require_repeatable()
            work.require_no_memory()
            folder = tempfile.TemporaryDirectory()
            return replace(work.captured(work.saved(Path(folder.name))), folder=folder)
        written = OPSET if opset is None else opset
        if rewrites is None or symbolics is None:
            installed = plugins.load(Path.cwd(), "torchscript")
            if rewrites is None:
                rewrites = [one for hook in REWRITES for one in installed.provided(hook)]
            if symbolics is None:
                symbolics = [one for hook in SYMBOLICS for one in installed.provided(hook, opset=written)]
        called = work.require_repeatable(functions_of(rewrites, written, forbid))
        work.rewritten = rewritten(
            eager, rewrites, inputs, order, opset=written, require=require, forbid=forbid, called=called
        )
        work.require_no_memory()
        memory += COPIES * work.weights
        if method != "auto":
            found = work.route(method, seconds, memory)
            found = replace(found, why="; ".join(filter(None, (f"torchscript.method is {method}", found.why))))
        else:
            trial = functools.partial(export, opset=written, tolerance=tolerance, symbolics=symbolics, passes=())
            found = _first(work, trial, seconds, memory)
    return replace(found, training=training, rewrites=work.rewritten.proofs)


def _loaded(file: Path, method: str) -> torch.jit.ScriptModule | torch.export.ExportedProgram:
    if method == "dynamo":
        with quiet():
            return torch.export.load(file)
    return torch.jit.load(str(file))


def _plain_fields(captured: Captured) -> dict[str, Any]:
    """What of a capture another process can be told, but for its inputs."""
    names = ("file", "statements", "method", "why", "parity", "warnings")
    return {name: getattr(captured, name) for name in names}


def _require_evaluation(eager: torch.nn.Module, inputs: Arrays, order: Sequence[str]) -> None:
    """Raises ModelError where a part of a model in evaluation mode is in training mode, and that changes its outputs:
    it is as likely meant as forgotten. A model that is in training mode as a whole is captured in evaluation mode."""
    awake = [path for path, part in eager.named_modules() if getattr(part, "training", False)]
    if not awake or "" in awake:
        return
    trained = Eager(eager, order).run(inputs)
    with evaluated(eager):
        if differences([Eager(eager, order).run(inputs)], [trained])[0].error > 0:
            raise ModelError(
                f"{awake[0]} is in training mode in a model in evaluation mode",
                why="the outputs depend on it",
                do="Call eval() on the model, or build it of what it does in training.",
            )


def _first(work: _Work, trial: Callable[[Capture], Exported], seconds: float, memory: int) -> Captured:
    """By the first route that is right."""
    import onnx  # noqa: F401  here, and not again in each of the processes that are to come
    import onnxruntime  # noqa: F401

    work.add_further()
    tried: list[Tried] = []
    found = _first_right(work, trial, seconds, memory, tried)
    if found is None and work.apart:  # sizes that are one in all that was given are taken to be one
        work.let_apart_be_refused()
        tried.clear()
        found = _first_right(work, trial, seconds, memory, tried)
    if found is not None:
        return replace(found, tried=tuple(tried))
    raise CaptureError(
        "no route captures the model",
        where=next((one.where for one in tried if ".py:" in one.where), ""),
        why="; ".join(f"{one.method}: {one.why}" for one in tried),
        do="Run qntz check, which names the lines, and rewrite them or provide a rewrite.",
        tried=tuple(tried),
    )


def _first_right(
    work: _Work, trial: Callable[[Capture], Exported], seconds: float, memory: int, tried: list[Tried]
) -> Captured | None:
    """By the first route that is right on all inputs; None where none is. Adds those that are not to `tried`."""
    for route in ORDER:
        try:
            found = work.route(route, seconds, memory, trial)
        except QntzError as error:
            tried.append(Tried(route, f"{error.what}: {error.why}" if error.why else error.what, error.where))
            continue
        return replace(
            found, why="; ".join(filter(None, (f"the first of {', '.join(ORDER)} that is right", found.why)))
        )
    return None


def _apart(work: Callable[[], Any], what: str, seconds: float, memory: int) -> Any:
    """What `work` returns in a process of its own; raises CaptureError where that ends, takes too long or too much."""

    def alone(loaded: Callable[[], None]) -> Any:
        torch.set_num_threads(1)  # a fork has none of its parent's threads, and would wait for them
        loaded()
        return work()

    try:
        return guarded(alone, seconds=seconds, memory=memory, limits=LIMITS, what=what)
    except CheckError as error:
        raise CaptureError(error.what, where=error.where, why=error.why, do=error.do) from error


@dataclass(frozen=True)
class Made:
    """What a route made: the module, its file and the statements that this comes from, how, why, and warnings."""

    module: Any
    file: Path
    statements: Places
    method: str
    why: str
    warned: Sequence[str] = ()


class _Work:
    """What the routes of one capture share: the model, its inputs, and what it gives on them."""

    def __init__(
        self,
        eager: torch.nn.Module,
        inputs: list[Arrays],
        shapes: Shapes,
        dims: Mapping[str, DimConfig],
        tolerance: float,
    ) -> None:
        self.module, self.inputs, self.rewritten = eager, inputs, Rewritten(eager)
        self.order = tuple(inputs[0])
        self.eager = Eager(eager, self.order)
        self.shapes = {name: tuple(shapes[name]) for name in self.order}
        self.dims, self.tolerance = dims, tolerance
        raw = self.eager.call(inputs[0])
        tensors_alone = type(raw) is tuple and all(isinstance(one, torch.Tensor) for one in raw)
        self.flat = isinstance(raw, torch.Tensor) or tensors_alone
        self.golden = [arrays_of(raw), *(self.eager.run(one) for one in inputs[1:])]
        self.operations = 1
        self.further: list[Arrays] = []
        self.wanted: list[Arrays] = []
        self.extreme: list[tuple[Arrays, Arrays]] = []
        self.apart: list[Arrays] = []
        self.optional: list[tuple[Arrays, Arrays]] = []

    @property
    def weights(self) -> int:
        """Bytes of the model's parameters."""
        return sum(one.nbytes for one in self.module.parameters())

    def require_sane(self) -> None:
        """Raises ModelError for outputs that cannot be compared."""
        _require_sane(self.golden, self.order)

    def require_repeatable(self, rewrites: Sequence[Provided] = ()) -> frozenset[str] | None:
        """The names of those rewrites whose functions the model calls, None where that cannot be told. Raises
        ModelError where the example does not give the same outputs again. The same run counts the operations, since
        each run of a large model is dear."""
        from torch.utils.flop_counter import FlopCounterMode

        again = None
        with noted(rewrites) as called, contextlib.suppress(ModelError), FlopCounterMode(display=False) as counter:
            again = self.eager.run(self.inputs[0])
        self.operations = max(counter.get_total_flops(), 1)
        watched = again is not None
        if again is None or _differ(again, self.golden[0]):  # which watching it may have brought about
            again = self.eager.run(self.inputs[0])
        if _differ(again, self.golden[0]):
            raise ModelError(
                "the model is not deterministic",
                why="the same input gave two outputs",
                do="Remove randomness from forward.",
            )
        return frozenset(called) if watched else None

    def require_no_memory(self) -> None:
        """Raises ModelError where what a run leaves in the model, as it is to be captured, changes the outputs of
        another."""
        if not self.eager.changed:
            return
        order, alone = [0, *range(len(self.inputs)), 0], Eager(self.rewritten.module, self.order)
        with self.rewritten.in_force():
            golden = [alone.run(one) for one in self.inputs]
            in_turn = list(alone.in_turn([self.inputs[i] for i in order]))
        for index, outputs in zip(order, in_turn, strict=True):
            if _differ(outputs, golden[index]):
                raise ModelError(
                    "the model remembers earlier inputs",
                    where=", ".join(sorted(self.eager.changed)[:3]),
                    why=f"after others, probe {index} gave other outputs",
                    do="Make what it remembers an input and an output, or clear it at the start of forward.",
                )

    @property
    def example(self) -> Arrays:
        """What is recorded with: the first inputs whose dynamic sizes are of two or more, since one may be special."""
        sizes = [(name, axis) for axes in axes_of(self.shapes).values() for name, axis in axes]
        large = (one for one in self.inputs if all(one[name].shape[axis] > 1 for name, axis in sizes))
        return next(large, self.inputs[0])

    def add_further(self) -> None:
        """Makes further inputs, as far as the eager model takes them, within a bound that the model's size gives."""
        fewest, most = FURTHER
        count = max(fewest, min(most, int(WORK / self.operations)))
        if count < LARGE:
            for inputs in small_inputs(self.inputs, self.shapes, self.dims):
                if len(self.further) < count:
                    self._add(inputs)
        for inputs in further_inputs(self.inputs, self.shapes, self.dims):
            if len(self.further) < count:
                self._add(inputs)
        for group in apart(self.inputs, self.shapes, self.dims):
            if len(self.further) + len(group) <= count:
                self._add_apart(group)
        for inputs in extreme_inputs(self.inputs):
            if len(self.further) + len(self.extreme) < count and (outputs := self._eager(inputs)) is not None:
                self.extreme.append((inputs, outputs))

    def _add_apart(self, group: Sequence[Arrays]) -> None:
        """Adds inputs with one size changed of those that are one in all that was given. Where the model did not look
        at what was changed (a mask that masks nothing), its taking them tells nothing, and a capture may refuse them.
        """
        taken = [(inputs, outputs) for inputs in group if (outputs := self._eager(inputs)) is not None]
        idle = [pair for pair in taken if not _differ(pair[1], self.golden[-1])]
        if len(group) - len(idle) < 2:
            self.optional += taken
            return
        self.optional += idle
        for pair in taken:
            if not any(pair is one for one in idle):
                self.apart.append(pair[0])
                self.further.append(pair[0])
                self.wanted.append(pair[1])

    def let_apart_be_refused(self) -> None:
        """From now on a capture may refuse inputs whose sizes differ that are one in all that were given."""
        moved = {id(one) for one in self.apart}
        pairs = list(zip(self.further, self.wanted, strict=True))
        self.optional += [pair for pair in pairs if id(pair[0]) in moved]
        self.further = [inputs for inputs, _ in pairs if id(inputs) not in moved]
        self.wanted = [outputs for inputs, outputs in pairs if id(inputs) not in moved]
        self.apart = []

    def _eager(self, inputs: Arrays) -> Arrays | None:
        """The eager model's outputs; None where it refuses the inputs, gives others, or NaN."""
        try:
            outputs = self.eager.run(inputs)
            _require_numbers([outputs], "made input")
        except ModelError:
            return None
        return outputs if set(outputs) == set(self.golden[0]) else None

    def _add(self, inputs: Arrays) -> bool:
        """Takes inputs to those that are compared on; False where the eager model refuses them."""
        outputs = self._eager(inputs)
        if outputs is None:
            return False
        self.further.append(inputs)
        self.wanted.append(outputs)
        return True

    def saved(self, folder: Path) -> Made:
        if isinstance(self.module, ProgramModule):
            module, why = self.module.program, "the model came as a saved exported program"
        else:
            module = settled(self.module, self.inputs[0], self.order, self.flat)
            why = "the model came as a saved TorchScript file"
        file = folder / name_of(module)
        return Made(module, file, write_archive(module, file), "saved", why)

    def route(
        self, method: str, seconds: float, memory: int, trial: Callable[[Capture], Exported] | None = None
    ) -> Captured:
        """What a route makes, if it is right on all inputs; and what the trial of an export makes of it. All of it runs
        in a process of its own, on what the archive holds.

        Raises:
            CaptureError: torch refuses, the outputs are not the model's, or the process ended, took too long or too
            much. What `trial` raises.
        """
        count = len(self.further)
        folder = tempfile.TemporaryDirectory()

        def make() -> dict[str, Any]:
            with self.rewritten.in_force():
                module, told, warned = self._made(method)
            file = Path(folder.name) / name_of(module)
            try:
                statements = write_archive(module, file)
            except RuntimeError as error:
                raise CaptureError("the captured model cannot be saved", why=one_line(error)) from error
            module = _loaded(file, method)
            if method == "dynamo":
                self._add_excluded(module)
            found = self.captured(Made(module, file, statements, method, told, warned))
            exported = trial(found) if trial is not None else None
            added = {"further": self.further[count:], "wanted": self.wanted[count:]}
            return {**_plain_fields(found), "exported": exported, **added}

        told = _apart(make, f"the {method} route", seconds, memory)
        self.further += told.pop("further")
        self.wanted += told.pop("wanted")
        return Captured(module=_loaded(told["file"], method), folder=folder, **self._compared_on(), **told)

    def _compared_on(self) -> dict[str, Any]:
        """What a capture tells of its inputs."""
        return {
            "shapes": self.shapes,
            "probes": self.inputs,
            "golden": self.golden,
            "further": self.further,
            "wanted": self.wanted,
        }

    def _made(self, method: str) -> tuple[Any, str, tuple[str, ...]]:
        if method == "dynamo":
            return program_of(self._plain(self.rewritten.module), self.example, self.order, self.shapes), "", ()
        if method == "trace":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                script = traced(self.rewritten.module, self.example, self.order, self.flat)
            lines = {str(w.message).splitlines()[0] for w in caught if issubclass(w.category, torch.jit.TracerWarning)}
            return script, "", tuple(sorted(lines))
        if method == "paths":
            return *self._paths(), ()
        script, told = self._mixed() if method == "mixed" else (scripted(self.rewritten.module), "")
        return settled(script, self.example, self.order, self.flat), told, ()

    def _evidence(self) -> Evidence:
        given = [dict(zip(self.order, tensors(one, self.order), strict=True)) for one in (*self.inputs, *self.further)]
        return evidence_of(self.rewritten.module, given)

    def _paths(self) -> tuple[torch.jit.ScriptModule, str]:
        evidence = self._evidence()
        if not evidence.leaks:
            raise CaptureError("there is one way through the model", why=NO_LEAK)
        examples = [tensors(one, self.order) for one in (self.example, *self.inputs, *self.further)]
        settle = functools.partial(joined, inputs=examples[0], order=self.order)
        return joined_paths(self.rewritten.module, self.order, examples, evidence.namespaces, settle)

    def _mixed(self) -> tuple[torch.jit.ScriptModule, str]:
        evidence = self._evidence()
        try:
            return mixed(self.rewritten.module, tensors(self.example, self.order), evidence, self._plain)
        except QntzError:
            raise
        except Exception as error:  # the compiler raises RuntimeError, OSError, TypeError, its own kinds and more
            raise CaptureError(
                "a part that has to be scripted cannot be", where=place_of(error), why=one_line(error)
            ) from error

    def _plain(self, module: torch.nn.Module) -> torch.nn.Module:
        return Plain.around(module, self.order, self.flat)

    def _add_excluded(self, program: torch.export.ExportedProgram) -> None:
        """Adds inputs of sizes for which the program was not made, which ONNX has no way to refuse."""
        axes = axes_of(self.shapes)
        for sizes in excluded(program, self.example, self.shapes, self.dims):
            for label, size in sizes[:EXCLUDED]:
                if self._add(resized(self.example, axes[label], size)):
                    break

    def captured(self, made: Made) -> Captured:
        """The capture, if it is right on all inputs.

        Raises:
            CaptureError: naming the inputs on which it is not.
        """
        method = made.method
        for pair in self.optional:
            with contextlib.suppress(CaptureError):
                self._outputs(made.module, pair[0], method)
                self.further.append(pair[0])
                self.wanted.append(pair[1])
        beyond = [*self.further, *(one for one, _ in self.extreme)]
        outputs = [self._outputs(made.module, one, method) for one in (*self.inputs, *beyond)]
        advice = {"trace": "Set torchscript.method to auto, or r"}
        do = f"{advice.get(method, 'R')}ewrite what depends on the input's values or sizes."
        count = len(self.inputs)
        try:
            require_parity(outputs[:count], self.golden, self.tolerance, TOLD[method])
            if beyond:
                wanted = [*self.wanted, *(one for _, one in self.extreme)]
                more = {"usual": self.golden, "inputs": "made input"}
                require_parity(outputs[count:], wanted, self.tolerance, TOLD[method], **more)
        except ParityError as error:
            raise CaptureError(f"{method} captures another model", why=error.why, do=do) from error
        return Captured(
            module=made.module,
            file=made.file,
            statements=made.statements,
            **self._compared_on(),
            method=made.method,
            why=made.why,
            parity=tuple(differences(outputs[:count], self.golden)),
            warnings=tuple(made.warned),
        )

    def _outputs(self, module: Any, inputs: Arrays, method: str) -> Arrays:
        """The capture's outputs under the eager model's names, which a tuple has lost."""
        # as ONNX has it, without the guards that the program would refuse inputs by
        run = ProgramModule(module, guards=False) if isinstance(module, torch.export.ExportedProgram) else module
        try:
            # without the optimizer, which takes longer to compile a module than the few runs here take
            with torch.no_grad(), torch.jit.optimized_execution(False):
                outputs = [one.detach().numpy() for one in named_outputs(run(*tensors(inputs, self.order))).values()]
        except Exception as error:  # whatever torch raises
            shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items())
            raise CaptureError(
                f"{method} captures a model that refuses inputs which the eager model takes",
                where=shapes,
                why=one_line(error),
                do="A size was frozen: set torchscript.method to auto, or take sizes from x.shape as they are.",
            ) from error
        names = list(self.golden[0])
        if len(outputs) != len(names):
            raise CaptureError(f"{method} captures {len(outputs)} outputs, the eager model has {len(names)}")
        return dict(zip(names, outputs, strict=True))


def reference_outputs(eager: torch.nn.Module, batches: Sequence[Arrays], order: Sequence[str]) -> list[Arrays]:
    """The eager model's outputs on the test data, by name, batch by batch; raises ModelError where they hold NaN."""
    runner = Eager(eager, order)
    outputs = [runner.run(inputs) for inputs in batches]
    _require_numbers(outputs, "batch of test data")
    return outputs


def _require_numbers(runs: Sequence[Arrays], inputs: str) -> None:
    for index, outputs in enumerate(runs):
        for name, array in outputs.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ModelError(
                    f"the model's own output {name!r} holds NaN on {inputs} {index}", do="Check its weights."
                )


def _require_sane(golden: Sequence[Arrays], inputs: Sequence[str]) -> None:
    _require_numbers(golden, "probe")
    for name in golden[0]:
        if name in inputs:
            raise ModelError(
                f"output {name!r} has the name of an input",
                why="an ONNX graph cannot tell them apart",
                do="Rename the input, or return a dict with another key.",
            )
        if all(outputs[name].size == 0 for outputs in golden):
            raise ModelError(
                f"output {name!r} is empty on every probe",
                why="what is never computed cannot be compared",
                do="Give probes that fill it (model.probes.file), or test data.",
            )


def _differ(again: Arrays, first: Arrays) -> bool:
    return again.keys() != first.keys() or any(not np.array_equal(again[name], one) for name, one in first.items())


def record(captured: Captured, tolerance: float, eager: torch.nn.Module) -> dict[str, Any]:
    """torchscript.json: the method and why, the parity, what every rewrite did (of those that qntz ships, where they
    concern the model), and the model's size."""
    return {
        "method": captured.method,
        "why": captured.why,
        "parity": captured.worst.as_dict(),
        "errors": [one.as_dict()["error"] for one in captured.parity],
        "tolerance": tolerance,
        "tried": [asdict(one) for one in captured.tried],
        "further": len(captured.further),
        "training": list(captured.training),
        "probes": len(captured.golden),
        "rewrites": [asdict(proof) for proof in captured.rewrites if is_telling(proof)],
        "warnings": list(captured.warnings),
        "parameters": sum(parameter.numel() for parameter in eager.parameters()),
    }
