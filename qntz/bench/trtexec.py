"""trtexec, which ships with TensorRT, over an engine: what it measures, with the same options."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from qntz.bench.subject import Subject
from qntz.errors import BackendError
from qntz.records import Arrays

COMMANDS = {"tensorrt": "trtexec", "tensorrt_rtx": "tensorrt_rtx"}
"""The program by the backend's name."""
WARM_UP_MS = 500
SPARE = 120.0  # seconds beyond those of the measurement
_THROUGHPUT = re.compile(r"Throughput: ([\d.]+) qps")
_FIGURES = re.compile(
    r"(?P<of>Latency|GPU Compute Time): .*?median = (?P<median>[\d.]+) ms,"
    r".*?percentile\(90%\) = (?P<p90>[\d.]+) ms,.*?percentile\(99%\) = (?P<p99>[\d.]+) ms"
)


@dataclass(frozen=True)
class Told:
    """trtexec's summary: runs a second, and milliseconds."""

    runs: int
    per_second: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    gpu_ms: float


def program(backend: str) -> str | None:
    """The path of the program for a backend's engines; None where it is not on PATH, or there is none."""
    return shutil.which(COMMANDS[backend]) if backend in COMMANDS else None


def run(subject: Subject, inputs: Arrays, seconds: float) -> Told:
    """What trtexec tells of an engine; raises BackendError where it fails, or does not say."""
    shapes = {name: "x".join(map(str, inputs[name].shape)) for name in subject.order or inputs}
    duration = max(1, round(seconds))
    command = [
        program(subject.backend) or COMMANDS[subject.backend],
        f"--loadEngine={subject.path}",
        f"--shapes={','.join(f'{name}:{shape}' for name, shape in shapes.items())}",
        f"--warmUp={WARM_UP_MS}",
        f"--duration={duration}",
        "--percentile=90,99",
        "--noDataTransfers",
        *(["--useCudaGraph"] if subject.graph else []),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + SPARE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{command[0]} does not run", why=str(error)) from error
    if done.returncode != 0:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
        why = errors[0].rpartition("[E]")[2].strip() if errors else f"exit code {done.returncode}"
        raise BackendError(f"{COMMANDS[subject.backend]} fails", where=str(subject.path), why=why)
    return _read(done.stdout, COMMANDS[subject.backend], duration)


def _read(text: str, name: str, duration: int) -> Told:
    throughput = _THROUGHPUT.search(text)
    figures = {found["of"]: found for found in _FIGURES.finditer(_without_other_times(text))}
    if throughput is None or set(figures) != {"Latency", "GPU Compute Time"}:
        raise BackendError(f"{name} gives no summary", why="no throughput, or no percentiles, in what it prints")
    latency, rate = figures["Latency"], float(throughput[1])
    return Told(
        runs=round(rate * duration),
        per_second=rate,
        median_ms=float(latency["median"]),
        p90_ms=float(latency["p90"]),
        p99_ms=float(latency["p99"]),
        gpu_ms=float(figures["GPU Compute Time"]["median"]),
    )


def _without_other_times(text: str) -> str:
    """Without the lines of copies, which end in "Latency" too."""
    return "\n".join(line for line in text.splitlines() if "H2D" not in line and "D2H" not in line)
