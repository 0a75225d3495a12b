"""What hooks return: typed records, each with a name that selects it and an explicit order.

Records hold functions that import torch or onnx when they are called, never when this module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

    from qntz.config import EngineConfig

Severity = Literal["error", "warning", "note"]
TARGET, FILE = "target", "file"  # names in a sample, beside those of the model's inputs
Arrays = dict[str, "np.ndarray"]
"""Arrays by the name of the input or output that they belong to."""


def described(inputs: Arrays) -> str:
    """The inputs for a reader: "x float32 [2, 3], mask bool [2]"."""
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items())


@dataclass(frozen=True)
class Finding:
    """One hazard at one place.

    Attributes:
        slug: the rule's slug. severity: error, warning or note. path: the source file, relative to the project where
        it lies in it. line, column: 1-based; 0 where there is none. message: one sentence. evidence: what it rests on
        ("live object", "observed run", "static source"). chain: the calls from forward to the place.
    """

    slug: str
    severity: Severity
    path: str
    line: int
    column: int
    message: str
    evidence: str
    chain: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A rule of the check as data: documentation and SARIF come from it.

    Attributes:
        code: "QZ001", unique and never reused. slug: "multi-device", unique. what, why, fix: a sentence each.
        routes: the capture routes it concerns ("trace", "script", "dynamo"). severity: of a finding that was observed.
        find: called with a `qntz.check.Subject`; yields findings.
    """

    code: str
    slug: str
    severity: Severity
    what: str
    why: str
    fix: str
    routes: tuple[str, ...]
    link: str
    find: Callable[[Any], Iterable[Finding]]

    @property
    def name(self) -> str:
        return self.slug


Sizes = tuple[tuple[int, ...], ...]
UNEQUAL: tuple[Sizes, ...] = (((2, 4, 5),), ((3, 6, 5),), ((1, 7, 5),))


@dataclass(frozen=True)
class Example:
    """What a rewrite is tested on by `qntz plugins test`: something that it applies to, and inputs of unequal sizes.

    Attributes:
        function: of as many tensors as a run has shapes. module: makes a torch.nn.Module instead.
        shapes: of each run the shapes of its inputs, float32, drawn from the normal distribution by a fixed seed; the
            first run is the example that is captured. What else the model needs, it makes of them.
        opset: of the export, where it matters.
    """

    function: Callable[..., Any] | None = None
    module: Callable[[], torch.nn.Module] | None = None
    shapes: tuple[Sizes, ...] = UNEQUAL
    opset: int | None = None


@dataclass(frozen=True)
class ModuleRewrite:
    """A submodule's replacement, applied to a copy of the model before capture.

    Attributes:
        name: selects it in `torchscript.require` and `torchscript.forbid`.
        match: True for a submodule that it replaces.
        apply: returns the replacement; must not change its argument. Raises NotImplementedError, as the replacement
            may, to leave this one as it is; the report tells why.
        tolerance: largest allowed |replacement - original| over the largest |original|, on the inputs that the
            submodule really got from the probes.
        after: names of rewrites that come first. requires: versions that it applies to, as in a requirements file,
            ("torch>=2.5", "opset<16"). examples: for `qntz plugins test`.
    """

    name: str
    match: Callable[[torch.nn.Module], bool]
    apply: Callable[[torch.nn.Module], torch.nn.Module]
    tolerance: float = 1e-5
    after: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class FunctionRewrite:
    """Functions' replacements, in force while the model is captured, on every route.

    Attributes:
        name: selects it in `torchscript.require` and `torchscript.forbid`.
        functions: the replacements by the names of the originals, "torch.fft.rfft", "torch.Tensor.stft" or
            "acme.ops.roll"; each takes the same arguments. One that raises NotImplementedError leaves them all as they
            are; the report tells why. A function of a module that nobody has imported is left out. What stands for a
            tensor that no graph can hold has a method `as_tensor`.
        match: called as the function is; True for calls that are replaced. None: all.
        tolerance: largest allowed |replacement - original| over the largest |original|, on the calls that the model
            makes when it runs the probes.
        after, requires, examples: as `ModuleRewrite` has them.
    """

    name: str
    functions: Mapping[str, Callable[..., Any]]
    match: Callable[..., bool] | None = None
    tolerance: float = 1e-5
    after: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Symbolic:
    """A translation of one torch operator to ONNX, for the TorchScript exporter.

    Attributes:
        name: the operator, "aten::nan_to_num". function: `f(g, *args)` as torch.onnx documents for custom symbolic
        functions. of_torch: the function is written in torch's operators instead: it has the operator's arguments, with
        the annotations that torch.jit.script wants, and its code is put in the operator's place before the export; the
        name is then one overload's, "aten::trapezoid.dx". match: of such a one, True for a torch._C.Node whose place it
        takes; None: all. tolerance: of its examples' outputs, over the largest magnitude; a model's own are held to
        `export.tolerance`. after, requires, examples: as `ModuleRewrite` has them.
    """

    name: str
    function: Callable[..., Any]
    after: tuple[str, ...] = ()
    tolerance: float = 1e-5
    requires: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    of_torch: bool = False
    match: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        if self.match is not None and not self.of_torch:
            raise ValueError(f"symbolic {self.name!r} has a match, and is not of_torch: nothing would ask it")


@dataclass(frozen=True)
class Translation:
    """A translation of one torch operator to ONNX, for the exporter of the dynamo route.

    Attributes:
        name: the operator and its overload, "aten::nan_to_num.default"; without one, "default" is meant.
        function: an onnxscript function, or one that calls onnxscript's operators, with the operator's arguments.
        tolerance, after, requires, examples: as `Symbolic` has them.
    """

    name: str
    function: Callable[..., Any]
    after: tuple[str, ...] = ()
    tolerance: float = 1e-5
    requires: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class GraphPass:
    """A pass over an ONNX model.

    Attributes:
        name: selects it in `require` and `forbid` of the stage that runs it.
        apply: takes a model and returns the new one and how many places it changed (0 = it did not fire);
            `qntz.graph_passes.by_patterns` makes one of onnxscript's rewrite rules.
        tolerance: largest allowed difference of the graph's outputs with and without it on the probes, over the
            largest magnitude.
        after, requires, examples: as `ModuleRewrite` has them.
    """

    name: str
    apply: Callable[[onnx.ModelProto], tuple[onnx.ModelProto, int]]
    after: tuple[str, ...] = ()
    tolerance: float = 1e-5
    requires: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class DataSource:
    """Where samples come from.

    Attributes:
        name: selected by `source:` in a model's `data` section.
        open: called with the section's other keys and the project's root; yields one sample at a time: arrays WITHOUT
            a batch dimension by input name, the label under "target" where there is one, and the path of the file that
            it is from, a text array, under "file" where messages shall name it. Raises `qntz.errors.DataError`. The
            order is the same at each call.
    """

    name: str
    open: Callable[[Mapping[str, Any], Path], Iterator[Arrays]]


@dataclass(frozen=True)
class Metric:
    """A figure of merit of a model on labelled data; higher is better.

    Attributes:
        name: selected by a model's `metric`.
        score: outputs by name, each [samples, ...], in the model's order, and targets [samples, ...]; returns the
            figure, a finite number for the eager model. An output is joined over all batches when it is read; one that
            is not may have any shape. What it raises is told with its file and line.
        agree: two sets of outputs; returns the fraction of samples, 0..1, on which both decide alike.
    """

    name: str
    score: Callable[[Mapping[str, np.ndarray], np.ndarray], float]
    agree: Callable[[Arrays, Arrays], float]


@dataclass(frozen=True)
class ThresholdMethod:
    """Chooses a clipping threshold from an activation histogram.

    Attributes:
        name: selected by `quantize.method`.
        threshold: called with a `qntz.histograms.Histogram` and the keyword options of `quantize.options`;
            returns the largest magnitude that shall be represented (amax, in the tensor's units).
        precisions: that it knows the steps of: int8, whose steps are alike, and fp8 (E4M3), whose steps grow with the
            magnitude.
    """

    name: str
    threshold: Callable[..., float]
    precisions: tuple[str, ...] = ("int8",)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A captured model, as the export takes it.

    Attributes:
        module: a torch.jit.ScriptModule or a torch.export.ExportedProgram, which takes the inputs by position.
        shapes: the inputs in that order; of each the sizes, with a name for a dynamic one.
        probes, golden: inputs, and the eager model's outputs on them, by name; the first is the example.
        further, wanted: more of both, on which the model is only compared.
        statements: of each file of a ScriptModule's code the line (from 1), column (from 0) and statement of the
            model's source (`qntz.statements`) from which on it comes from that one.
        exported: what the export once made of it, by the capture's own trial.
    """

    module: Any
    shapes: Mapping[str, Sequence[int | str]]
    probes: Sequence[Arrays]
    golden: Sequence[Arrays]
    further: Sequence[Arrays] = ()
    wanted: Sequence[Arrays] = ()
    statements: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    exported: Any = None

    @property
    def is_program(self) -> bool:
        """Whether the module is a torch.export.ExportedProgram, and no ScriptModule."""
        import torch

        return isinstance(self.module, torch.export.ExportedProgram)


Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest, the usual and the largest shape."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, dtype as NumPy spells it, and shape range (one entry a dimension).

    Attributes:
        profiles: the ranges of several optimization profiles, which `min` and `max` span and whose first has `opt`;
            none: there is one, of these.
    """

    name: str
    dtype: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]
    profiles: tuple[Range, ...] = ()

    @property
    def ranges(self) -> tuple[Range, ...]:
        """(min, opt, max) of each optimization profile."""
        return self.profiles or ((self.min, self.opt, self.max),)


@dataclass(frozen=True)
class Built:
    """A built engine and what the backend tells of it.

    Attributes:
        plan: the engine's bytes, or a view of them. version: the backend's version. target: what it was built for, in
        words. seconds: wall seconds of the build. outputs: as TensorSpec; -1 for a dimension that is only known at run
        time.
    """

    plan: bytes | memoryview
    version: str
    target: str
    seconds: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    details: dict[str, Any] = field(default_factory=dict)


class Progress(Protocol):
    """What a long work reports to. Returning False from `step` asks it to stop."""

    def step(self, phase: str, done: int, total: int) -> bool: ...


class Bound(Protocol):
    """A loaded artifact with its inputs where it computes: what is timed, without the copies before and after.

    `start` queues a run (where nothing can be queued, it is the run), `wait` returns when all that was queued is done,
    `outputs` gives those of the last run, and `close` gives its memory back.
    """

    def start(self) -> None: ...

    def wait(self) -> None: ...

    def outputs(self) -> Arrays: ...

    def close(self) -> None: ...


class Runner(Protocol):
    """A loaded artifact that runs: arrays by input name in, arrays by output name out, in the model's order.

    It may have `bind(inputs) -> Bound` too; `qntz.runtimes.bind` serves those that have not.
    """

    def run(self, inputs: Arrays) -> Arrays: ...


class Backend(Protocol):
    """Builds and loads engines.

    `refusal` answers before any long work why this backend cannot do what `config` asks, here or at all (None: it
    can), as a `qntz.errors.BackendError` ready to be raised. `why_not_run` says in words why an engine of it cannot be
    run on this machine (None: it can be).
    """

    name: str

    def version(self) -> str: ...

    def refusal(self, config: EngineConfig, precision: str) -> Exception | None: ...

    def why_not_run(self, config: EngineConfig) -> str | None: ...

    def build(
        self, onnx_path: Path, inputs: Sequence[TensorSpec], config: EngineConfig, progress: Progress
    ) -> Built: ...

    def load(self, plan: Path, config: EngineConfig) -> Runner: ...


@dataclass(frozen=True)
class ReportRow:
    """A line that a plugin adds to a model's report."""

    section: str
    label: str
    value: str


@dataclass(frozen=True)
class RewriteProof:
    """What became of one rewrite: where it fired and how far its output is from the original's.

    Attributes:
        name, provider: of the rewrite. places: module paths, or lines of calls ("net.py:12 torch.fft.rfft").
        worst_error: over the largest magnitude, None where it did not fire. tolerance: the rewrite's own. reason: why
        it did not fire, or "". kind: "module" or "function".
    """

    name: str
    provider: str
    places: tuple[str, ...]
    worst_error: float | None
    tolerance: float
    reason: str = ""
    kind: str = "module"


@dataclass(frozen=True)
class Provided:
    """A record together with the plugin that it came from."""

    record: Any
    provider: str

    @property
    def is_builtin(self) -> bool:
        """Whether qntz ships it."""
        return self.provider.startswith("builtin/")
