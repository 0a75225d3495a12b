"""What a target takes, as far as the configuration alone tells: composed entries and backends both ask it.

The table is what TensorRT 10.16, 11.4 and TensorRT-RTX 1.7 were seen to take: tests hold it against their recorded
APIs, and against what TensorRT-RTX really builds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qntz.errors import BackendError

WHERE = "engine.compute_capabilities"
FULL, RTX, ORT = "tensorrt", "tensorrt_rtx", "onnxruntime"
SHIPPED = (FULL, RTX, ORT)
FIRST = {"fp8": 89, "int4": 80}  # compute capability that has the format, as TensorRT-RTX 1.7 builds it
RTX_CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
TURING, NOT_ON_TURING = "sm75", ("fp32", "bf16")
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
    """Why a backend lacks an option that is set or a GPU, or it or a GPU a number format; None where they have all.

    Args:
        options, defaults: of the engine's configuration, by name. precision: of the graph.
    """
    return (
        _lacking_option(backend, options, defaults)
        or _lacking_gpu(backend, options["compute_capabilities"])
        or _lacking_format(backend, options["compute_capabilities"], precision)
        or _lacking_ranges(options, precision)
    )


def not_of_rtx(capabilities: Sequence[str], known: Sequence[str] = RTX_CAPABILITIES) -> BackendError | None:
    """Why TensorRT-RTX cannot build for one of the capabilities; None where it knows them all."""
    lacking = [name for name in capabilities if name not in known]
    if not lacking:
        return None
    return BackendError(
        f"tensorrt_rtx has no {lacking[0]}",
        where=WHERE,
        why=f"it knows {', '.join(known)}",
        do="For this GPU set engine.backend: tensorrt, and build on a machine that has it.",
    )


def _lacking_gpu(backend: str, capabilities: Sequence[str]) -> BackendError | None:
    if backend == RTX:
        return not_of_rtx(capabilities)
    if backend != FULL or len(capabilities) == 1:
        return None
    return BackendError(
        f"tensorrt builds for one GPU, {', '.join(capabilities) or 'none'} {'are' if capabilities else 'is'} named",
        where=WHERE,
        why="its engine fits the GPU that it is built on, and a shared cache tells them apart by this",
        do="Make an entry for each." if capabilities else "Name that GPU's, [sm90] for an H100.",
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
    first = FIRST.get(precision, 0)
    lacking = [name for name in capabilities if int(name[2:]) < first]
    if lacking:
        several = len(lacking) > 1
        return BackendError(
            f"{', '.join(lacking)} {'have' if several else 'has'} no {precision}",
            where=WHERE,
            why=f"it begins with sm{first}",
            do=f"Leave {'them' if several else 'it'} out, or choose another quantize.precision.",
        )
    if backend == RTX and TURING in capabilities and precision in NOT_ON_TURING:
        return BackendError(
            f"{TURING} does not run {precision}",
            where=WHERE,
            why="tensorrt_rtx refuses bf16 and matrix products in fp32 on Turing",
            do=f"Remove {TURING}, or set quantize.precision to fp16 or int8.",
        )
    if precision == "fp8" and backend == RTX and not capabilities:
        return BackendError(
            "fp8 takes compute capabilities by name",
            where=WHERE,
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
    if precision == "bf16" and backend == ORT:
        return BackendError(
            "onnxruntime has no bf16",
            where="quantize.precision",
            why="its CPU kernels do not take bfloat16",
            do="Choose fp16 or fp32, or another engine.backend.",
        )
    return None
