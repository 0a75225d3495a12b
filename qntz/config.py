"""The configuration: a frozen dataclass per section, which validates itself when it is made. Nothing else validates.

conf/ is composed by Hydra onto these classes (`qntz.compose`); a stage reads the sections that `READS` grants it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import operator
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qntz import targets
from qntz.errors import BackendError, ConfigError, did_you_mean
from qntz.records import Range, TensorSpec
from qntz.trust import require_digest

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
VARIABLE = re.compile(r"oc\.env\s*:\s*['\"]?(\w+)")
"""The environment variable of an interpolation, as OmegaConf reads it."""
DTYPES = ("float32", "float16", "int32", "int64", "bool", "uint8", "int8")
CAP_DB = 200.0  # stands for an infinite SQNR in JSON, which has no infinity; float32 itself ends near 150 dB
MOST_MEMORY, MOST_STREAMS = 2**40, 2**31 - 1  # bytes, more than a GPU has; what TensorRT can be told
OPSETS = (13, 20)  # the first and the last of a configuration
WHY_OPSETS = "below 13 there is no per-channel Q/DQ, the TorchScript exporter ends at 20"
OPSET = OPSETS[-1]
"""The highest that torch's TorchScript exporter writes; TensorRT 10 and 11, TensorRT-RTX and ONNX Runtime take it."""
METHODS = ("auto", "trace", "mixed", "script", "paths", "dynamo")
SIMPLIFIERS = ("onnxsim", "onnxslim", "none")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")
BLOCKS = (64, 128)  # inputs that share a scale of int4, as TensorRT takes them
MEMORY_POOLS = ("tactic_dram", "tactic_shared_memory")  # those of DLA take a device that qntz does not build for
TACTIC_SOURCES = ("edge_mask_convolutions", "jit_convolutions", "cublas", "cublas_lt", "cudnn")
TILING = ("none", "fast", "moderate", "full")
VERBOSITIES = ("none", "layer_names_only", "detailed")
REFITS = ("none", "all", "identical")
COMPATIBILITIES = ("none", "ampere_plus", "same_compute_capability")
SEVERITIES = ("error", "warning", "note", "off")
COMPUTE_CAPABILITIES = (
    "sm75", "sm80", "sm86", "sm87", "sm89", "sm90", "sm100", "sm103", "sm110", "sm120", "sm121"
)  # fmt: skip


def _one_of(value: str, known: tuple[str, ...], where: str) -> None:
    if value not in known:
        raise ConfigError(f"unknown value {value!r}", where=where, do=did_you_mean(value, known))


def known_opset(opset: Any, where: str = "export.opset", bounds: tuple[int, int] = OPSETS, why: str = "") -> int:
    """The opset; raises ConfigError where it is out of bounds, in whose place an exporter may write another without a
    word."""
    first, last = bounds
    try:
        number = first - 1 if isinstance(opset, bool) else operator.index(opset)
    except TypeError:
        number = first - 1
    if not first <= number <= last:
        raise ConfigError(
            f"opset {opset!r} is out of reach", where=where, why=why, do=f"Give a number of {first} to {last}."
        )
    return number


def require_names(names: Sequence[str], where: str) -> None:
    """Raises ConfigError for a string in the place of a list of them, each of whose letters would be a name."""
    if isinstance(names, str):
        raise ConfigError(f"{names!r} is a string", where=where, do=f"Give a list, [{names}].")


def _at_most(value: float, most: float, where: str) -> None:
    if not value <= most:
        raise ConfigError(f"{value} is too large", where=where, do=f"Give {most} or less.")


def _at_least(value: float, least: float, where: str) -> None:
    if not value >= least:  # so that NaN is refused too
        raise ConfigError(f"{value} is too small", where=where, do=f"Give {least} or more.")


def _limits(seconds: float, memory_gib: float) -> None:
    require_limit(seconds, "seconds")
    require_limit(memory_gib, "memory_gib")


def require_limit(value: float, where: str) -> None:
    """Raises ConfigError for what is not positive."""
    if not value > 0:
        raise ConfigError(f"{value} is no limit", where=where, do="Give a positive number.")


@dataclass(frozen=True)
class InputConfig:
    """An input of the model: dtype as NumPy spells it; shape, with a name for each dynamic dimension; and the range
    [low, high] that synthetic probes draw its values from (unbounded floats are drawn from a normal distribution)."""

    dtype: str = "float32"
    shape: list[Any] = field(default_factory=list)
    range: list[float] | None = None

    def __post_init__(self) -> None:
        _one_of(self.dtype, DTYPES, "dtype")
        if not self.shape:
            raise ConfigError("no dimensions", where="shape", do="Give one or more; the first is the batch.")
        for size in self.shape:
            if isinstance(size, bool) or not isinstance(size, (int, str)) or (isinstance(size, int) and size < 1):
                raise ConfigError(
                    f"{size!r} is no dimension", where="shape", do="Give a positive number or the name of a dimension."
                )
        if self.range is not None and (len(self.range) != 2 or self.range[0] > self.range[1]):
            raise ConfigError(f"{list(self.range)} is no range", where="range", do="Give [low, high].")
        if self.range is None and self.dtype.startswith(("int", "uint")):
            raise ConfigError(
                f"an input of {self.dtype} needs a range", where="range", do="Give [low, high], both included."
            )


@dataclass(frozen=True)
class DimConfig:
    """A dynamic dimension: the smallest, the usual and the largest size that the engine takes."""

    min: int = 1
    opt: int = 1
    max: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ConfigError(
                f"min {self.min}, opt {self.opt}, max {self.max} are out of order",
                do="They must be 1 <= min <= opt <= max.",
            )


@dataclass(frozen=True)
class ProbesConfig:
    """The inputs that every artifact is compared on: `count` synthetic ones drawn with `seed`, `data` drawn from the
    test data where the model has any, or all from `file` (an .npz with keys "<probe>/<input>")."""

    count: int = 8
    seed: int = 0
    data: int = 4
    file: str | None = None

    def __post_init__(self) -> None:
        _at_least(self.count, 2, "count")
        _at_least(self.seed, 0, "seed")
        _at_least(self.data, 0, "data")


@dataclass(frozen=True)
class DataConfig:
    """Labelled or unlabelled samples: a mapping with `source` (a data source by hook) and its keys, or none."""

    calibrate: dict[str, Any] | None = None
    test: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for key in ("calibrate", "test"):
            value = getattr(self, key)
            if value is not None and not isinstance(value.get("source"), str):
                raise ConfigError(
                    "no data source is named", where=key, do="Add `source: npz`, or another source's name."
                )
            count = None if value is None else value.get("count")
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                do = "Give a number of samples, 1 or more, or leave it out for all."
                raise ConfigError(f"{count!r} is no count", where=f"{key}.count", do=do)


@dataclass(frozen=True)
class ModelConfig:
    """A model: a factory with its weights, a saved TorchScript file, or a saved exported program (.pt2), of which
    `trusted` is the SHA-256; its inputs; its data and metric."""

    factory: dict[str, Any] | None = None
    torchscript: str | None = None
    program: str | None = None
    trusted: str | None = None
    weights: str | None = None
    inputs: dict[str, InputConfig] = field(default_factory=dict)
    dims: dict[str, DimConfig] = field(default_factory=dict)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    metric: str | None = None
    extra_inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if [self.factory, self.torchscript, self.program].count(None) != 2:
            raise ConfigError(
                "a model comes from exactly one of factory, torchscript and program",
                where="model",
                do="Give factory: {_target_: package.module.Class}, torchscript: path, or program: path.pt2.",
            )
        if self.factory is not None and not isinstance(self.factory.get("_target_"), str):
            raise ConfigError("no class is named", where="model.factory", do="Add `_target_: package.module.Class`.")
        if self.saved is not None and self.weights is not None:
            raise ConfigError("a saved model has its own weights", where="model.weights", do="Remove model.weights.")
        if self.trusted is not None:
            require_digest(self.trusted, "model.trusted")
            if self.saved is None:
                raise ConfigError("there is no saved model to trust", where="model.trusted", do="Remove it.")
        if not self.inputs:
            raise ConfigError(
                "the model has no inputs", where="model.inputs", do="Name each argument of forward, in its order."
            )
        for name, spec in self.inputs.items():
            for size in spec.shape:
                if isinstance(size, str) and size not in self.dims:
                    raise ConfigError(
                        f"dimension {size!r} has no sizes",
                        where=f"model.inputs.{name}.shape",
                        do=f"Add dims: {{{size}: {{min: 1, opt: 8, max: 64}}}}. {did_you_mean(size, self.dims)}",
                    )
        if self.metric is not None and self.data.test is None:
            raise ConfigError(
                f"metric {self.metric!r} has no data to be measured on",
                where="model.metric",
                do="Give model.data.test.",
            )

    @property
    def saved(self) -> str | None:
        """The file that holds the model with its weights; None of one that a factory makes."""
        return self.torchscript or self.program


@dataclass(frozen=True)
class CheckConfig:
    """The rule check: another severity for a rule, by its slug (`off` drops it); the seconds that it may take, and the
    memory that the model may take when it runs, in GiB beyond what it takes when it is loaded."""

    severity: dict[str, str] = field(default_factory=dict)
    seconds: float = 600.0
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        for slug, severity in list(self.severity.items()):
            if severity == "False":  # a bare `off` in conf/, which Hydra reads as YAML 1.1
                self.severity[slug] = severity = "off"
            _one_of(severity, SEVERITIES, f"severity.{slug}")
        _limits(self.seconds, self.memory_gib)


@dataclass(frozen=True)
class TorchscriptConfig:
    """The capture: its method; the tolerance (worst error over the largest magnitude); module rewrites that must fire
    and that must not be applied; the seconds that a route which compiles may take, and the memory, in GiB beyond what
    the loaded model takes."""

    method: str = "trace"
    tolerance: float = 1e-4
    require: list[str] = field(default_factory=list)
    forbid: list[str] = field(default_factory=list)
    seconds: float = 600.0
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        _one_of(self.method, METHODS, "method")
        _at_least(self.tolerance, 0, "tolerance")
        _limits(self.seconds, self.memory_gib)


@dataclass(frozen=True)
class ExportConfig:
    """The export to ONNX: opset; tolerance as in the capture; symbolics and passes that must fire or must not run."""

    opset: int = 17
    tolerance: float = 1e-4
    require: list[str] = field(default_factory=list)
    forbid: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        known_opset(self.opset, "opset", why=WHY_OPSETS)
        _at_least(self.tolerance, 0, "tolerance")


@dataclass(frozen=True)
class SimplifyConfig:
    """The simplification: by onnxsim, onnxslim, or none but the graph passes; tolerance as in the capture; passes that
    must fire or must not run."""

    method: str = "onnxsim"
    tolerance: float = 1e-4
    require: list[str] = field(default_factory=list)
    forbid: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _one_of(self.method, SIMPLIFIERS, "method")
        _at_least(self.tolerance, 0, "tolerance")


@dataclass(frozen=True)
class CalibrateConfig:
    """The calibration run: samples a batch, workers (threads; 0: one a core), of large tensors every `stride`-th
    element counted, and samples held out for `quantize.method: auto`, at most a quarter of all. `needed` is set by
    compose: true where an engine of the model asks for histograms."""

    batch_size: int = 8
    workers: int = 0
    stride: int = 7
    held_out: int = 16
    needed: bool = False

    def __post_init__(self) -> None:
        _at_least(self.batch_size, 1, "batch_size")
        _at_least(self.workers, 0, "workers")
        _at_least(self.stride, 1, "stride")
        _at_least(self.held_out, 0, "held_out")


@dataclass(frozen=True)
class ToleranceConfig:
    """How far a quantized artifact may be from the eager model: the metric's largest drop (0.01 = one point of
    accuracy); without a metric the least SQNR in dB and the least agreement, 0..1. fp32 has `relative` instead: worst
    error over the largest magnitude."""

    relative: float = 1e-4
    metric_drop: float = 0.01
    sqnr_db: float = 20.0
    agreement: float = 0.99

    def __post_init__(self) -> None:
        _at_least(self.relative, 0, "relative")
        _at_least(self.metric_drop, 0, "metric_drop")
        _at_least(self.sqnr_db, 0, "sqnr_db")
        if not 0 <= self.agreement <= 1:
            raise ConfigError(f"{self.agreement} is no fraction", where="agreement", do="Give 0 to 1.")


@dataclass(frozen=True)
class QuantizeConfig:
    """The precision that stands in the graph; for int8 and fp8 the threshold method with its options; for int8 whether
    channels of very unequal ranges are rescaled first; for int4 how many inputs share a scale (`block`); whether biases
    make up for the rounding of weights, and patterns (fnmatch, on ONNX node names and module paths) of nodes that stay
    in floating point; `layers`: a method and options for some; `elsewhere`: the precision of what is not quantized;
    `least_db`: layers that keep less are told."""

    precision: str = "fp32"
    method: str = "mse"
    options: dict[str, Any] = field(default_factory=dict)
    rescale: bool = True
    correct_biases: bool = True
    elsewhere: str = "fp32"
    block: int = 128
    least_db: float = 20.0
    exclude: list[str] = field(default_factory=list)
    layers: dict[str, Any] = field(default_factory=dict)
    tolerance: ToleranceConfig = field(default_factory=ToleranceConfig)
    require: list[str] = field(default_factory=list)
    forbid: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _one_of(self.precision, PRECISIONS, "precision")
        _at_least(self.least_db, 0, "least_db")
        _one_of(self.elsewhere, ("fp32", "fp16"), "elsewhere")
        if self.block not in BLOCKS:
            do = f"Give {' or '.join(map(str, BLOCKS))}."
            raise ConfigError(f"{self.block} inputs share no scale in TensorRT", where="block", do=do)
        for pattern, settings in self.layers.items():
            where = f"layers.{pattern}"
            if not isinstance(settings, Mapping) or not settings:
                raise ConfigError(f"{settings!r} is no setting", where=where, do="Give {method: max}.")
            for key in settings:
                _one_of(str(key), ("method", "options"), where)
            if not isinstance(settings.get("method", ""), str):
                raise ConfigError(
                    f"{settings['method']!r} is no name", where=f"{where}.method", do="Give {method: max}."
                )
            if not isinstance(settings.get("options", {}), Mapping):
                do = "Give {percentile: 99.9}."
                raise ConfigError(f"{settings['options']!r} is no mapping", where=f"{where}.options", do=do)

    @property
    def calibrated(self) -> bool:
        """Whether activation histograms are needed: weights alone can make up for their rounding by them only."""
        return self.precision in ("int8", "fp8") or (self.precision == "int4" and self.correct_biases)


@dataclass(frozen=True)
class EngineConfig:
    """The engine, for the backends that have the option (`qntz.targets.HAVE`).

    Attributes:
        backend: its name. compute_capabilities: "sm89"; none: the backend's default; `tensorrt` wants the one of its
            GPU.
        profiles: optimization profiles: of each the sizes of some of the model's dynamic dimensions, {min, opt, max},
            the others being the model's own; none: one, of the model's own.
        workspace_bytes: of the largest scratch memory. memory_pools: the bytes of others, by TensorRT's names.
        optimization_level: 0..5, how long the builder searches. tiling_level: one of TILING. aux_streams: of the engine
            at most, 0 for none.
        verbosity: what of the layers an inspector of the engine sees, one of VERBOSITIES.
        tf32: whether float32 products may be rounded to 10 bits of mantissa. sparse_weights: whether kernels may use
            that two of four weights are zero. weight_streaming: whether weights may stay in the host's memory.
        refit: which weights can be replaced in the built engine, one of REFITS. strip_plan: whether it holds none of
            those, which is smaller and takes a refit before it runs.
        tactic_sources: kernels that may be used, by TensorRT's names; none: the default.
        hardware_compatibility: one of COMPATIBILITIES. version_compatible: whether later versions of TensorRT may run
            it. exclude_lean_runtime: leaves out of such a plan the runtime that reads it.
        timing_cache: whether measured times of kernels are kept, and used by the next build on this GPU.
        implicit_int8: whether TensorRT 10 is given the float graph and calibration.cache in place of Q/DQ, and chooses
            itself which layers run in int8.
    """

    backend: str = "tensorrt_rtx"
    compute_capabilities: list[str] = field(default_factory=list)
    profiles: list[Any] = field(default_factory=list)
    workspace_bytes: int | None = None
    memory_pools: dict[str, int] = field(default_factory=dict)
    optimization_level: int | None = None
    tiling_level: str = "none"
    aux_streams: int | None = None
    verbosity: str = "layer_names_only"
    tf32: bool = False
    sparse_weights: bool = False
    weight_streaming: bool = False
    refit: str = "none"
    strip_plan: bool = False
    tactic_sources: list[str] = field(default_factory=list)
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    timing_cache: bool = False
    implicit_int8: bool = False

    def __post_init__(self) -> None:
        for names, known, where in (
            (self.compute_capabilities, COMPUTE_CAPABILITIES, "compute_capabilities"),
            (self.tactic_sources, TACTIC_SOURCES, "tactic_sources"),
        ):
            for name in names:
                _one_of(name, known, where)
            if len(set(names)) < len(names):
                raise ConfigError("one stands there twice", where=where, do="Name each once.")
        if self.workspace_bytes is not None:
            _at_least(self.workspace_bytes, 1, "workspace_bytes")
            _at_most(self.workspace_bytes, MOST_MEMORY, "workspace_bytes")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"{self.optimization_level} is no level", where="optimization_level", do="Give 0 to 5.")
        if self.aux_streams is not None:
            _at_least(self.aux_streams, 0, "aux_streams")
            _at_most(self.aux_streams, MOST_STREAMS, "aux_streams")
        for pool, size in self.memory_pools.items():
            _one_of(pool, MEMORY_POOLS, "memory_pools")
            _at_least(size, 1, f"memory_pools.{pool}")
            _at_most(size, MOST_MEMORY, f"memory_pools.{pool}")
        for name, known in (
            ("tiling_level", TILING),
            ("verbosity", VERBOSITIES),
            ("refit", REFITS),
            ("hardware_compatibility", COMPATIBILITIES),
        ):
            _one_of(getattr(self, name), known, name)
        if self.exclude_lean_runtime and not self.version_compatible:
            do = "Set version_compatible: true."
            raise ConfigError("there is no lean runtime to leave out", where="exclude_lean_runtime", do=do)
        if self.strip_plan and self.refit == "none":
            do = "Set refit: all, or identical for the same weights."
            raise ConfigError("a stripped plan cannot run", where="strip_plan", why="no weight can be refitted", do=do)
        for index, profile in enumerate(self.profiles):
            where = f"profiles.{index}"
            if not isinstance(profile, Mapping) or not profile:
                do = "Give sizes of dimensions, {batch: {min: 1, opt: 1, max: 1}}."
                raise ConfigError(f"{profile!r} is no profile", where=where, do=do)

    def profiles_of(self, dims: Mapping[str, DimConfig]) -> list[dict[str, DimConfig]]:
        """The optimization profiles, each with the sizes of the dimensions that it names; a size that it does not give
        is the model's.

        Raises:
            ConfigError: one names another dimension, leaves the model's sizes, or there are sizes of the model that
                none takes.
        """
        found = []
        for index, profile in enumerate(self.profiles):
            sizes = {}
            for name, given in profile.items():
                where = f"engine.profiles.{index}.{name}"
                if name not in dims:
                    raise ConfigError(f"no dimension {name!r}", where=where, do=did_you_mean(name, dims))
                if not isinstance(given, (Mapping, DimConfig)):
                    do = "Give its sizes, {min: 1, opt: 1, max: 1}."
                    raise ConfigError(f"{given!r} is no range", where=where, do=do)
                whole = dims[name]
                told = given if isinstance(given, Mapping) else dataclasses.asdict(given)
                sizes[name] = one = build(DimConfig, {**dataclasses.asdict(whole), **told}, where)
                if not (whole.min <= one.min and one.max <= whole.max):
                    what = f"{one.min} to {one.max} leaves the model's {whole.min} to {whole.max}"
                    raise ConfigError(what, where=where, do=f"Widen model.dims.{name}, which the model is tested over.")
            found.append(sizes)
        if found:
            _require_covered(found, dims)
        return found

    def refusal(self, precision: str) -> BackendError | None:
        """Why its backend cannot take it with a graph of this precision, as far as that is known beforehand."""
        fields = dataclasses.fields(self)
        options, defaults = ({one.name: getattr(given, one.name) for one in fields} for given in (self, EngineConfig()))
        return targets.refusal(self.backend, options, defaults, precision)


def _require_covered(profiles: Sequence[Mapping[str, DimConfig]], dims: Mapping[str, DimConfig]) -> None:
    """Raises ConfigError for sizes of the model that no profile takes: the model is verified over all of them."""
    named = sorted({name for profile in profiles for name in profile})
    # A box that is not covered has a corner right beside a profile's, or at the model's own ends.
    edges = {
        name: sorted(
            size
            for size in {
                dims[name].min,
                dims[name].max,
                *(edge for one in profiles if name in one for edge in (one[name].min - 1, one[name].max + 1)),
            }
            if dims[name].min <= size <= dims[name].max
        )
        for name in named
    }
    for sizes in itertools.product(*edges.values()):
        at = dict(zip(named, sizes, strict=True))
        if not any(all(one.min <= at[name] <= one.max for name, one in profile.items()) for profile in profiles):
            told = ", ".join(f"{name} {size}" for name, size in at.items())
            do = "Add one, or narrow model.dims: the engine is verified over all of them."
            raise ConfigError(f"none takes {told}", where="engine.profiles", do=do)


@dataclass(frozen=True)
class VerifyConfig:
    """The verification: how far the engine may be from the eager model; `require_run`: true where an engine that cannot
    be run here shall be an error."""

    require_run: bool = False
    tolerance: ToleranceConfig = field(default_factory=ToleranceConfig)


@dataclass(frozen=True)
class GateConfig:
    """What an engine must reach; what is not named is not asked.

    Attributes:
        metric_drop: the model's metric may fall so far below the eager model's (0.005: half a point). sqnr_db,
            agreement: the least. bytes: of the engine at most. baseline: another engine of the model, to whose bytes
            `bytes_ratio` bounds its own, and `latency_ratio` its median latency, measured in turn with it. run: the
            engine itself has run; where it has not, its figures are its graph's under ONNX Runtime.
    """

    metric_drop: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    bytes: int | None = None
    baseline: str | None = None
    bytes_ratio: float | None = None
    latency_ratio: float | None = None
    run: bool = False

    def __post_init__(self) -> None:
        for name in ("metric_drop", "sqnr_db", "agreement", "bytes", "bytes_ratio", "latency_ratio"):
            if (value := getattr(self, name)) is not None:
                _at_least(value, 0, name)
        if self.sqnr_db is not None and self.sqnr_db > CAP_DB:
            why = f"metrics.json ends at {CAP_DB:g} dB, which stands for no difference"
            raise ConfigError(
                f"{self.sqnr_db:g} dB are never reached", where="sqnr_db", why=why, do=f"Give {CAP_DB:g} or less."
            )
        if self.agreement is not None and self.agreement > 1:
            raise ConfigError(f"{self.agreement} is no fraction", where="agreement", do="Give 0 to 1.")
        if all(getattr(self, one.name) == one.default for one in dataclasses.fields(self)):
            raise ConfigError("asks nothing", do="Give {sqnr_db: 35}, or another bound.")
        if (self.baseline is None) != (self.bytes_ratio is None and self.latency_ratio is None):
            do = "Give both: {baseline: digits-fp32, bytes_ratio: 0.5}."
            raise ConfigError("a baseline and a ratio to it go together", where="baseline", do=do)


def require_engines(gates: Mapping[str, GateConfig], engines: Sequence[str], where: str = "report.gates") -> None:
    """Raises ConfigError for a gate whose pattern matches none of a model's engines, or whose baseline is none."""
    for pattern, gate in gates.items():
        if not any(fnmatch.fnmatchcase(name, pattern) for name in engines):
            do = did_you_mean(pattern, engines)
            raise ConfigError("matches no engine of the model", where=f"{where}.{pattern}", do=do)
        if gate.baseline is not None and gate.baseline not in engines:
            what, do = f"no engine {gate.baseline!r} of the model", did_you_mean(gate.baseline, engines)
            raise ConfigError(what, where=f"{where}.{pattern}.baseline", do=do)


@dataclass(frozen=True)
class ReportConfig:
    """The report: how many of the worst layers it lists, the seconds for which each engine that can run here is timed
    (0: not at all), and gates by engine (patterns as fnmatch has them). `engines` is set by compose: those of this
    model."""

    layers: int = 20
    latency_seconds: float = 1.0
    gates: dict[str, GateConfig] = field(default_factory=dict)
    engines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _at_least(self.layers, 1, "layers")
        _at_least(self.latency_seconds, 0, "latency_seconds")
        timed = [pattern for pattern, gate in self.gates.items() if gate.latency_ratio is not None]
        if timed and not self.latency_seconds:
            do = "Give latency_seconds: 1, or leave the gate out."
            raise ConfigError("no engine is timed", where=f"gates.{timed[0]}.latency_ratio", do=do)


@dataclass(frozen=True)
class Config:
    """Everything that one entry of params.yaml composes to. A stage sees only what `READS` grants it; the rest keeps
    its default."""

    model: ModelConfig
    check: CheckConfig = field(default_factory=CheckConfig)
    torchscript: TorchscriptConfig = field(default_factory=TorchscriptConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    simplify: SimplifyConfig = field(default_factory=SimplifyConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        refused = self.engine.refusal(self.quantize.precision)
        if refused is not None:
            raise ConfigError(refused.what, where=refused.where, why=refused.why, do=refused.do)
        self.engine.profiles_of(self.model.dims)
        if self.engine.implicit_int8 and self.quantize.exclude:
            raise ConfigError(
                "quantize.exclude does not hold in it",
                where="engine.implicit_int8",
                why="TensorRT chooses the layers that run in int8",
                do="Leave out one of the two.",
            )


MODEL_STAGES = ("check", "torchscript", "export", "simplify", "calibrate", "report")
ENGINE_STAGES = ("quantize", "engine", "verify")
# torch.jit.script orders what it writes by Python's hashes: a fixed seed, the same everywhere; and threads that do not
# spin while they wait, as their number is not this machine's (`qntz.eager.fix_threads`)
CAPTURING = ("torchscript", "export")  # the stages that run with these variables
VARIABLES = {"PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "passive"}
STAGES = ("check", "torchscript", "export", "simplify", "calibrate", "quantize", "engine", "verify", "report")

_SHAPES = ("model.inputs", "model.dims")
_SOURCE = ("model.factory", "model.torchscript", "model.program", "model.trusted", "model.weights")
READS: dict[str, tuple[str, ...]] = {
    "check": (*_SOURCE, *_SHAPES, "model.probes", "torchscript.method", "torchscript.forbid", "export.opset", "check"),
    "torchscript": (*_SOURCE, *_SHAPES, "model.probes", "model.data.test", "torchscript", "export.opset"),
    "export": ("model.inputs", "export"),
    "simplify": ("simplify",),
    "calibrate": (*_SHAPES, "model.data.calibrate", "calibrate"),
    "quantize": (*_SHAPES, "model.data.test", "model.metric", "quantize"),
    "engine": (*_SHAPES, "quantize.precision", "engine"),
    "verify": (*_SHAPES, "model.data.test", "model.metric", "quantize.precision", "engine", "verify"),
    "report": ("report",),
}
"""The keys of a composed file that each stage may read, and so depends on (dvc.yaml names the same)."""


def granted(stage: str, composed: Mapping[str, Any]) -> Any:
    """What `READS` grants a stage of a composed entry, typed, as nested namespaces: `.model.dims`, `.export.opset`.
    Anything else is an AttributeError, so that no stage can depend on what its key does not hold."""
    view = types.SimpleNamespace()
    for dotted in READS[stage]:
        kind: Any = Config
        value: Any = composed
        place = view
        *parents, last = dotted.split(".")
        for part in (*parents, last):
            kind, value = typing.get_type_hints(kind)[part], value[part]
            if part != last or part in parents:
                if not hasattr(place, part):
                    setattr(place, part, types.SimpleNamespace())
                place = getattr(place, part)
        setattr(place, last, build(kind, value, dotted))
    return view


def build(kind: type, data: Any, where: str = "") -> Any:
    """An instance of a dataclass, or of any type that its fields have, from what YAML gives.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type; the message names the key.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        return build(next(arg for arg in args if arg is not type(None)), data, where)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, where)
    if origin is dict:
        _expect(isinstance(data, Mapping), data, "a mapping", where)
        return {key: build(args[1], value, f"{where}.{key}") for key, value in data.items()}
    if origin is list:
        _expect(isinstance(data, (list, tuple)), data, "a list", where)
        return [build(args[0], value, where) for value in data]
    if kind is float:
        _expect(isinstance(data, (int, float)) and not isinstance(data, bool), data, "a number", where)
        return float(data)
    _expect(
        isinstance(data, kind) and (kind is bool or not isinstance(data, bool)), data, f"of type {kind.__name__}", where
    )
    return data


def _build_dataclass(kind: type, data: Any, where: str) -> Any:
    _expect(isinstance(data, Mapping), data, "a mapping", where)
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in hints:
            raise ConfigError(f"unknown key {key!r}", where=where, do=did_you_mean(str(key), hints))
    try:
        return kind(**{key: build(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in data.items()})
    except ConfigError as error:
        if where and not error.where.startswith(where):
            place = f"{where}.{error.where}" if error.where else where
            raise ConfigError(error.what, where=place, why=error.why, do=error.do) from None
        raise


def _expect(holds: bool, data: Any, wanted: str, where: str) -> None:
    if not holds:
        raise ConfigError(f"{data!r} is not {wanted}", where=where)


def tensor_specs(
    inputs: Mapping[str, InputConfig],
    dims: Mapping[str, DimConfig],
    profiles: Sequence[Mapping[str, DimConfig]] = (),
) -> tuple[TensorSpec, ...]:
    """The inputs with their shape ranges, in the order of forward's arguments.

    Args:
        profiles: of each the sizes of some dimensions, the others being those of `dims`.
    """

    def shapes(spec: InputConfig, given: Mapping[str, DimConfig]) -> Range:
        sizes = {**dims, **given}
        low, best, high = (
            tuple(getattr(sizes[size], which) if isinstance(size, str) else size for size in spec.shape)
            for which in ("min", "opt", "max")
        )
        return low, best, high

    specs = []
    for name, spec in inputs.items():
        ranges = [shapes(spec, given) for given in profiles] or [shapes(spec, {})]
        low = tuple(map(min, zip(*(one[0] for one in ranges), strict=True)))
        high = tuple(map(max, zip(*(one[2] for one in ranges), strict=True)))
        specs.append(TensorSpec(name, spec.dtype, low, ranges[0][1], high, tuple(ranges) if profiles else ()))
    return tuple(specs)
