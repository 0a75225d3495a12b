"""The process that runs one subject when it is told to: `python -m qntz.bench.served DESCRIPTOR PARENT`.

By the socket it gets commands, (name, arguments), and answers ("done", what) or ("refused", why).
"""

from __future__ import annotations

import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from qntz.bench.subject import Subject, bound, opened
from qntz.errors import BackendError, QntzError, one_line
from qntz.parent import end_with
from qntz.records import Arrays, Bound, Runner


class _Served:
    """Each method is a command."""

    def __init__(self) -> None:
        self._subject: Subject
        self._runner: Runner
        self._bound: Bound | None = None

    def open(self, subject: Subject) -> None:
        self._subject, self._runner = subject, opened(subject)

    def bind(self, inputs: Arrays) -> tuple[Arrays, float]:
        """The outputs of a first run, and the seconds that it took with all that it set up."""
        self.unbind()
        begun = time.perf_counter()
        self._bound = bound(self._subject, self._runner, inputs)
        self._bound.start()
        self._bound.wait()
        seconds = time.perf_counter() - begun
        return self._bound.outputs(), seconds

    def unbind(self) -> None:
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def latencies(self, seconds: float, least: int) -> tuple[np.ndarray, float]:
        """The milliseconds of each run, one after the other, for so long and of so many at least; and the CPU
        milliseconds of one, of all threads."""
        now, start, wait = time.perf_counter_ns, self._current.start, self._current.wait
        times: list[int] = []
        cpu, end = time.process_time_ns(), now() + int(seconds * 1e9)
        while len(times) < least or now() < end:
            begun = now()
            start()
            wait()
            times.append(now() - begun)
        cpu = time.process_time_ns() - cpu
        return np.array(times) / 1e6, cpu / 1e6 / len(times)

    def burst(self, runs: int) -> tuple[float, float | None]:
        """The seconds that so many runs take which are queued without waiting; and on a GPU, where the runner tells it,
        the milliseconds that one is at work there."""
        marks, begun = [], time.perf_counter()
        mark = getattr(self._current, "mark", None)
        marks = [mark()] if mark is not None else []
        for _ in range(runs):
            self._current.start()
        marks += [mark()] if mark is not None else []
        self._current.wait()
        seconds = time.perf_counter() - begun
        on_gpu = self._current.elapsed_ms(*marks) / runs if marks else None  # type: ignore[attr-defined]
        return seconds, on_gpu

    def memory(self) -> int:
        """The most bytes of host memory that the process has held."""
        try:  # what getrusage tells begins with the most that the parent held
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):  # no Linux
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @property
    def _current(self) -> Bound:
        if self._bound is None:
            raise BackendError("nothing is bound")
        return self._bound


def _serve(pipe: Connection) -> None:
    served = _Served()
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[str, Any] = ("done", getattr(served, command)(*arguments))
        except QntzError as error:
            answer = ("refused", str(error))
        except Exception as error:  # a runtime's own, or a plugin's
            answer = ("refused", one_line(error))
        pipe.send(answer)


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    _serve(Connection(int(sys.argv[1])))
