"""The backends `tensorrt_rtx` and `tensorrt` (10 and 11): one class, because their Python APIs differ in few names.

Precision stands in the graph: every network is strongly typed. TensorRT-RTX builds on a machine without a GPU.
"""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from qntz import cuda
from qntz.builtin._tensorrt_guard import guard
from qntz.builtin._tensorrt_options import refusal, set_options
from qntz.builtin._tensorrt_run import NUMPY, EngineRunner
from qntz.builtin._tensorrt_timing import TimingCache
from qntz.builtin._tensorrt_watch import last_errors, make_logger, make_monitor, without_driver_noise
from qntz.config import EngineConfig
from qntz.errors import BackendError, one_line
from qntz.records import Built, Progress, Runner, TensorSpec

RTX, FULL = "tensorrt_rtx", "tensorrt"
FULL_VERSIONS = (10, 11)
SHOWN = 3  # of the nodes that a parser refuses
AMPERE = 80  # compute capability
TURING, NOT_ON_TURING = "sm75", ("fp32", "bf16")


class TensorRTBackend:
    """A `qntz.records.Backend` over TensorRT's Python API.

    Args:
        name: "tensorrt_rtx" or "tensorrt". load_module: imports the module of that name. install: how a user gets it.
    """

    def __init__(self, name: str, load_module: Callable[[], ModuleType], install: str):
        self.name, self._load_module, self._install = name, load_module, install

    def _module(self) -> ModuleType:
        try:
            return self._load_module()
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == self.name
            why = "" if missing else one_line(error)
            what = f"{self.name} is not installed" if missing else f"{self.name} does not load"
            raise BackendError(what, where="engine.backend", why=why, do=self._install) from error
        except OSError as error:  # a shared library of it is not there
            what = f"{self.name} does not load"
            raise BackendError(what, where="engine.backend", why=one_line(error), do=self._install) from error

    def version(self) -> str:
        """The module's version; raises BackendError where it is not installed."""
        return str(self._module().__version__)

    def refusal(self, config: EngineConfig, precision: str) -> BackendError | None:
        """Why this backend cannot do what `config` asks, here or at all; None where it can."""
        try:
            trt = self._module()
        except BackendError as error:
            return error
        known = config.refusal(precision) or refusal(trt, config)
        if known is not None:
            return known
        return self._full_refusal(config) if self.name == FULL else self._rtx_refusal(trt, config, precision)

    def _full_refusal(self, config: EngineConfig) -> BackendError | None:
        version = self.version()
        if not version.startswith(tuple(f"{major}." for major in FULL_VERSIONS)):
            known = " and ".join(map(str, FULL_VERSIONS))
            return BackendError(f"tensorrt {version} is not known", why=f"qntz knows {known}", do=self._install)
        reason = cuda.no_gpu_reason()
        if reason is not None:
            return BackendError(
                "tensorrt builds only on a machine with the target GPU",
                where="engine.backend",
                why=reason,
                do="Set engine.backend: tensorrt_rtx, which builds without one, or run this on a GPU machine.",
            )
        here = cuda.capability()
        if config.compute_capabilities != [here]:
            asked = ", ".join(config.compute_capabilities) or "none"
            return BackendError(
                f"the GPU here is {here}, the engine's compute capability is {asked}",
                where="engine.compute_capabilities",
                why="its engine fits the GPU that it was built on, and a shared cache tells them apart by this",
                do=f"Set [{here}], or build on a machine with the GPU that is meant.",
            )
        return None

    def _rtx_refusal(self, trt: ModuleType, config: EngineConfig, precision: str) -> BackendError | None:
        for capability in config.compute_capabilities:
            if capability.upper() not in trt.ComputeCapability.__members__:
                return BackendError(
                    f"tensorrt_rtx has no {capability}",
                    where="engine.compute_capabilities",
                    why=f"it knows {', '.join(_capabilities(trt))}",
                    do="For this GPU set engine.backend: tensorrt, and build on a machine that has it.",
                )
        if TURING in config.compute_capabilities and precision in NOT_ON_TURING:
            return BackendError(
                f"sm75 does not run {precision}",
                where="engine.compute_capabilities",
                why="tensorrt_rtx refuses bf16 and matrix products in fp32 on Turing",
                do="Remove sm75, or set quantize.precision to fp16 or int8.",
            )
        without_gpu = cuda.no_gpu_reason()
        if config.refit != "none" and without_gpu is not None:
            return BackendError(
                f"tensorrt_rtx builds refit: {config.refit} only where there is a GPU",
                where="engine.refit",
                why=without_gpu,
                do="Build on a GPU machine, or leave it out.",
            )
        return None

    def why_not_run(self, config: EngineConfig) -> str | None:
        """Why an engine built as `config` says cannot be run on this machine, in words; None where it can be."""
        reason = cuda.no_gpu_reason() or cuda.no_device_memory_reason()
        if reason is not None:
            return reason
        try:
            trt = self._module()
        except BackendError as error:
            return error.what
        if config.strip_plan:
            return "its plan is stripped: it takes a refit before it runs"
        here = cuda.capability()
        if config.hardware_compatibility == "ampere_plus" and int(here[2:]) >= AMPERE:
            return None
        if self.name == RTX and here not in _capabilities(trt):
            return f"tensorrt_rtx has no {here}, which the GPU here is"
        if self.name == RTX and here == TURING and not config.compute_capabilities:
            return f"tensorrt_rtx's default is for Ampere and later, the GPU here is {here}"
        if config.compute_capabilities and here not in config.compute_capabilities:
            return f"the engine is for {', '.join(config.compute_capabilities)}, the GPU here is {here}"
        return None

    def build(self, onnx_path: Path, inputs: Sequence[TensorSpec], config: EngineConfig, progress: Progress) -> Built:
        """Builds an engine of an ONNX file.

        Raises:
            BackendError: the parser or the builder refuses the graph, or the graph does not mean what TensorRT would
                make of it; with their own words.
        """
        guard(onnx_path)
        trt = self._module()
        monitor = make_monitor(trt, progress)
        # TensorRT swallows a KeyboardInterrupt that reaches it in a callback; those run in the thread that builds.
        return _in_thread(lambda: self._build(trt, onnx_path, inputs, config, monitor), monitor.stop)

    def _build(
        self, trt: ModuleType, onnx_path: Path, inputs: Sequence[TensorSpec], config: EngineConfig, monitor: Any
    ) -> Built:
        where, started = str(onnx_path), time.perf_counter()
        logger = make_logger(trt, drop_driver_noise=self.name == RTX)
        try:
            builder = trt.Builder(logger)
        except (TypeError, RuntimeError) as error:
            raise BackendError("TensorRT does not start", why=last_errors(logger)) from error
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        # From the file, not from bytes: a model of 500 MB is then in memory only once.
        if not parser.parse_from_file(where):
            raise _parser_refusal(parser, logger, where)
        if network.num_layers == 0:
            raise BackendError("the graph is empty", where=where, why="the parser made no layers of it")
        fitted = _fitted(network, {spec.name: spec for spec in inputs}, where)
        options = builder.create_builder_config()
        self._set_options(trt, options, config)
        timings = TimingCache(trt, options, self._target(config)) if config.timing_cache else None
        dynamic = _add_profiles(builder, options, network, fitted, logger, where)
        options.progress_monitor = monitor
        plan = builder.build_serialized_network(network, options)
        monitor.finish()
        if plan is None:
            do = "Change the model or the option that it names, or choose another engine.backend."
            raise BackendError(f"{self.name} cannot build the graph", where=where, why=last_errors(logger), do=do)
        return Built(
            plan=bytes(plan),
            version=str(trt.__version__),
            target=self._target(config),
            seconds=time.perf_counter() - started,
            inputs=fitted,
            outputs=tuple(_as_built(network.get_output(index)) for index in range(network.num_outputs)),
            details={
                "layers": network.num_layers,
                "dynamic": dynamic,
                "warnings": [*logger.warnings(), *(timings.saved() if timings is not None else ())],
                **({"timing_cache": timings.digest} if timings is not None else {}),
            },
        )

    def load(self, plan: Path, config: EngineConfig) -> Runner:
        """The engine, ready to run on the first GPU; raises ArtifactError or BackendError where it cannot be loaded."""
        return EngineRunner(self._module(), plan, holds_code=config.version_compatible)

    def _set_options(self, trt: ModuleType, options: Any, config: EngineConfig) -> None:
        set_options(trt, options, config)
        if self.name == RTX and config.compute_capabilities:
            options.num_compute_capabilities = len(config.compute_capabilities)
            for index, capability in enumerate(config.compute_capabilities):
                if not options.set_compute_capability(trt.ComputeCapability.__members__[capability.upper()], index):
                    raise BackendError(f"{self.name} does not take {capability}", where="engine.compute_capabilities")

    def _target(self, config: EngineConfig) -> str:
        if self.name == FULL:
            return f"{cuda.gpu_name()} ({cuda.capability()})"
        return ", ".join(config.compute_capabilities) or "portable (tensorrt_rtx's default)"


def _in_thread(work: Callable[[], Built], stop: Callable[[], None]) -> Built:
    """What `work` returns or raises, run in a thread of its own; an interruption of this one calls `stop`, and waits
    for the end unless a second one comes.

    It starts and waits without a lock, which an interruption that falls into taking it would leave taken for ever:
    that is why neither threading.Thread nor concurrent.futures stands here."""
    started: list[bool] = []
    built: list[Built] = []
    raised: list[BaseException] = []

    def run() -> None:
        started.append(True)
        try:
            built.append(work())
        except BaseException as error:
            raised.append(error)

    def wait(running: list[bool]) -> None:
        while running and not built and not raised:
            time.sleep(0.02)

    try:
        _thread.start_new_thread(run, ())
        wait([True])
    except BaseException:
        stop()
        wait(started)
        raise
    if raised:
        raise raised[0]
    return built[0]


def _capabilities(trt: ModuleType) -> list[str]:
    """The compute capabilities that TensorRT-RTX has, "sm75" and so on."""
    found = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return sorted(found, key=lambda name: int(name[2:]))


def _network_flags(trt: ModuleType) -> int:
    """STRONGLY_TYPED, where this version still has it: where it has not, no network is anything else."""
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def refused_nodes(trt: ModuleType, data: bytes) -> list[tuple[int, str, str]]:
    """What the parser refuses of an ONNX file: each node's position, its operator and why. It needs no GPU for that."""
    logger = make_logger(trt, drop_driver_noise=True)
    network = trt.Builder(logger).create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if parser.parse(data):
        return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [(error.node(), error.node_operator(), _described(error)) for error in errors]


def _described(error: Any) -> str:
    text = " ".join(without_driver_noise(str(error.desc())).split())
    if "Plugin not found" in text:  # what the parser says of every operator that it does not know
        text = "no such operator, and no plugin of that name"
    if text.strip() in ("", "false"):  # an assertion's text, and nothing else
        text = "the parser does not take it"
    return text.rstrip(".")


def _parser_refusal(parser: Any, logger: Any, where: str) -> BackendError:
    """All that the parser refuses, as one error: how many nodes, and the first of them."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return BackendError("the parser refuses the graph", where=where, why=last_errors(logger))
    named = [error for error in errors if error.node_operator() or error.node_name()]
    shown = [] if named else [_described(errors[0])]
    for error in named[:SHOWN]:
        shown.append(f"node {error.node()} {error.node_name()} ({error.node_operator()}): {_described(error)}")
    more = f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    many = f"{len(named)} node{'s' if len(named) > 1 else ''}" if named else "the graph"
    return BackendError(
        f"the parser refuses {many}",
        where=where,
        why="; ".join(shown) + more,
        do="Rewrite them by a plugin (qntz_symbolics, qntz_graph_passes), or change the model.",
        nodes=[(error.node(), error.node_name(), error.node_operator(), _described(error)) for error in named],
    )


def _dtype(tensor: Any) -> str:
    return NUMPY.get(tensor.dtype.name, {"BF16": "bfloat16"}.get(tensor.dtype.name, tensor.dtype.name.lower()))


def _fitted(network: Any, specs: Mapping[str, TensorSpec], where: str) -> tuple[TensorSpec, ...]:
    """The network's inputs with their shape ranges; raises BackendError where a specification does not fit."""
    fitted = []
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        name, shape = tensor.name, tuple(tensor.shape)
        if tensor.is_shape_tensor:
            why = "qntz sets ranges for shapes, not for values"
            raise BackendError(f"input {name!r} is used as a shape", where=where, why=why, do="Make it a constant.")
        spec = specs.get(name)
        if spec is None:
            known = ", ".join(sorted(specs)) or "nothing"
            raise BackendError(f"input {name!r} has no specification", where=where, why=f"model.inputs has {known}")
        if spec.dtype != _dtype(tensor):
            why = f"model.inputs says {spec.dtype}"
            raise BackendError(f"input {name!r} is {_dtype(tensor)} in the graph", where=where, why=why)
        for sizes in (shape for one in spec.ranges for shape in one):
            if len(sizes) != len(shape) or any(d not in (-1, s) for d, s in zip(shape, sizes, strict=True)):
                why = f"model.inputs and model.dims give {list(sizes)}"
                raise BackendError(f"input {name!r} is {list(shape)} in the graph", where=where, why=why)
        fitted.append(spec)
    return tuple(fitted)


def _add_profiles(
    builder: Any, options: Any, network: Any, fitted: Iterable[TensorSpec], logger: Any, where: str
) -> bool:
    """Sets the shape ranges of the dynamic inputs, profile by profile; False where there is none, and so no profile."""
    shapes = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    ranges = [spec for spec in fitted if -1 in shapes[spec.name]]
    if not ranges:
        return False
    for index in range(len(ranges[0].ranges)):
        profile = builder.create_optimization_profile()
        for spec in ranges:
            profile.set_shape(spec.name, *spec.ranges[index])
        if options.add_optimization_profile(profile) < 0:
            named = ", ".join(f"{s.name} {' '.join(str(list(shape)) for shape in s.ranges[index])}" for s in ranges)
            raise BackendError(f"the shape ranges are refused ({named})", where=where, why=last_errors(logger))
    return True


def _as_built(tensor: Any) -> TensorSpec:
    shape = tuple(tensor.shape)
    return TensorSpec(tensor.name, _dtype(tensor), shape, shape, shape)
