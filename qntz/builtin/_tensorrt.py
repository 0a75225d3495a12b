"""The backends `tensorrt_rtx` and `tensorrt` (10 and 11): one class, because their Python APIs differ in few names.

Precision stands in the graph: every network is strongly typed, but for implicit int8 of TensorRT 10. TensorRT-RTX
builds on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from qntz import cuda
from qntz.builtin._tensorrt_guard import build_guarded, load_operators
from qntz.builtin._tensorrt_implicit import Implicit, implicit_of, set_implicit
from qntz.builtin._tensorrt_inputs import add_profiles, as_built, fitted
from qntz.builtin._tensorrt_layers import counted, engine_layers, network_layers
from qntz.builtin._tensorrt_options import refusal, set_options
from qntz.builtin._tensorrt_parse import parsed
from qntz.builtin._tensorrt_run import EngineRunner
from qntz.builtin._tensorrt_timing import TimingCache
from qntz.builtin._tensorrt_watch import interruptible, last_errors, make_logger, make_monitor, uncollected
from qntz.config import EngineConfig
from qntz.errors import BackendError, one_line
from qntz.records import Built, Progress, Runner, TensorSpec
from qntz.targets import FULL, RTX, TURING, not_of_rtx

FULL_VERSIONS = (10, 11)
AMPERE = 80  # compute capability


class TensorRTBackend:
    """A `qntz.records.Backend` over TensorRT's Python API.

    Args:
        name: "tensorrt_rtx" or "tensorrt". load_module: imports the module of that name. install: how a user gets it.
    """

    def __init__(self, name: str, load_module: Callable[[], ModuleType], install: str):
        self.name, self._load_module, self._install = name, load_module, install

    def _module(self) -> ModuleType:
        try:
            module = self._load_module()
            load_operators()  # the build's own imports end here
            return module
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
        machine = self._machine_refusal() if self.name == FULL else None
        known = machine or config.refusal(precision) or refusal(trt, config)
        if known is not None:
            return known
        return self._full_refusal(config) if self.name == FULL else self._rtx_refusal(trt, config)

    def _machine_refusal(self) -> BackendError | None:
        """What no configuration mends, and so is said first."""
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
        return None

    def _full_refusal(self, config: EngineConfig) -> BackendError | None:
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

    def _rtx_refusal(self, trt: ModuleType, config: EngineConfig) -> BackendError | None:
        unknown = not_of_rtx(config.compute_capabilities, _capabilities(trt))
        if unknown is not None:
            return unknown
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

        def build() -> Built:
            trt = self._module()
            monitor = make_monitor(trt, progress)
            with contextlib.ExitStack() as stack:
                stack.enter_context(interruptible(monitor.stop))
                implicit = stack.enter_context(implicit_of(onnx_path)) if config.implicit_int8 else None
                return self._build(trt, onnx_path, inputs, config, monitor, implicit)

        return build_guarded(onnx_path, build)

    @uncollected()
    def _build(
        self,
        trt: ModuleType,
        onnx_path: Path,
        inputs: Sequence[TensorSpec],
        config: EngineConfig,
        monitor: Any,
        implicit: Implicit | None,
    ) -> Built:
        where, started = str(onnx_path), time.perf_counter()
        logger = make_logger(trt, drop_driver_noise=self.name == RTX)
        try:
            builder = trt.Builder(logger)
        except (TypeError, RuntimeError) as error:
            raise BackendError("TensorRT does not start", why=last_errors(logger)) from error
        graph = onnx_path if implicit is None else implicit.graph
        network, _parser = parsed(trt, builder, logger, graph, where, strongly_typed=implicit is None)
        specs = fitted(network, {spec.name: spec for spec in inputs}, where)
        options = builder.create_builder_config()
        self._set_options(trt, options, config)
        if implicit is not None:
            set_implicit(trt, options, implicit)
        timings = TimingCache(trt, options, self._target(config)) if config.timing_cache else None
        dynamic = add_profiles(builder, options, network, specs, logger, where)
        options.progress_monitor = monitor
        parts = {"layers": network.num_layers, "network_layers_by_precision": network_layers(network)}
        plan = builder.build_serialized_network(network, options)
        monitor.finish()
        if plan is None:
            do = "Change the model or the option that it names, or choose another engine.backend."
            raise BackendError(f"{self.name} cannot build the graph", where=where, why=last_errors(logger), do=do)
        data, seconds = memoryview(plan).cast("B"), time.perf_counter() - started
        told, untold = self._layers(trt, data, config)
        notes = [*untold, *(timings.saved() if timings is not None else ())]
        return Built(
            plan=data,
            version=str(trt.__version__),
            target=self._target(config),
            seconds=seconds,
            inputs=specs,
            outputs=tuple(as_built(network.get_output(index)) for index in range(network.num_outputs)),
            details={
                **parts,
                **told,
                "dynamic": dynamic,
                "warnings": [*logger.warnings(), *notes],
                **({"timing_cache": timings.digest} if timings is not None else {}),
            },
        )

    def _layers(self, trt: ModuleType, plan: memoryview, config: EngineConfig) -> tuple[dict[str, Any], list[str]]:
        """For engine.json the built engine's layers, where it was asked to tell of them and can be loaded here; and a
        sentence where that fails: the engine is built all the same."""
        if config.verbosity != "detailed" or self.why_not_run(config) is not None:
            return {}, []
        layers, why = engine_layers(trt, plan, holds_code=config.version_compatible)
        if why:
            return {}, [f"the engine's layers are not told: {why}"]
        return {"layers_by_precision": counted(layers), "engine_layers": layers}, []

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


def _capabilities(trt: ModuleType) -> list[str]:
    """The compute capabilities that TensorRT-RTX has, "sm75" and so on."""
    found = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return sorted(found, key=lambda name: int(name[2:]))
