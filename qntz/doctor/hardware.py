"""The GPU with its driver, and what the processor and the memory are."""

from __future__ import annotations

from collections.abc import Iterator

from qntz import machine
from qntz.doctor.child import Failed, ask
from qntz.doctor.finding import Finding

SECTION = "machine"
GIB = 2**30
LITTLE_MEMORY = 4 * GIB  # a default pipeline takes 2

_GPU = """
from qntz import cuda
reason = cuda.no_gpu_reason()
told = {"reason": reason, "driver": cuda.driver_version(), "cuda": cuda.cuda_version(), "gpus": []}
if reason is None:
    told["gpus"] = [[cuda.gpu_name(one), cuda.capability(one)] for one in range(cuda.gpu_count())]
answer(told)
"""


def findings() -> Iterator[Finding]:
    """Findings of the GPU, its driver, the processor and the memory."""
    try:
        told = ask(_GPU)
    except Failed as error:
        yield Finding(SECTION, "GPU", f"cannot be asked: {error}", "note")
    else:
        for name, capability in told["gpus"]:
            yield Finding(SECTION, "GPU", f"{name}, {capability}")
        if told["reason"] is not None:
            yield Finding(SECTION, "GPU", told["reason"])
        yield Finding(SECTION, "driver", told["driver"] or "none")
        yield Finding(SECTION, "CUDA", f"up to {told['cuda']}, by the driver" if told["cuda"] else "none")
    yield Finding(SECTION, "processor", f"{machine.cpu_name()}, {machine.cores()} cores")
    yield from _memory()


def _memory() -> Iterator[Finding]:
    found, limit = machine.memory(), machine.memory_limit()
    if found is None:
        return
    total, free = found
    told = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    if limit is not None and limit < total:
        told += f", limited to {limit / GIB:.1f}"
    if min(free, limit or free) < LITTLE_MEMORY:
        yield Finding(SECTION, "memory", told, "note", "Capture and build of a small model take about 2 GiB.")
    else:
        yield Finding(SECTION, "memory", told)
