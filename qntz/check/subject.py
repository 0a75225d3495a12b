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
    from qntz.check.flow import ForeignCall
    from qntz.check.index import SourceIndex
    from qntz.config import DimConfig

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
    """

    kind: str
    place: Place
    chain: tuple[str, ...]
    module: str
    callee: str
    root: str
    key: tuple[Any, ...]
    runs: tuple[int, ...]


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
class Observations:
    """What the live runs on the example and the probes showed; every tuple in the order of its first occurrence.

    Attributes:
        ran: paths of the modules whose forward ran ("" is the model). leaks: values that left torch. devices: results
        on a device that no input, parameter or buffer is on. doubles: float64 results of operators that got none
        (`what`: "tensor" or "scalar"). writes: in-place writes on inputs (`what`: the input). changed: inputs whose
        values differ after the run. draws: operators that drew from torch's random generator, in evaluation mode.
        streams: "random", "numpy.random" where that global generator was used. failure: why the model could not be run
        on all inputs.
    """

    ran: tuple[str, ...] = ()
    leaks: tuple[Leak, ...] = ()
    devices: tuple[Seen, ...] = ()
    doubles: tuple[Seen, ...] = ()
    writes: tuple[Seen, ...] = ()
    changed: tuple[str, ...] = ()
    draws: tuple[Seen, ...] = ()
    streams: tuple[str, ...] = ()
    failure: QntzError | None = None


@dataclass(frozen=True)
class Subject:
    """What `Rule.find` is called with.

    Attributes:
        module: the live model. example, probes: its inputs. dims: its dynamic dimensions. observations: of the live
        runs. index: the source that forward reaches. foreign: calls in it of functions outside torch, with the leaks
        that they are fed by. effect: what becomes of the outputs on other inputs when a leaked value is frozen to what
        the example gave, as tracing freezes it ("breaks", "harmless", "unknown"). seed_matters: whether the outputs on
        the example change with the random seed. Both are measured, by further runs, when they are called.
    """

    module: torch.nn.Module
    example: Inputs
    probes: tuple[Inputs, ...]
    dims: Mapping[str, DimConfig]
    observations: Observations
    index: SourceIndex
    foreign: tuple[ForeignCall, ...]
    effect: Callable[[Leak], Effect]
    seed_matters: Callable[[], bool]

    def finding(
        self, slug: str, severity: Severity, place: Place, message: str, evidence: str, chain: Sequence[str] = ()
    ) -> Finding:
        """A finding at a place."""
        return Finding(slug, severity, place.path, place.line, place.column, message, evidence, tuple(chain))
