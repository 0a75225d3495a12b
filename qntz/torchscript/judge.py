"""What the eager model gives, on the inputs that were given and on made ones, and whether a capture gives the same."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qntz.compare import Difference, differences, require_parity
from qntz.config import DimConfig
from qntz.eager import Eager
from qntz.errors import CaptureError, ModelError, ParityError, one_line
from qntz.guard import TimeIsUp, within
from qntz.model import ProgramModule, arrays_of, named_outputs, tensors
from qntz.records import Arrays, Provided, described
from qntz.rewrite import Rewritten
from qntz.rewrite.functions import noted
from qntz.torchscript.further import Shapes, apart, axes_of, extreme_inputs, further_inputs, small_inputs

TOLD = {
    "trace": "the traced module",
    "mixed": "the module, traced and scripted,",
    "script": "the scripted module",
    "paths": "the module, traced in all ways,",
    "dynamo": "the exported program",
    "saved": "the saved model",
}
WORK = 2e9
"""Floating point operations that the eager model may take on inputs which `auto` makes."""
FURTHER = (1, 24)  # the fewest and the most of them
LARGE = 8  # of so few the first are small
LONGEST = 30.0  # seconds that the eager model may take on one of them; none takes a tenth of it that ends


class Judge:
    """The inputs that captures of one model are compared on, and what the eager model gives on them.

    Attributes:
        inputs, golden: what was given, and the outputs. further, wanted: made inputs on which an export is compared as
        well; extreme: those on which only the capture is. apart, optional: such as differ in sizes that are one in all
        that was given; the optional ones a capture may refuse. flat: the model returns a tensor or a tuple of tensors.
    """

    def __init__(
        self,
        eager: torch.nn.Module,
        inputs: list[Arrays],
        shapes: Shapes,
        dims: Mapping[str, DimConfig],
        tolerance: float,
    ) -> None:
        self.module, self.inputs = eager, inputs
        self.order = tuple(inputs[0])
        self.eager = Eager(eager, self.order)
        self.shapes = {name: tuple(shapes[name]) for name in self.order}
        self.dims, self.tolerance = dims, tolerance
        raw = self.eager.call(inputs[0])
        tensors_alone = type(raw) is tuple and all(isinstance(one, torch.Tensor) for one in raw)
        self.flat = isinstance(raw, torch.Tensor) or tensors_alone
        self.golden = [arrays_of(raw), *(self.eager.run(one) for one in inputs[1:])]
        self.operations, self.endless = 1, False
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

    def require_no_memory(self, rewritten: Rewritten) -> None:
        """Raises ModelError where what a run leaves in the model, as it is to be captured, changes the outputs of
        another."""
        if not self.eager.changed:
            return
        order, alone = [0, *range(len(self.inputs)), 0], Eager(rewritten.module, self.order)
        with rewritten.in_force():
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
                    self.add(inputs)
        for inputs in further_inputs(self.inputs, self.shapes, self.dims):
            if len(self.further) < count:
                self.add(inputs)
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
        """The eager model's outputs; None where it refuses the inputs, gives others, or NaN. Where it once did not end
        (an algorithm in Python, on inputs that it is not for), it is not run on others."""
        if self.endless:
            return None
        try:
            with within(LONGEST):
                outputs = self.eager.run(inputs)
            _require_numbers([outputs], "made input")
        except ModelError:
            return None
        except TimeIsUp:
            self.endless = True
            return None
        return outputs if set(outputs) == set(self.golden[0]) else None

    def add(self, inputs: Arrays) -> bool:
        """Takes inputs to those that are compared on; False where the eager model refuses them."""
        outputs = self._eager(inputs)
        if outputs is None:
            return False
        self.further.append(inputs)
        self.wanted.append(outputs)
        return True

    def compared_on(self) -> dict[str, Any]:
        """What a capture tells of its inputs."""
        return {
            "shapes": self.shapes,
            "probes": self.inputs,
            "golden": self.golden,
            "further": self.further,
            "wanted": self.wanted,
        }

    def parity(
        self, module: torch.jit.ScriptModule | torch.export.ExportedProgram, method: str
    ) -> tuple[Difference, ...]:
        """The differences on the inputs that were given, of a capture by `method` that is right on all inputs.

        Raises:
            CaptureError: naming the inputs on which it is not.
        """
        for pair in self.optional:
            with contextlib.suppress(CaptureError):
                self._outputs(module, pair[0], method)
                self.further.append(pair[0])
                self.wanted.append(pair[1])
        beyond = [*self.further, *(one for one, _ in self.extreme)]
        outputs = [self._outputs(module, one, method) for one in (*self.inputs, *beyond)]
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
        return tuple(differences(outputs[:count], self.golden))

    def _outputs(self, module: Any, inputs: Arrays, method: str) -> Arrays:
        """The capture's outputs under the eager model's names, which a tuple has lost."""
        # as ONNX has it, without the guards that the program would refuse inputs by
        run = ProgramModule(module, guards=False) if isinstance(module, torch.export.ExportedProgram) else module
        try:
            # without the optimizer, which takes longer to compile a module than the few runs here take
            with torch.no_grad(), torch.jit.optimized_execution(False):
                outputs = [one.detach().numpy() for one in named_outputs(run(*tensors(inputs, self.order))).values()]
        except Exception as error:  # whatever torch raises
            raise CaptureError(
                f"{method} captures a model that refuses inputs which the eager model takes",
                where=described(inputs),
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
