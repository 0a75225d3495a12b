"""What a benchmark leaves: its timings, with the machine and the versions that they are of."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qntz import cuda
from qntz.bench.measure import Timing
from qntz.machine import cpu_name

TOOLS = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")
WITHOUT_BOUNDS = {"exact": math.inf, "broken": -math.inf}  # SQNRs, as JSON has them


def timing_json(timing: Timing) -> dict[str, Any]:
    """A timing as JSON has it, which has no infinity: an SQNR without bounds is "exact" or "broken"."""
    told = dataclasses.asdict(timing)
    words = {bound: word for word, bound in WITHOUT_BOUNDS.items()}
    return {**told, "sqnr_db": words.get(told["sqnr_db"], told["sqnr_db"])}


def timing_of(record: Mapping[str, Any]) -> Timing:
    """The timing that `timing_json` gave; raises KeyError, TypeError or ValueError for what is none."""
    sqnr_db = record["sqnr_db"]
    timing = Timing(
        **{
            **record,
            "sqnr_db": WITHOUT_BOUNDS[sqnr_db] if isinstance(sqnr_db, str) else sqnr_db,
            "rounds": tuple(float(one) for one in record["rounds"]),
        }
    )
    for name in ("median_ms", "p90_ms", "p99_ms", "per_second"):
        if not getattr(timing, name) > 0:
            raise ValueError(f"{name} is {getattr(timing, name)!r}")
    return timing


def record(model: str, timings: Sequence[Timing], absent: Sequence[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    """The figures as `timing_json` has them, each beside the first of the same inputs (`over`, with the median ratio,
    the least and the most of the rounds).

    Args:
        absent: what was not timed, and why. settings: kept as they are.
    """
    rows = []
    for timing, base in _with_base(timings):
        rows.append({**timing_json(timing), "over": base.subject, "ratio": timing.over(base)})
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
