"""What may run at the same time: by memory, as stages took it before, and by GPUs, of which each builds one engine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qntz import machine
from qntz.artifacts import write_text
from qntz.fleet.jobs import ALONE, GPU, Job

PEAKS = "qntz-memory.json"  # in DVC's folder of temporary files
UNKNOWN = 1 << 30  # bytes of a stage that has not run here, and that reads no weights
BY_WEIGHTS = 6  # times its weights that such a stage takes: the model, its copies, and the graph
SPARE = 0.9  # of what is free, what is given out
GPU_STAGES = ("engine", "verify")  # what builds and runs engines


def memory_budget() -> int | None:
    """Bytes that the jobs may take together; None where the system does not tell."""
    told = machine.memory()
    bounds = [one for one in (told and told[1], machine.memory_limit()) if one]
    return int(min(bounds) * SPARE) if bounds else None


def gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them; none where there is no driver."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [one.strip() for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one.strip()]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


class Rooms:
    """What there is for the jobs, and who has it.

    Args:
        most: jobs at the same time. memory: bytes for all of them, None where nobody knows. cards: the GPUs.
    """

    def __init__(self, most: int, memory: int | None, cards: list[str]):
        self._most, self._memory, self._cards = most, memory, cards
        self._inside: dict[int, Job] = {}
        self._card: dict[int, str] = {}

    def take(self, number: int, job: Job) -> bool:
        """Lets a job in, where there is room; a job that is too large for the memory comes in by itself."""
        inside = self._inside.values()
        if inside and (job.kind == ALONE or any(one.kind == ALONE for one in inside)):
            return False
        if len(inside) >= self._most or (job.kind == GPU and not self._cards):
            return False
        if inside and self._memory is not None and sum(one.memory for one in inside) + job.memory > self._memory:
            return False
        self._inside[number] = job
        if job.kind == GPU:
            self._card[number] = self._cards.pop(0)
        return True

    def environment(self, number: int) -> dict[str, str]:
        """What a job is told of what it was given."""
        return {"CUDA_VISIBLE_DEVICES": self._card[number]} if number in self._card else {}

    def leave(self, number: int) -> None:
        """A job has ended."""
        del self._inside[number]
        if number in self._card:
            self._cards.append(self._card.pop(number))


class Peaks:
    """The memory that the stages took when they ran last in this workspace, together with those of their job; it only
    helps to choose, so that a damaged record is none."""

    def __init__(self, state: Path):
        self._path = state / PEAKS
        self._known = _read(self._path)

    def of(self, stage: str, weights: int) -> int:
        """Bytes that a stage takes: as it did, or by the bytes of its model's weights."""
        return self._known.get(stage) or UNKNOWN + BY_WEIGHTS * weights

    def keep(self, stages: Mapping[str, int]) -> None:
        """What these took now."""
        if {**self._known, **stages} != self._known:
            self._known |= stages
            write_text(self._path, json.dumps(self._known, sort_keys=True))


def _read(path: Path) -> dict[str, int]:
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(stage): int(peak) for stage, peak in told.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
