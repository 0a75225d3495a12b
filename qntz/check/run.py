"""The live runs of a check: on the example and the probes, and again with values frozen or another seed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from qntz.check.index import SourceIndex, forward_of
from qntz.check.operators import Exported, exported
from qntz.check.places import owner_of, shown_path
from qntz.check.record import Log, Recorder
from qntz.check.resolve import UNKNOWN
from qntz.check.state import Holding, State, buffers_kept, seeded
from qntz.check.subject import Effect, Inputs, Leak, Observations, StateChange, Trace
from qntz.check.traced import Tracer, tensors_of, without_gradients
from qntz.compare import relative_error
from qntz.errors import ModelError, one_line

TOLERANCE = 1e-5  # of the largest magnitude; both runs use the same kernels, so anything above it is a real difference
TRACE_TOLERANCE = 1e-4  # as a capture is held to: a trace may run other kernels
_NUMERIC = (torch.Tensor, np.ndarray, np.generic, int, float)
REPLAYS = 3  # other inputs that a frozen value is tried on, at most


class Observer:
    """Runs a model and keeps what the runs showed. Buffers, training flags and random generators are put back.

    Args:
        module: the live model. inputs: the example first, then the probes; each a mapping by input name in the order
        of forward's arguments, or a sequence.
    """

    def __init__(self, module: torch.nn.Module, inputs: Sequence[Inputs], index: SourceIndex) -> None:
        self.module, self.index = module, index
        self.inputs = list(inputs)
        self.probes = len(self.inputs) - 1
        tensors = [*module.parameters(), *module.buffers(), *_named(self.inputs[0]).values()]
        self.log = Log(index, frozenset(str(tensor.device) for tensor in tensors))
        self.outputs: list[list[Any]] = []
        self.ran: dict[str, None] = {}
        self.changed: dict[str, None] = {}
        self.streams: set[str] = set()
        self._effects: dict[tuple[Any, ...], Effect] = {}
        self._repeated: dict[int, bool] = {}
        self._modules: list[str] = []
        self.trace: Trace | None = None
        self.tracer: Tracer | None = None
        self.state = State(module, index)
        self.held: dict[Holding, None] = {}
        self.repeats = True

    def observe(self) -> Observations:
        """Runs the example and the probes; a run that fails ends it, with what was seen until then."""
        failure = None
        try:
            with self._put_back():
                self.outputs.append(self._recorded(0))
                self.repeats = _same(self.outputs[0], self._plain(0, keep=False))
            for number in range(1, len(self.inputs)):
                with self._put_back():
                    self.outputs.append(self._recorded(number))
        except ModelError as error:
            failure = error
        self._add_forwards()
        self.index.add_reached()
        if failure is None:
            self._vary()
            matters = self._order_matters()
            self.trace = self._traced()
        if failure is None and any(part.training for part in self.module.modules()):
            self._draws_in_evaluation()
        log = self.log
        return Observations(
            ran=tuple(self.ran),
            leaks=tuple(log.leaks.values()),
            devices=tuple(log.strange_devices.values()),
            device_uses=tuple(log.device_uses.values()),
            doubles=tuple(log.doubles.values()),
            writes=tuple(log.writes.values()),
            changed=tuple(self.changed),
            arrays=tuple(log.arrays.values()),
            draws=tuple(log.draws.values()),
            streams=tuple(sorted(self.streams)),
            state=self._state_changes(matters) if failure is None else (),
            trace=self.trace,
            failure=failure,
        )

    def effect(self, leak: Leak) -> Effect:
        """Whether the outputs on other inputs change when this leak gives what it gave on the first."""
        if self.trace is not None and self.trace.wrong and not self._effects:
            self._measure_all()
        if leak.key not in self._effects:
            self._effects[leak.key] = self._measured([leak])
        return self._effects[leak.key]

    def _measure_all(self) -> None:
        """The effects of the leaks that vary: each alone, and where none of them alone explains the wrong trace, those
        of one function together, and at last all."""
        leaks = [leak for leak in self.log.leaks.values() if leak.varied]
        self._effects.update({leak.key: self._measured([leak]) for leak in leaks})
        groups: dict[Any, list[Leak]] = {}
        for leak in leaks:
            groups.setdefault(leak.key[1], []).append(leak)
        for together in ([*groups.values()], [leaks]):
            if "breaks" in self._effects.values():
                return
            for group in together:
                if len(group) > 1 and self._measured(group) == "breaks":
                    self._effects.update({leak.key: "breaks" for leak in group})

    def seed_matters(self) -> bool:
        """Whether the outputs on the example differ under another seed of every global generator."""
        return bool(self.outputs) and not _same(self.outputs[0], self._plain(0, seed=1))

    @contextlib.contextmanager
    def _put_back(self) -> Iterator[None]:
        """Runs within may leave state behind, which is gone afterwards."""
        try:
            with buffers_kept(self.module):
                yield
        finally:
            self.state.restore()

    def _order_matters(self) -> bool:
        """Whether a run gives something else when others came before it; tried where a run leaves anything behind."""
        if not self.repeats or not self.held:
            return not self.repeats
        with self._put_back():
            self._plain(0, keep=False)
            return not all(_same(self.outputs[n], self._plain(n, keep=False)) for n in (*range(1, len(self.inputs)), 0))

    def _state_changes(self, matters: bool) -> tuple[StateChange, ...]:
        found = []
        for holding in self.held:
            if holding.what == "buffer" and type(holding.owner).__module__.startswith("torch."):
                continue  # statistics of batch norm
            writer = self.index.writer_of(holding.what, holding.owner, holding.name, self.state.value(holding))
            place, chain = writer or (self.index.place_of_member(holding.shown if holding.is_member else ""), ())
            found.append(StateChange(holding.what, holding.shown, place, chain, matters))
        if matters and not found and not self.log.draws:
            place = self.index.place_of_member("")
            found.append(StateChange("hidden", type(self.module).__name__, place, (), matters))
        return tuple(found)

    def _measured(self, leaks: Sequence[Leak]) -> Effect:
        """What becomes of the outputs when these leaks are frozen together."""
        first, values = leaks[0].runs[0], {}
        for leak in leaks:
            given = self.log.values.get(leak.key, {})
            if given:
                values[leak.key] = given[min(given)]
        if not values or self.trace is None:
            return "unknown"
        if self.trace.is_right:
            return "harmless"  # a trace froze it, with all others, and gave the model's outputs
        others = [run for run in self._alternatives(leaks[0]) if run != first][:REPLAYS]
        traced = any(leak.of == "shape" for leak in leaks)
        if not all(self._repeats(run) for run in others):
            return "unknown"  # a model with a state of its own: a difference would prove nothing
        for run in others:
            try:
                replay = Recorder(self.log, run, {}, self._modules, _invoke.__code__, values)
                call = Tracer(_invoke) if traced else _invoke
                frozen = self._run(run, replay, seed=0, call=call)
            except ModelError:
                return "breaks"  # what the example gave does not even fit the other input
            if not _same(self.outputs[run], frozen):
                return "breaks"
        return "harmless" if others else "unknown"

    def _repeats(self, run: int) -> bool:
        """Whether the same inputs give the same outputs again."""
        if run not in self._repeated:
            self._repeated[run] = _same(self.outputs[run], self._plain(run))
        return self._repeated[run]

    def _alternatives(self, leak: Leak) -> list[int]:
        """The runs on which a frozen value may show: those that leaked it too, and where sizes leak those of others."""
        if leak.of == "data":
            return [run for run in leak.runs if run < len(self.outputs)] if self.probes else [*range(len(self.outputs))]
        return self._other_sizes()

    def _other_sizes(self) -> list[int]:
        """The runs whose inputs have other sizes than the example's, those first that differ in the most."""
        sizes = [[size for tensor in tensors_of(_positional(i)) for size in tensor.shape] for i in self.inputs]
        differing = [sum(a != b for a, b in zip(sizes[0], one, strict=False)) for one in sizes]
        runs = [run for run, count in enumerate(differing) if count]
        return sorted(runs, key=lambda run: -differing[run])

    def _traced(self) -> Trace:
        """Records a trace on the example, tries it on the other inputs, and notes which sizes leaked."""
        if isinstance(self.module, torch.jit.ScriptModule):
            return Trace()  # captured already
        tracer = self.tracer = Tracer(_invoke)
        try:
            with self._put_back():
                if self.held:
                    self._plain(0, keep=False)  # a trace comes after a run in practice
                self._run(0, self._recorder(0, {}), seed=0, call=tracer, keep=False)
        except ModelError as error:
            return Trace(refused=error)
        wrong = tuple(run for run in range(1, len(self.inputs)) if not self._agrees(tracer.replayed, run))
        self._note_varied(wrong)
        return Trace(wrong=wrong, tried=len(self.inputs) - 1)

    def exported(self, opset: int) -> Exported:
        """What the exporter makes of the trace on the example; nothing where there is none."""
        if self.tracer is None or self.tracer.function is None:
            return Exported()
        arguments = tensors_of(_positional(_cloned(self.inputs[0])))
        with without_gradients(self.module), seeded(0, set()), self._put_back():
            function, thorough = self.tracer.function, bool(self.log.draws)
            return exported(function, lambda: self._retraced(arguments), arguments, opset, self.index, thorough)

    def _retraced(self, arguments: Sequence[torch.Tensor]) -> torch.jit.ScriptModule:
        tracer = Tracer(_invoke, as_module=True)
        tracer(self.module, _positional(_cloned(self.inputs[0])))
        return tracer.function

    def scripted(self, compiled: Any) -> Trace:
        """What the compiled model gives on all inputs."""
        wrong = tuple(run for run in range(len(self.inputs)) if not self._agrees(_flat(compiled), run))
        return Trace(wrong=wrong, tried=len(self.inputs))

    def _agrees(self, replay: Callable[[Sequence[Any]], list[torch.Tensor]], run: int) -> bool:
        arguments = _positional(_cloned(self.inputs[run]))
        with seeded(0, set()), buffers_kept(self.module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                got = replay(arguments)
            except RuntimeError:  # what TorchScript raises for anything: sizes that no longer fit
                return False
        plain = [[leaf for leaf in self.outputs[n] if not isinstance(leaf, torch.Tensor)] for n in (0, run)]
        return _same(*plain) and _same(tensors_of(self.outputs[run]), got, TRACE_TOLERANCE)

    def _note_varied(self, wrong: Sequence[int]) -> None:
        """Traces once more, on other sizes and where the trace is wrong: a size that leaks and is the same again is a
        constant of the model."""
        leaks = {key: leak for key, leak in self.log.leaks.items() if leak.of == "shape"}
        sizes = self._other_sizes() if leaks else []
        others = [run for run in wrong if run in sizes][:REPLAYS] or sizes[:1]
        for run in others:
            with contextlib.suppress(ModelError):  # it ran without a trace; the trace on the example counts
                self._run(run, self._recorder(run, {}), seed=0, call=Tracer(_invoke))
        for key in leaks:
            values = self.log.values.get(key, {})
            told = [values.get(run) for run in (0, *others)]
            self.log.leaks[key] = dataclasses.replace(self.log.leaks[key], varied=any(v != told[0] for v in told))

    def _recorder(self, number: int, inputs: dict[str, torch.Tensor]) -> Recorder:
        return Recorder(self.log, number, inputs, self._modules, _invoke.__code__)

    def _vary(self) -> None:
        """Where no probe is given, tries the example with other values, and with more samples: the runs that stand in
        for probes, as far as the model takes them."""
        if self.probes:
            return

        def varied(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            flipped = value.flip(tuple(range(value.dim())))
            return flipped * 0.5 if value.is_floating_point() else flipped

        first = {tensor.shape[0] if tensor.dim() else None for tensor in tensors_of(_positional(self.inputs[0]))}

        def more(value: Any) -> Any:
            return torch.cat([value, value.flip(0), value]) if isinstance(value, torch.Tensor) else value

        for change in (varied, more) if len(first) == 1 and None not in first else (varied,):
            self.inputs.append(pytree.tree_map(change, self.inputs[0]))
            try:
                self.outputs.append(self._plain(len(self.inputs) - 1))
            except ModelError:
                self.inputs.pop()

    def _recorded(self, number: int) -> list[Any]:
        arguments = _cloned(self.inputs[number])
        before = _named(self.inputs[number])
        recorder = self._recorder(number, _named(arguments))
        outputs = self._run(number, recorder, seed=0, arguments=arguments, keep=False)
        self.held.update(dict.fromkeys(self.state.changed()))
        for name, tensor in _named(arguments).items():
            if not _same([before[name]], [tensor]):
                self.changed[name] = None
        return outputs

    def _plain(self, number: int, seed: int = 0, keep: bool = True) -> list[Any]:
        return self._run(number, contextlib.nullcontext(), seed=seed, keep=keep)

    def _draws_in_evaluation(self) -> None:
        """Runs the example again in evaluation mode: a draw that is left does not come from the training mode."""
        training = [part for part in self.module.modules() if part.training]
        log = Log(self.index, self.log.devices)
        arguments = _cloned(self.inputs[0])
        try:
            for part in training:
                part.training = False
            self._run(0, Recorder(log, 0, _named(arguments), self._modules, _invoke.__code__), 0, arguments)
        finally:
            for part in training:
                part.training = True
        self.log.draws = log.draws

    def _add_forwards(self) -> None:
        modules = dict(self.module.named_modules())
        for path in self.ran:
            for function, receiver in forward_of(modules[path]):
                namespace = function.__globals__
                if self.index.is_own(function.__code__.co_filename, str(namespace.get("__name__", ""))):
                    for target in self.index.targets(function):
                        target.receiver = receiver if target.receiver is UNKNOWN else target.receiver
                        target.ran = True
                        self.index.functions.setdefault(target.key, target)

    def _run(
        self, number: int, mode: Any, seed: int, arguments: Any = None, call: Any = None, keep: bool = True
    ) -> list[Any]:
        """The flat outputs of one run, made by `call` instead of a plain call where it is given; `keep` puts back the
        state that it changes.

        Raises:
            ModelError: with the model's own line, its error and the shapes of the inputs.
        """
        arguments = _cloned(self.inputs[number]) if arguments is None else arguments
        kept = self._put_back() if keep else contextlib.nullcontext()
        silent = contextlib.redirect_stdout(io.StringIO())  # a model that prints would do so at each run
        with self._watched(), seeded(seed, self.streams), kept, silent, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the capture shows them; here each would come once a run
            try:
                with torch.no_grad(), mode:
                    outputs = (call or _invoke)(self.module, _positional(arguments))
            except (Exception, SystemExit) as error:
                raise self._model_error(error, number) from error
        return _cloned(pytree.tree_leaves(outputs))

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Hooks on every submodule, gone afterwards: which forwards run, and which is innermost."""
        self._modules.clear()
        handles = []

        def entered(path: str) -> Any:
            def hook(*_: Any) -> None:
                self.ran.setdefault(path)
                self._modules.append(path)

            return hook

        def left(*_: Any) -> None:
            self._modules.pop()

        try:
            for path, part in self.module.named_modules():
                if isinstance(part, torch.jit.ScriptModule):
                    continue  # takes no hooks
                handles.append(part.register_forward_pre_hook(entered(path)))
                handles.append(part.register_forward_hook(left, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _model_error(self, error: BaseException, number: int) -> ModelError:
        frames = list(traceback.walk_tb(error.__traceback__))
        own = [(f, line) for f, line in frames if owner_of(f.f_code.co_filename) == "user"]
        own = own or [(f, line) for f, line in frames if owner_of(f.f_code.co_filename) == "package"]
        where, line_text = type(self.module).__name__, ""
        if own:
            frame, line = own[-1]
            name = str(frame.f_globals.get("__name__", ""))
            file = self.index.sources.file(frame.f_code.co_filename, name)
            path = file.path if file else shown_path(frame.f_code.co_filename, name, self.index.sources.source_root)
            node = file.function(frame.f_code) if file else None
            where = f"{path}:{line} in {file.names[node] if file and node else frame.f_code.co_name}"
            line_text = f" at `{file.lines[line - 1].strip()}`" if file else ""
        which = "its example inputs" if number == 0 else f"probe {number - 1}"
        shapes = ", ".join(f"{n} {_dtype(t)} {list(t.shape)}" for n, t in _named(self.inputs[number]).items())
        reason = f"it ended the program (exit code {error.code})" if isinstance(error, SystemExit) else one_line(error)
        return ModelError(
            f"the model does not run on {which}",
            where=where,
            why=f"{reason}{line_text}, with {shapes or 'no tensors'}",
            do="Mend the model, or the shapes, dtypes and ranges of model.inputs.",
        )


def _flat(module: Any) -> Callable[[Sequence[Any]], list[torch.Tensor]]:
    def run(arguments: Sequence[Any]) -> list[torch.Tensor]:
        with torch.no_grad():
            return tensors_of(module(*arguments))

    return run


def _invoke(module: torch.nn.Module, arguments: Sequence[Any]) -> Any:
    return module(*arguments)  # the frame that ends the model's stack


def _positional(inputs: Inputs) -> list[Any]:
    return list(inputs.values()) if hasattr(inputs, "values") else list(inputs)


def _named(inputs: Inputs) -> dict[str, torch.Tensor]:
    """The tensors among the inputs by a name: the input's, with the position where it is nested or has none."""
    pairs = inputs.items() if hasattr(inputs, "items") else ((f"argument {i}", v) for i, v in enumerate(inputs))
    named = {}
    for name, value in pairs:
        leaves = pytree.tree_leaves(value)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                named[str(name) if len(leaves) == 1 else f"{name}[{i}]"] = leaf
    return named


def _cloned(inputs: Any) -> Any:
    return pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v, inputs)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _same(one: Sequence[Any], other: Sequence[Any], tolerance: float = TOLERANCE) -> bool:
    """Whether two flat outputs are equal: same count, and each within the tolerance of the largest magnitude."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(_equal(a, b, tolerance) for a, b in pairs)


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, _NUMERIC) and isinstance(other, _NUMERIC):
        return relative_error(_array(one), _array(other)) <= tolerance
    return type(one) is type(other)


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    if value.device.type == "meta":
        return np.zeros(tuple(value.shape))
    value = value.detach().cpu()
    return (torch.view_as_real(value) if value.is_complex() else value).double().numpy()
