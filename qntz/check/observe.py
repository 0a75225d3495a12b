"""What the runs of a model show: on the example, the probes and other states, traced, and compiled."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from qntz.check.effects import REPLAYS, Effects
from qntz.check.index import SourceIndex, forward_of
from qntz.check.operators import Exported, exported
from qntz.check.record import Log
from qntz.check.resolve import UNKNOWN
from qntz.check.run import Runner, cloned, named, positional, same
from qntz.check.state import GENERATORS, Holding, buffers_kept, seeded
from qntz.check.subject import Inputs, Observations, Seen, StateChange, Trace
from qntz.check.traced import Tracer, is_traced_as_module, tensors_of, without_gradients
from qntz.errors import ModelError, QntzError
from qntz.model import arrays_in, in_order
from qntz.records import Provided
from qntz.rewrite import rewritten

TRACE_TOLERANCE = 1e-4  # as a capture is held to: a trace may run other kernels


class Observer(Runner):
    """Runs a model in every way that the rules ask about, and keeps what the runs showed.

    Attributes:
        probes: the number of probes that were given. changed: the inputs that a run wrote into. held: the state that a
        run changed. repeats: whether the same input gave the same again. training_draws, mode_matters: what goes away
        in evaluation mode. trace, tracer: of the trace on the example.
    """

    def __init__(self, module: torch.nn.Module, inputs: Sequence[Inputs], index: SourceIndex) -> None:
        super().__init__(module, inputs, index)
        self.probes = len(self.inputs) - 1
        self.changed: dict[str, None] = {}
        self.trace: Trace | None = None
        self.tracer: Tracer | None = None
        self.held: dict[Holding, None] = {}
        self.repeats = True
        self.training_draws: dict[tuple[Any, ...], Seen] = {}
        self.mode_matters = False

    def effects(self) -> Effects:
        """Of the leaks, once the model was observed; what was measured is kept by it."""
        return Effects(self, self.trace, self.probes, self.repeats)

    def observe(self) -> Observations:
        """Runs the example and the probes; a run that fails ends it, with what was seen until then."""
        failure = None
        try:
            with self.put_back():
                self.outputs.append(self._recorded(0))
                self.repeats = same(self.outputs[0], self.plain(0, keep=False))
            for number in range(1, len(self.inputs)):
                with self.put_back():
                    self.outputs.append(self._recorded(number))
        except ModelError as error:
            failure = error
        self._add_forwards()
        self.index.add_reached()
        if failure is None:
            self._vary()
            matters = self._order_matters()
            self.trace = self._traced()
        if failure is None and any(getattr(part, "training", False) for part in self.module.modules()):
            self._in_evaluation()
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
            trained=tuple(log.trained.values()),
            awake=tuple(log.awake.values()),
            training_draws=tuple(self.training_draws.values()),
            mode_matters=self.mode_matters,
            streams=tuple(sorted(self.streams)),
            state=self._state_changes(matters) if failure is None else (),
            trace=self.trace,
            failure=failure,
        )

    def _recorded(self, number: int) -> list[Any]:
        arguments = cloned(self.inputs[number])
        before, given = named(self.inputs[number]), named(arguments)
        recorder = self.recorder(number, given)
        outputs = self.run(number, recorder, seed=0, arguments=arguments, keep=False)
        self.held.update(dict.fromkeys(self.state.changed()))
        for name, tensor in given.items():
            if not same([before[name]], [tensor]):
                self.changed[name] = None
        return outputs

    def _vary(self) -> None:
        """Where no probe is given, tries the example with values of both signs, small and large, and with more samples:
        the runs that stand in for probes, as far as the model takes them."""
        if self.probes:
            return
        changes: list[Callable[[torch.Tensor], torch.Tensor]] = [
            *(functools.partial(_scaled, factor=factor) for factor in (0.5, -1.0, 8.0)),
            *(functools.partial(_repeated, count=count) for count in (2, 3)),
        ]
        first = {tensor.shape[0] if tensor.dim() else None for tensor in tensors_of(positional(self.inputs[0]))}
        for change in changes if len(first) == 1 and None not in first else changes[:3]:
            try:
                self.inputs.append(pytree.tree_map_only(torch.Tensor, change, self.inputs[0]))
            except RuntimeError:  # sparse, nested and quantized tensors know neither
                continue
            try:
                self.outputs.append(self.plain(len(self.inputs) - 1))
            except ModelError:
                self.inputs.pop()

    def _order_matters(self) -> bool:
        """Whether a run gives something else when others came before it; tried where a run leaves anything behind."""
        if not self.repeats or not self.held:
            return not self.repeats
        with self.put_back():
            self.plain(0, keep=False)
            return not all(same(self.outputs[n], self.plain(n, keep=False)) for n in (*range(1, len(self.inputs)), 0))

    def _state_changes(self, matters: bool) -> tuple[StateChange, ...]:
        found = []
        for holding in self.held:
            if holding.what == "buffer" and type(holding.owner).__module__.startswith("torch."):
                continue  # statistics of batch norm
            if isinstance(self.state.value(holding), GENERATORS):
                continue  # told as the draws that they are
            writer = self.index.writer_of(holding.what, holding.owner, holding.name, self.state.value(holding))
            place, chain = writer or (self.index.place_of_member(holding.shown if holding.is_member else ""), ())
            found.append(StateChange(holding.what, holding.shown, place, chain, matters))
        if matters:
            known = {change.place for change in found}
            found += [StateChange("iterator", *use, matters) for use in self.index.iterated() if use[1] not in known]
        if matters and not found and not self.log.draws:
            place = self.index.place_of_member("")
            found.append(StateChange("hidden", type(self.module).__name__, place, (), matters))
        return tuple(found)

    def _traced(self) -> Trace:
        """Records a trace on the example, tries it on the other inputs, and notes which sizes leaked."""
        if isinstance(self.module, torch.jit.ScriptModule):
            return Trace()  # captured already
        refused = None
        forms = (True,) if is_traced_as_module(self.module) else (False, True)
        for as_module in forms:  # a module may hold what cannot be a constant: quantized or sparse weights
            tracer = self.tracer = Tracer(self.invoke, as_module)
            try:
                with self.put_back():
                    if self.held:
                        self.plain(0, keep=False)  # a trace comes after a run in practice
                    self.run(0, self.recorder(0, {}), seed=0, call=tracer, keep=False)
                break
            except ModelError as error:
                refused = refused or error
        else:
            return Trace(refused=refused)
        wrong = tuple(run for run in range(1, len(self.inputs)) if not self._agrees(tracer.replayed, run))
        self._note_varied(wrong)
        return Trace(wrong=wrong, tried=len(self.inputs) - 1)

    def _note_varied(self, wrong: Sequence[int]) -> None:
        """Traces once more, on other sizes and where the trace is wrong: a size that leaks and is the same again is a
        constant of the model."""
        leaks = {key: leak for key, leak in self.log.leaks.items() if leak.of == "shape"}
        sizes = self.other_sizes() if leaks else []
        by_values = any(leak.by_values for leak in leaks.values())
        others = [run for run in wrong if by_values or run in sizes][:REPLAYS] or sizes[:1]
        for run in others:
            with contextlib.suppress(ModelError):  # it ran without a trace; the trace on the example counts
                self.run(run, self.recorder(run, {}), seed=0, call=Tracer(self.invoke))
        for key in leaks:
            values = self.log.values.get(key, {})
            told = [values.get(run) for run in (0, *others)]
            leak = self.log.leaks[key]
            varied = leak.by_values or any(value != told[0] for value in told)
            self.log.leaks[key] = dataclasses.replace(leak, varied=varied)

    def _agrees(self, replay: Callable[[Sequence[Any]], list[torch.Tensor]], run: int) -> bool:
        arguments = positional(cloned(self.inputs[run]))
        with seeded(0, set()), buffers_kept(self.module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                got = cloned(replay(arguments))  # before the buffers among them are put back
            except RuntimeError:  # what TorchScript raises for anything: sizes that no longer fit
                return False
        plain = [[leaf for leaf in self.outputs[n] if not isinstance(leaf, torch.Tensor)] for n in (0, run)]
        return same(*plain) and same(tensors_of(self.outputs[run]), got, TRACE_TOLERANCE)

    def _flat(self, compiled: Any) -> Callable[[Sequence[Any]], list[torch.Tensor]]:
        def run(arguments: Sequence[Any]) -> list[torch.Tensor]:
            with torch.no_grad():
                return tensors_of(self.invoke(compiled, arguments))

        return run

    def scripted(self, compiled: Any) -> Trace:
        """What the compiled model gives on all inputs."""
        wrong = tuple(run for run in range(len(self.inputs)) if not self._agrees(self._flat(compiled), run))
        return Trace(wrong=wrong, tried=len(self.inputs))

    def exported(self, opset: int, symbolics: Sequence[Provided], rewrites: Sequence[Provided] = ()) -> Exported:
        """What the exporter makes of the trace on the example; nothing where there is none. What it refuses of the
        model as it is, it is asked of the rewritten model."""
        if self.tracer is None or self.tracer.function is None:
            return Exported()
        arguments = tensors_of(positional(cloned(self.inputs[0])))
        with without_gradients(self.module), seeded(0, set()), self.put_back():
            function, thorough = self.tracer.function, bool(self.log.draws)
            again = functools.partial(self._retraced, arguments)
            found = exported(function, again, arguments, opset, self.index, thorough, symbolics)
            return self._rewritten(found, arguments, opset, symbolics, rewrites) if found.refused else found

    def _rewritten(
        self,
        found: Exported,
        arguments: Sequence[torch.Tensor],
        opset: int,
        symbolics: Sequence[Provided],
        rewrites: Sequence[Provided],
    ) -> Exported:
        """As `found`, with those operators apart that the rewrites take away."""
        tracer = Tracer(self.invoke, as_module=True)
        try:
            given = [arrays_in(self.module, cloned(one)) for one in self.inputs]
            changed = rewritten(self.module, rewrites, given, in_order(self.module, list(given[0])), opset=opset)
            fired = [proof.name for proof in changed.proofs if proof.places]
            if not fired:
                return found
        except QntzError:  # a rewrite that fails: the capture tells of it
            return found
        try:
            with changed.in_force():
                tracer(changed.module, positional(cloned(self.inputs[0])))
        except Exception:  # whatever torch raises where it cannot trace
            return found
        after = exported(tracer.function, lambda: tracer.function, arguments, opset, self.index, True, symbolics)
        left = {operator.name for operator in after.refused}
        why = f"{'rewrites' if len(fired) > 1 else 'the rewrite'} {', '.join(fired)} will take it away"
        gone = [dataclasses.replace(one, why=why) for one in found.refused if one.name not in left]
        known = {one.name for one in found.refused}
        refused = [one for one in found.refused if one.name in left] + [x for x in after.refused if x.name not in known]
        return dataclasses.replace(after, refused=tuple(refused), rewritten=tuple(gone))

    def _retraced(self, arguments: Sequence[torch.Tensor]) -> torch.jit.ScriptModule:
        tracer = Tracer(self.invoke, as_module=True)
        tracer(self.module, positional(cloned(self.inputs[0])))
        return tracer.function

    def _in_evaluation(self) -> None:
        """Runs the example again in evaluation mode: a draw that is gone, and another output, come from training."""
        training = [part for part in self.module.modules() if getattr(part, "training", False)]
        log = Log(self.index, self.log.devices)
        arguments = cloned(self.inputs[0])
        try:
            for part in training:
                part.training = False
            outputs = self.run(0, self.recorder(0, named(arguments), log=log), 0, arguments)
        except ModelError:  # it runs in training mode alone; the draws are those of that mode
            self.training_draws, self.log.draws, self.mode_matters = self.log.draws, {}, True
            return
        finally:
            for part in training:
                part.training = True
        self.training_draws = {key: draw for key, draw in self.log.draws.items() if key not in log.draws}
        self.mode_matters = not same(self.outputs[0], outputs)
        self.log.draws = log.draws

    def _add_forwards(self) -> None:
        for path in self.ran:
            for function, receiver in forward_of(self.parts[path]) if path in self.parts else ():
                namespace = function.__globals__
                if self.index.is_own(function.__code__.co_filename, str(namespace.get("__name__", ""))):
                    for target in self.index.targets(function):
                        target.receiver = receiver if target.receiver is UNKNOWN else target.receiver
                        target.ran = True
                        self.index.functions.setdefault(target.key, target)


def _scaled(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """In the reverse order; numbers that may stand for something, indices and truths, keep their values."""
    flipped = tensor.flip(tuple(range(tensor.dim())))
    return flipped * factor if tensor.is_floating_point() else flipped


def _repeated(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """More samples, along the first axis."""
    return torch.cat([tensor, tensor.flip(0), tensor][:count])
