"""The options of an engine on TensorRT's builder configuration, by the names that this version has."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from qntz.config import EngineConfig
from qntz.errors import BackendError

FLAGS = {
    "tf32": "TF32",
    "sparse_weights": "SPARSE_WEIGHTS",
    "weight_streaming": "WEIGHT_STREAMING",
    "strip_plan": "STRIP_PLAN",
    "version_compatible": "VERSION_COMPATIBLE",
    "exclude_lean_runtime": "EXCLUDE_LEAN_RUNTIME",
}
REFIT = {"all": "REFIT", "identical": "REFIT_IDENTICAL"}
CHOICES = {
    "tiling_level": "TilingOptimizationLevel",
    "verbosity": "ProfilingVerbosity",
    "hardware_compatibility": "HardwareCompatibilityLevel",
}
ONLY_IN_10 = ("cublas", "cublas_lt", "cudnn")


def refusal(trt: ModuleType, config: EngineConfig) -> BackendError | None:
    """Why this version cannot do what an option asks; None where it can."""
    if config.implicit_int8 and "INT8" not in trt.BuilderFlag.__members__:
        return BackendError(
            f"{trt.__name__} {trt.__version__} has no implicit int8",
            where="engine.implicit_int8",
            why="TensorRT 10 has it",
            do="Remove it: the int8 of quantize is explicit Q/DQ, which every version takes.",
        )
    known = trt.TacticSource.__members__
    for source in config.tactic_sources:
        if source.upper() not in known:
            return BackendError(
                f"{trt.__name__} {trt.__version__} has no tactic source {source}",
                where="engine.tactic_sources",
                why="TensorRT 10 has it" if source in ONLY_IN_10 else "",
                do=f"It knows {', '.join(sorted(name.lower() for name in known))}.",
            )
    for option, value, enumeration, member in _members(config):
        if member not in getattr(getattr(trt, enumeration, None), "__members__", ()):
            return BackendError(
                f"{trt.__name__} {trt.__version__} has no {option}{value and f': {value}'}",
                where=f"engine.{option}",
                why="other versions have it",
                do=f"Remove it, or install another {trt.__name__}.",
            )
    return None


def _members(config: EngineConfig) -> Iterator[tuple[str, str, str, str]]:
    """What the options need of the module: (option, its value where it is a choice, enumeration, member)."""
    for option, flag in FLAGS.items():
        if getattr(config, option):
            yield option, "", "BuilderFlag", flag
    if config.refit != "none":
        yield "refit", config.refit, "BuilderFlag", REFIT[config.refit]
    for pool in config.memory_pools:
        yield "memory_pools", pool, "MemoryPoolType", pool.upper()
    for option, enumeration in CHOICES.items():
        if (value := getattr(config, option)) != "none":
            yield option, value, enumeration, value.upper()


def set_options(trt: ModuleType, options: Any, config: EngineConfig) -> None:
    """Sets on an `IBuilderConfig` what the configuration asks; the rest keeps TensorRT's default, but for TF32."""
    options.clear_flag(trt.BuilderFlag.TF32)  # on by default, though the graph says float32
    for name, flag in FLAGS.items():
        if getattr(config, name):
            options.set_flag(trt.BuilderFlag.__members__[flag])
    if config.refit != "none":
        options.set_flag(trt.BuilderFlag.__members__[REFIT[config.refit]])
    if config.workspace_bytes is not None:
        options.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_bytes)
    for pool, size in config.memory_pools.items():
        options.set_memory_pool_limit(trt.MemoryPoolType.__members__[pool.upper()], size)
    if config.optimization_level is not None:
        options.builder_optimization_level = config.optimization_level
    if config.aux_streams is not None:
        options.max_aux_streams = config.aux_streams
    if config.tiling_level != "none":
        options.tiling_optimization_level = trt.TilingOptimizationLevel.__members__[config.tiling_level.upper()]
    options.profiling_verbosity = trt.ProfilingVerbosity.__members__[config.verbosity.upper()]
    if config.tactic_sources:
        sources = (trt.TacticSource.__members__[source.upper()] for source in config.tactic_sources)
        if not options.set_tactic_sources(sum({1 << int(source) for source in sources})):
            raise BackendError("its tactic sources are refused", where="engine.tactic_sources")
    if config.hardware_compatibility != "none":
        level = trt.HardwareCompatibilityLevel.__members__[config.hardware_compatibility.upper()]
        options.hardware_compatibility_level = level
