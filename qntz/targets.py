"""What a target takes, as far as the configuration alone tells: composed entries and backends both ask it."""

from __future__ import annotations

from collections.abc import Sequence

from qntz.errors import BackendError

FIRST = {"fp8": 89, "int4": 80}  # compute capability that has the format, as TensorRT-RTX 1.7 builds it
CAPABILITIES = "engine.compute_capabilities"


def refusal(backend: str, capabilities: Sequence[str], precision: str) -> BackendError | None:
    """Why a backend or one of its GPUs has no such number format; None where they have. capabilities: "sm89"."""
    first = FIRST.get(precision, 0)
    lacking = [name for name in capabilities if int(name[2:]) < first]
    if lacking:
        several = len(lacking) > 1
        return BackendError(
            f"{', '.join(lacking)} {'have' if several else 'has'} no {precision}",
            where=CAPABILITIES,
            why=f"it begins with sm{first}",
            do=f"Leave {'them' if several else 'it'} out, or choose another quantize.precision.",
        )
    if precision == "fp8" and backend == "tensorrt_rtx" and not capabilities:
        return BackendError(
            "fp8 takes compute capabilities by name",
            where=CAPABILITIES,
            why="tensorrt_rtx's default is for Ampere too, which has no fp8",
            do="Set [sm89, sm120], or those of your GPUs.",
        )
    if precision == "fp8" and backend == "onnxruntime":
        return BackendError(
            "onnxruntime is not right in fp8",
            where="quantize.precision",
            why="its optimizers drop a Relu before fp8's QuantizeLinear, wherever the graph is run by default",
            do="Choose int8, or engine.backend: tensorrt_rtx.",
        )
    return None
