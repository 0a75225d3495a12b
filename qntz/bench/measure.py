"""The measurement: rounds in which each subject has its turn, so that what slows the machine slows them all."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qntz import cuda
from qntz.bench import trtexec
from qntz.bench.subject import TRTEXEC, Subject
from qntz.bench.worker import Worker
from qntz.errors import BackendError
from qntz.figures import pooled_sqnr_db
from qntz.progress import Silent
from qntz.records import Arrays, Progress

LEAST_RUNS = 3  # in a round, however long one takes
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Timing:
    """What one subject took for one set of inputs.

    Attributes:
        subject: its name. inputs: the name of the set. batch: its samples. runs: that were timed, after the warm-up.
        median_ms, p90_ms, p99_ms: wall milliseconds of a run, from its start until its outputs are there, with inputs
        and outputs where it computes; each round weighs the same. per_second: samples, of runs that are queued without
        waiting. cpu_ms: CPU milliseconds of a run, of all threads of its process; None where the process is another's.
        gpu_ms: milliseconds on the GPU, where the runtime tells it. first_ms: of the first run, with all that it set
        up. memory: the most bytes of the host that its process held, frameworks included. gpu_memory: bytes of the
        GPU, None without one. sqnr_db: of the floating outputs against the first subject's, the lowest, minus infinity
        where the outputs are others, of other shapes or NaN; equal: of all other outputs the fraction of equal
        elements, the lowest. None of the first itself, and where there is none of the kind. rounds: the median of each
        round, in milliseconds.
    """

    subject: str
    inputs: str
    batch: int
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    per_second: float
    cpu_ms: float | None = None
    gpu_ms: float | None = None
    first_ms: float | None = None
    memory: int | None = None
    gpu_memory: int | None = None
    sqnr_db: float | None = None
    equal: float | None = None
    rounds: tuple[float, ...] = ()

    def over(self, other: Timing) -> tuple[float, float, float]:
        """How many times as long as the other one: the median over the rounds, which both went through side by side,
        the least and the most. Of one that had no rounds, the ratio of the medians."""
        if not (self.rounds and other.rounds):
            ratio = self.median_ms / other.median_ms
            return ratio, ratio, ratio
        ratios = [mine / its for mine, its in zip(self.rounds, other.rounds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


@dataclass(frozen=True)
class Refused:
    """A subject that could not be timed, and why; with inputs "" for none of them."""

    subject: str
    inputs: str
    why: str


def measure(
    subjects: Sequence[Subject],
    inputs: Mapping[str, Arrays],
    *,
    seconds: float = 2.0,
    rounds: int = 5,
    progress: Progress | None = None,
) -> tuple[list[Timing], list[Refused]]:
    """Times each subject on each set of inputs.

    Every subject is opened in a process of its own. For a set of inputs each runs in `rounds` rounds, after a turn to
    warm up, the order turned about from one to the next: half of its turn one run after the other, half queued.

    Args:
        inputs: by a name for the reader; the first dimension of each set's first array counts its samples. seconds: of
            each subject and set, in all rounds.

    Returns:
        The timings in the order of inputs and subjects, and the subjects that could not be timed.
    """
    progress = progress or Silent()
    refused: list[Refused] = []
    with contextlib.ExitStack() as stack:
        places = [_Place(subject, stack) for subject in subjects]
        largest = max(inputs.values(), key=lambda one: sum(array.size for array in one.values()))
        for done, place in enumerate(places):
            progress.step("open", done, len(places))
            place.open(largest, refused)
        progress.step("open", len(places), len(places))
        timings = []
        for name, arrays in inputs.items():
            bound = [place for place in places if place.bind(name, arrays, refused)]
            for turn in range(rounds):
                progress.step(name, turn, rounds)
                for place in bound if turn % 2 == 0 else reversed(bound):
                    place.take_turn(seconds / rounds, refused)
            progress.step(name, rounds, rounds)
            timings += _timings(name, arrays, [place for place in bound if place.is_sound], refused)
        for place in places:
            if place.subject.kind == TRTEXEC:
                timings += place.by_trtexec(inputs, seconds, refused)
    order = {subject.name: at for at, subject in enumerate(subjects)}
    names = list(inputs)
    return sorted(timings, key=lambda t: (names.index(t.inputs), order[t.subject])), refused


class _Place:
    """A subject at work: its process while it has one, and what was measured of the inputs that are bound."""

    def __init__(self, subject: Subject, stack: contextlib.ExitStack):
        self.subject, self._stack = subject, stack
        self._worker: Worker | None = None
        self._name, self.is_sound = "", False
        self.gpu_memory: int | None = None
        self._largest: tuple[Arrays | None, float] = None, 0.0

    def open(self, largest: Arrays, refused: list[Refused]) -> None:
        """Opens the subject and runs the largest inputs once, for the memory of both."""
        if self.subject.kind == TRTEXEC:
            return
        before = cuda.used_memory()
        self._worker = self._stack.enter_context(Worker(self.subject))
        if not self._asked("", refused, "open", self.subject):
            self._worker = None
        elif told := self._asked(None, refused, "bind", largest):
            self._largest = largest, told[0][1]
            after = cuda.used_memory()
            self.gpu_memory = None if before is None or after is None else max(after - before, 0)
            self._asked("", refused, "unbind")

    def bind(self, name: str, inputs: Arrays, refused: list[Refused]) -> bool:
        """Whether the inputs are in place."""
        self._name, self.is_sound = name, False
        self.times, self.rounds, self.cpu, self.gpu, self.rates = [], [], [], [], []
        if told := self._asked(name, refused, "bind", inputs):
            (self.outputs, self.first), self.is_sound = told[0], True
            if self._largest[0] is inputs:  # which it has run already, when it was opened
                self.first = self._largest[1]
        return self.is_sound

    def take_turn(self, seconds: float, refused: list[Refused]) -> None:
        """Half of the time one run after the other, half queued; before the first turn one to warm up."""
        if not self.rounds:
            self._ask(refused, "latencies", seconds, LEAST_RUNS)
        if told := self._ask(refused, "latencies", seconds / 2, LEAST_RUNS):
            times, cpu = told[0]
            self.times.append(times)
            self.rounds.append(float(np.median(times)))
            self.cpu.append(cpu)
            runs = max(2, int(seconds / 2 * 1000 / max(self.rounds[-1], 1e-3)))
            if told := self._ask(refused, "burst", runs):
                took, on_gpu = told[0]
                self.rates.append(runs / took)
                self.gpu += [on_gpu] if on_gpu is not None else []

    def _ask(self, refused: list[Refused], command: str, *arguments: Any) -> list[Any]:
        """As `_asked`, of inputs that are bound; a refusal leaves them out."""
        told = self._asked(self._name, refused, command, *arguments) if self.is_sound else []
        self.is_sound = bool(told)
        return told

    def _asked(self, name: str | None, refused: list[Refused], command: str, *arguments: Any) -> list[Any]:
        """What the process answers, alone in a list; nothing where it refuses, which is kept under a name, or is gone,
        which is kept in any case and leaves the subject out from then on."""
        if self._worker is None:
            return []
        try:
            return [self._worker.ask(command, *arguments)]
        except BackendError as error:
            if self._worker.is_gone or name is not None:
                refused.append(Refused(self.subject.name, name or "", error.why or str(error)))
            if self._worker.is_gone:
                self._worker = None
            return []

    def timing(self, name: str, inputs: Arrays, expected: Arrays | None, refused: list[Refused]) -> Timing:
        """Of the inputs that are bound, after its rounds."""
        batch = _batch(inputs)
        return Timing(
            self.subject.name,
            name,
            batch,
            sum(map(len, self.times)),
            *_percentiles(self.times),
            batch * statistics.median(self.rates),
            cpu_ms=statistics.median(self.cpu),
            gpu_ms=statistics.median(self.gpu) if self.gpu else None,
            first_ms=self.first * 1000,
            memory=next(iter(self._asked(name, refused, "memory")), None),
            gpu_memory=self.gpu_memory,
            sqnr_db=None if expected is None else _sqnr_db(self.outputs, expected),
            equal=None if expected is None else _equal(self.outputs, expected),
            rounds=tuple(self.rounds),
        )

    def by_trtexec(self, inputs: Mapping[str, Arrays], seconds: float, refused: list[Refused]) -> list[Timing]:
        """What trtexec measures on each set of inputs, when all others are idle."""
        found = []
        for name, arrays in inputs.items():
            try:
                told = trtexec.run(self.subject, arrays, seconds)
            except BackendError as error:
                refused.append(Refused(self.subject.name, name, str(error)))
                continue
            batch = _batch(arrays)
            figures = (told.median_ms, told.p90_ms, told.p99_ms, batch * told.per_second)
            found.append(Timing(self.subject.name, name, batch, told.runs, *figures, gpu_ms=told.gpu_ms))
        return found


def _timings(name: str, inputs: Arrays, places: Sequence[_Place], refused: list[Refused]) -> list[Timing]:
    """Of all that went through the rounds; the first one's outputs are what the others are held against."""
    expected = places[0].outputs if places else {}
    return [place.timing(name, inputs, None if at == 0 else expected, refused) for at, place in enumerate(places)]


def _percentiles(rounds: Sequence[np.ndarray]) -> list[float]:
    """`PERCENTILES` of the times of all rounds, of which each weighs the same, however many runs it had time for."""
    times = np.concatenate(rounds)
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in rounds]) / len(rounds)
    order = np.argsort(times)
    reached = np.cumsum(weights[order])
    places = [min(int(np.searchsorted(reached, percent / 100 - 1e-9)), len(times) - 1) for percent in PERCENTILES]
    return [float(times[order][place]) for place in places]


def _batch(inputs: Arrays) -> int:
    first = next(iter(inputs.values()))
    return int(first.shape[0]) if first.ndim else 1


def _pairs(outputs: Arrays, expected: Arrays) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each output with the expected one of its name; in their order where the names differ, as runtimes' may."""
    if outputs.keys() == expected.keys():
        return [(outputs[name], its) for name, its in expected.items()]
    return list(zip(outputs.values(), expected.values(), strict=False))


def _sqnr_db(outputs: Arrays, expected: Arrays) -> float | None:
    """The lowest SQNR of a floating output, in dB; minus infinity where one is missing, has another shape, or holds NaN
    that the other has not."""
    if len(outputs) != len(expected):
        return -math.inf
    pairs = _pairs(outputs, expected)
    if any(mine.shape != its.shape or mine.dtype.kind != its.dtype.kind for mine, its in pairs):
        return -math.inf
    figures = [pooled_sqnr_db([_real(mine)], [_real(its)]) for mine, its in pairs if its.dtype.kind in "fc"]
    return min((-math.inf if math.isnan(one) else one for one in figures), default=None)


def _real(array: np.ndarray) -> np.ndarray:
    return np.stack([array.real, array.imag]) if array.dtype.kind == "c" else array


def _equal(outputs: Arrays, expected: Arrays) -> float | None:
    """The lowest fraction of equal elements of an output that is not floating; of one without elements 1."""
    alike = [
        float(np.mean(mine == its)) if its.size else 1.0
        for mine, its in _pairs(outputs, expected)
        if its.dtype.kind not in "fc" and mine.shape == its.shape
    ]
    return min(alike, default=None)
