"""What a benchmark leaves: its timings, with the machine and the versions that they are of."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from qntz import cuda
from qntz.bench.measure import Timing
from qntz.machine import cpu_name

TOOLS = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")


def record(model: str, timings: Sequence[Timing], absent: Sequence[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    """The figures as JSON has them: each beside the first of the same inputs (`over`, with the median ratio, the least
    and the most of the rounds), an SQNR without bounds as "exact" or "broken".

    Args:
        absent: what was not timed, and why. settings: kept as they are.
    """
    rows = []
    for timing, base in _with_base(timings):
        row = dataclasses.asdict(timing)
        if row["sqnr_db"] is not None and not math.isfinite(row["sqnr_db"]):
            row["sqnr_db"] = "exact" if row["sqnr_db"] > 0 else "broken"
        rows.append({**row, "over": base.subject, "ratio": timing.over(base)})
    return {
        "model": model,
        "machine": machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": _versions(),
        **settings,
        "timings": rows,
        "not_run": [{"subject": name, "why": why} for name, why in absent],
    }


def machine() -> str:
    """The GPU with its compute capability, or without one the CPU."""
    if cuda.no_gpu_reason() is None:
        return f"{cuda.gpu_name()} ({cuda.capability()})"
    return cpu_name()


def _versions() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _with_base(timings: Sequence[Timing]) -> Iterator[tuple[Timing, Timing]]:
    """Each timing with the first of the same inputs, which it is held against."""
    first: dict[str, Timing] = {}
    for timing in timings:
        yield timing, first.setdefault(timing.inputs, timing)
