"""What listens to TensorRT: a logger that keeps what it is told, and a monitor that drives a `Progress`.

Both derive from TensorRT's own classes, which are known only when the module is imported: hence the functions around
them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from qntz.errors import BackendError
from qntz.records import Progress

ERRORS = ("INTERNAL_ERROR", "ERROR")
WARNING = 2  # TensorRT's number; errors have lower ones
INTERRUPTING = (signal.SIGINT, signal.SIGTERM)
KEPT = 50  # messages; the last ones tell why a build failed
_PLACE = re.compile(r"\s*In \S+ at \S+:\d+")
_NO_DRIVER_TAIL = re.compile(r"\s*\[checkMacros\.cpp::catchCudaError.*cudaError 35.*$", re.DOTALL)
_SECOND_LOGGER = "differs from one already registered"  # of another builder in this process
_NO_DRIVER = re.compile(r"cudaError 35\b|CUDA initialization failure with error: (35|100)\b")


def without_driver_noise(text: str) -> str:
    """A message without what TensorRT-RTX drags along about a missing driver while it builds without one."""
    return _NO_DRIVER_TAIL.sub("", text)


_counting = threading.Lock()
_within = 0  # blocks of `uncollected` that are being gone through, in any thread
_collected = False  # whether garbage was collected before the first of them


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in the block, in which TensorRT starts: it calls its logger under a lock of its own, and
    an earlier builder that were freed in there would wait for that same lock, for ever."""
    global _within, _collected
    with _counting:
        if not _within:
            _collected = gc.isenabled()
            gc.disable()
        _within += 1
    try:
        yield
    finally:
        with _counting:
            _within -= 1
            if not _within and _collected:
                gc.enable()


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """A block in which TensorRT works, which swallows what a signal's handler raises within a callback of its own.

    In the main thread, the only one that Python handles signals in, the first SIGINT or SIGTERM that has a handler
    calls `stop` at once, and the handler itself at the end of the block, where it may raise. The next one ends the
    process at once, with 128 and its number. (A thread hears of them through a pipe: the main one may be in a step of
    TensorRT that takes minutes, and runs no handler meanwhile.)
    """
    main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in INTERRUPTING} if main else {}
    kept = {number: handler for number, handler in found.items() if callable(handler)}
    if not kept:
        yield
        return
    told: list[int] = []
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    other = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        heard = 0
        while data := os.read(reading, 1):
            if other >= 0:
                os.write(other, data)
            if data[0] in kept:
                if heard:
                    os._exit(128 + data[0])
                heard = data[0]
                stop()

    def hold(number: int, _: object) -> None:
        told.append(number)
        stop()

    thread = threading.Thread(target=watch, daemon=True)
    for number in kept:
        signal.signal(number, hold)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(other)
        os.close(writing)
        thread.join()
        os.close(reading)
        for number, handler in kept.items():
            signal.signal(number, handler)
        for number in told:
            kept[number](number, None)


def make_logger(trt: ModuleType, *, drop_driver_noise: bool) -> Any:
    """A `trt.ILogger` that prints nothing and collects warnings and errors.

    Args:
        drop_driver_noise: leaves out what TensorRT-RTX says about a missing driver while it builds without one. Its
            API errors drag such a line along, and a user would blame the driver.

    Returns:
        The logger, with `errors() -> list[str]` and `warnings() -> list[str]`, the newest last, each said once.
    """

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._kept: list[tuple[str, str]] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) > WARNING:  # first and by number: a build says thousands of these
                return
            if drop_driver_noise and _NO_DRIVER.search(msg):
                return
            if _SECOND_LOGGER in msg:
                return
            line = (severity.name, " ".join(_PLACE.sub("", msg).split()))
            if line not in self._kept:
                self._kept = [*self._kept, line][-KEPT:]

        def errors(self) -> list[str]:
            return [text for severity, text in self._kept if severity in ERRORS]

        def warnings(self) -> list[str]:
            return [text for severity, text in self._kept if severity not in ERRORS]

    return Logger()


def last_errors(logger: Any, most: int = 3) -> str:
    """The last error lines that a logger of `make_logger` got, as one text."""
    lines = logger.errors()[-most:]
    return "; ".join(line.rstrip(".") for line in lines) if lines else "TensorRT gives no reason"


def make_monitor(trt: ModuleType, progress: Progress) -> Any:
    """A `trt.IProgressMonitor` that reports every phase, nested ones too, to `progress`.

    Returns:
        The monitor. Its `stop()` ends the build at its next step. After the build call its `finish()`: it raises what
        `progress` raised, or BackendError where the build was asked to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._totals: dict[str, int] = {}
            self._raised: BaseException | None = None
            self._stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._totals[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._report(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, self._totals[phase_name])

        def _report(self, phase: str, done: int) -> bool:
            if not self._stopped:
                try:
                    if not progress.step(phase, done, self._totals[phase]):
                        self._stopped = True  # never False: `stop` may have been called meanwhile
                except BaseException as error:  # TensorRT would swallow it: stop the build, and let `finish` raise it
                    self._raised, self._stopped = error, True
            return not self._stopped

        def stop(self) -> None:
            self._stopped = True

        def finish(self) -> None:
            if self._raised is not None:
                raise self._raised
            if self._stopped:
                raise BackendError("the build was stopped", why="its progress asked for it")

    return Monitor()
