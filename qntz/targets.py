"""What a target takes, as far as the configuration alone tells: composed entries and backends both ask it.

The table is what TensorRT 10.16, 11.4 and TensorRT-RTX 1.7 were seen to take: tests hold it against their recorded
APIs, and against what TensorRT-RTX really builds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qntz.errors import BackendError

FULL, RTX, ORT = "tensorrt", "tensorrt_rtx", "onnxruntime"
SHIPPED = (FULL, RTX, ORT)
FIRST = {"fp8": 89, "int4": 80}  # compute capability that has the format, as TensorRT-RTX 1.7 builds it
HAVE: dict[str, tuple[str, ...]] = {
    "compute_capabilities": (FULL, RTX),
    "profiles": (FULL, RTX),
    "workspace_bytes": (FULL, RTX),
    "memory_pools": (FULL, RTX),
    "optimization_level": (FULL, RTX),
    "tiling_level": (FULL, RTX),
    "aux_streams": (FULL, RTX),
    "verbosity": (FULL, RTX),
    "tf32": (FULL, RTX),
    "sparse_weights": (FULL, RTX),
    "weight_streaming": (FULL, RTX),
    "refit": (FULL, RTX),
    "strip_plan": (FULL, RTX),
    "tactic_sources": (FULL, RTX),
    "hardware_compatibility": (FULL,),
    "version_compatible": (FULL,),
    "exclude_lean_runtime": (FULL,),
    "timing_cache": (FULL,),
    "implicit_int8": (FULL,),
}
"""The options of an engine, and which of the shipped backends have them."""
INSTEAD = {
    "hardware_compatibility": "compute_capabilities builds for several GPUs at once.",
    "timing_cache": "tensorrt_rtx chooses its kernels where the engine runs.",
    "implicit_int8": "Remove it: the int8 of quantize is explicit Q/DQ, which tensorrt_rtx takes.",
}
UNTIL = {"implicit_int8": 10}  # the last version of tensorrt that has the option


def refusal(
    backend: str, options: Mapping[str, Any], defaults: Mapping[str, Any], precision: str
) -> BackendError | None:
    """Why a backend lacks an option that is set, or it or one of its GPUs a number format; None where they have all.

    Args:
        options, defaults: of the engine's configuration, by name. precision: of the graph.
    """
    return (
        _lacking_option(backend, options, defaults)
        or _lacking_format(backend, options["compute_capabilities"], precision)
        or _lacking_ranges(options, precision)
    )


def _lacking_option(backend: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> BackendError | None:
    for option, have in HAVE.items():
        if backend in SHIPPED and backend not in have and options[option] != defaults[option]:
            several = len(have) > 1
            return BackendError(
                f"{backend} has no {option}",
                where=f"engine.{option}",
                why=f"{' and '.join(have)} {'have' if several else 'has'} this option{_until(option)}",
                do=INSTEAD.get(option, "") if backend == RTX else "Remove it, or choose another engine.backend.",
            )
    return None


def _until(option: str) -> str:
    return f", up to version {UNTIL[option]}" if option in UNTIL else ""


def _lacking_ranges(options: Mapping[str, Any], precision: str) -> BackendError | None:
    if not options["implicit_int8"] or precision == "int8":
        return None
    return BackendError(
        f"there are no ranges of int8 in {precision}",
        where="engine.implicit_int8",
        why="TensorRT takes them from calibration.cache, which is empty but for int8",
        do="Set quantize: {use: int8}, or remove it.",
    )


def _lacking_format(backend: str, capabilities: Sequence[str], precision: str) -> BackendError | None:
    where = "engine.compute_capabilities"
    first = FIRST.get(precision, 0)
    lacking = [name for name in capabilities if int(name[2:]) < first]
    if lacking:
        several = len(lacking) > 1
        return BackendError(
            f"{', '.join(lacking)} {'have' if several else 'has'} no {precision}",
            where=where,
            why=f"it begins with sm{first}",
            do=f"Leave {'them' if several else 'it'} out, or choose another quantize.precision.",
        )
    if precision == "fp8" and backend == RTX and not capabilities:
        return BackendError(
            "fp8 takes compute capabilities by name",
            where=where,
            why="tensorrt_rtx's default is for Ampere too, which has no fp8",
            do="Set [sm89, sm120], or those of your GPUs.",
        )
    if precision == "fp8" and backend == ORT:
        return BackendError(
            "onnxruntime is not right in fp8",
            where="quantize.precision",
            why="its optimizers drop a Relu before fp8's QuantizeLinear, wherever the graph is run by default",
            do="Choose int8, or engine.backend: tensorrt_rtx.",
        )
    return None
