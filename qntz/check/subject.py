"""What a rule receives: the model, what its runs showed, and the source that forward reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from qntz.check.places import Place
from qntz.errors import QntzError
from qntz.records import Finding, Severity

if TYPE_CHECKING:
    import ast

    from qntz.check.flow import ForeignCall, Reentry
    from qntz.check.index import SourceIndex
    from qntz.check.operators import Exported
    from qntz.check.resolve import Function
    from qntz.check.scripted import Refusal
    from qntz.config import DimConfig

COUNTING = ("unbind", "split", "chunk", "tensor_split", "split_with_sizes")
"""The calls that give Python as many tensors as a size says: a trace keeps their number."""
Inputs = Mapping[str, Any] | Sequence[Any]
Effect = Literal["breaks", "harmless", "unknown"]


@dataclass(frozen=True)
class Leak:
    """A value that left torch, at one place.

    Attributes:
        kind: how it left ("numpy", "__array__", "item", "__bool__", ...). place: the user's own line. chain: the calls
        from forward to it. module: path of the innermost module that ran. callee: what was called there, where it
        could be resolved to an object that is no Tensor method ("numpy.sin"), else "". root: the callee's root module.
        key: identifies the place in the code that ran. runs: numbers of the runs that showed it (0 is the example).
        of: "data", or "shape" for what only a trace sees leave: the size of a tensor. varied: it was not the same in
        all runs; of data always so. by_values: it is a size that values decide (of what torch.nonzero gives).
    """

    kind: str
    place: Place
    chain: tuple[str, ...]
    module: str
    callee: str
    root: str
    key: tuple[Any, ...]
    runs: tuple[int, ...]
    of: Literal["data", "shape"] = "data"
    varied: bool = True
    by_values: bool = False

    @property
    def decides(self) -> Literal["data", "shape"]:
        """What decides the leaked value: the inputs' values, or their sizes."""
        return "data" if self.by_values else self.of


@dataclass(frozen=True)
class Test:
    """A place where Python's control flow depends on leaked values.

    Attributes:
        kind: "if", "while", "for", "assert", "match", "comprehension", "expression". place: the test's. chain: the
        calls that lead to it. leaks: all that flow into it. own: those that leak within the test itself.
    """

    kind: str
    place: Place
    chain: tuple[str, ...]
    leaks: tuple[Leak, ...]
    own: tuple[Leak, ...]


@dataclass(frozen=True)
class Trace:
    """What a trace that is recorded on the example, or the scripted model, makes of it.

    Attributes:
        refused: why torch cannot record one, else None. wrong: the numbers of the runs that it gets wrong. tried: the
        number of runs that it was tried on.
    """

    refused: QntzError | None = None
    wrong: tuple[int, ...] = ()
    tried: int = 0

    @property
    def is_right(self) -> bool:
        """Whether it gave the model's outputs on other inputs than it was recorded on."""
        return self.refused is None and self.tried > 0 and not self.wrong


@dataclass(frozen=True)
class StateChange:
    """Something that outlives a run and was another afterwards.

    Attributes:
        what: as a `Holding` has it, "iterator", or "hidden" where it was not found. name: as a user would write it
        ("encoder.cache", "STATE"). place: of the line that changes it, where one was found, else of its owner. matters:
        whether outputs depend on it: the same inputs gave others when the model had run before.
    """

    what: str
    name: str
    place: Place
    chain: tuple[str, ...]
    matters: bool


@dataclass(frozen=True)
class Seen:
    """Something that an operator was seen to do at a place: `what` says it in a word or two (a device, a dtype, an
    input's name, the operator that drew random numbers)."""

    what: str
    place: Place
    chain: tuple[str, ...]
    module: str
    operator: str


@dataclass(frozen=True)
class DeviceUse:
    """An expression that reads a tensor's device, or places a tensor on one. kind: "reads" or "places"; node: the
    expression in `function`."""

    kind: Literal["reads", "places"]
    place: Place
    chain: tuple[str, ...]
    function: Function
    node: ast.expr


@dataclass(frozen=True)
class Observations:
    """What the live runs on the example and the probes showed; every tuple in the order of its first occurrence.

    Attributes:
        ran: paths of the modules whose forward ran ("" is the model). leaks: values that left torch. devices: results
        on a device that no input, parameter or buffer is on. device_uses: where the model's code reads or chooses a
        device. doubles: float64 results of operators that got none (`what`: "tensor" or "scalar"). writes: in-place
        writes on inputs (`what`: the input). changed: inputs whose values differ after the run. arrays: calls of torch
        that were given a NumPy array. draws: operators that drew from torch's random generator, in evaluation mode.
        trained: functions told to do as in training by modules that are not. awake: the calls of modules in training
        mode. training_draws: those that drew in training mode alone, where the model is in it; mode_matters: whether
        evaluation mode gives other outputs on the example. streams: "random", "numpy.random" where that global
        generator was used. state: what of the model's own state a run changed. trace: what a trace makes of it, None
        where the model does not run. refusals: what torch.jit.script refuses of it. script: what the scripted model
        makes of it, where it is to be captured so. failure: why the model could not be run on all inputs.
    """

    ran: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()
    devices: tuple[Seen, ...] = ()
    device_uses: tuple[DeviceUse, ...] = ()
    doubles: tuple[Seen, ...] = ()
    writes: tuple[Seen, ...] = ()
    changed: tuple[str, ...] = ()
    arrays: tuple[Seen, ...] = ()
    draws: tuple[Seen, ...] = ()
    trained: tuple[Seen, ...] = ()
    awake: tuple[Seen, ...] = ()
    training_draws: tuple[Seen, ...] = ()
    mode_matters: bool = False
    streams: tuple[str, ...] = ()
    state: tuple[StateChange, ...] = ()
    trace: Trace | None = None
    refusals: tuple[Refusal, ...] = ()
    script: Trace | None = None
    failure: QntzError | None = None


@dataclass(frozen=True)
class Subject:
    """What `Rule.find` is called with.

    Attributes:
        module: the live model. example, probes: its inputs. dims: its dynamic dimensions. observations: of the live
        runs. index: the source that forward reaches. foreign: calls in it of functions outside torch, with the leaks
        of data that they are fed by. tests: where its control flow depends on leaks. reentries: where leaked data goes
        back into torch. route: how the model is captured: "trace", "script", "mixed", "paths", "dynamo" or "auto".
        effect: what becomes of the outputs on other inputs when a leaked value is frozen to what the example gave, as
        tracing freezes it ("breaks", "harmless", "unknown"). seed_matters: whether the outputs on the example change
        with the random seed. exported: what torch's ONNX exporter makes of the trace. All three are measured when they
        are called.
    """

    module: torch.nn.Module
    example: Inputs
    probes: tuple[Inputs, ...]
    dims: Mapping[str, DimConfig]
    observations: Observations
    index: SourceIndex
    foreign: tuple[ForeignCall, ...]
    tests: tuple[Test, ...]
    reentries: tuple[Reentry, ...]
    route: str
    effect: Callable[[Leak], Effect]
    seed_matters: Callable[[], bool]
    exported: Callable[[], Exported]

    def finding(
        self, slug: str, severity: Severity, place: Place, message: str, evidence: str, chain: Sequence[str] = ()
    ) -> Finding:
        """A finding at a place."""
        return Finding(slug, severity, place.path, place.line, place.column, message, evidence, tuple(chain))
