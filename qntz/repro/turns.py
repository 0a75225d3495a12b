"""One run at a time in a workspace: a lock that a process holds for its life, so that a kill frees it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from qntz.errors import QntzError
from qntz.repro.mend import DVC_LOCK, RUNNING, state_folder, unwritable
from qntz.repro.running import at_work

TURN = "qntz-repro.lock"  # beside DVC's own, and not in build/, which may be removed meanwhile
STEP = 0.2  # seconds between two looks


class BusyError(QntzError):
    """Another run in the same workspace did not end in time."""


class Patience:
    """The time that may be spent on waiting, and what is left of it: of work, none is."""

    def __init__(self, seconds: float):
        self._left = seconds

    @property
    def left(self) -> float:
        """Seconds, to a tenth."""
        return round(self._left, 1)

    def sleep(self, seconds: float) -> None:
        """Waits, for what is left at most."""
        before = time.monotonic()
        time.sleep(max(0.0, min(seconds, self._left)))
        self._left -= time.monotonic() - before


@contextlib.contextmanager
def turn(root: Path, patience: Patience, say: Callable[[str], None]) -> Iterator[int]:
    """Holds the workspace for the block, which is given the open file that does: the workspace is free once every
    process that has it has closed it.

    Args:
        root: the project's. patience: for the runs of others. say: is told whom it waits for.

    Raises:
        BusyError: another run has not ended in time. UsageError: this is no project of DVC. ArtifactError: its state
            cannot be written.
    """
    import fcntl

    path = state_folder(root) / TURN
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        known = ""
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(path)
            if patience.left <= 0:
                do = "Wait for it (--wait SECONDS), or end it."
                raise BusyError("another run is at work in this workspace", why=holder, do=do)
            if holder != known:
                known = holder
                say(f"waits for the run of {holder}, for at most {patience.left:g} s")
            patience.sleep(STEP)
        os.ftruncate(held, 0)
        os.pwrite(held, json.dumps({"process": os.getpid(), "since": time.strftime("%H:%M:%S")}).encode(), 0)
        yield held
    finally:
        os.close(held)


def _holder(path: Path) -> str:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return f"process {told['process']} (since {told['since']})"
    except (OSError, ValueError, LookupError, TypeError):  # it has only just taken it
        return "another process"


def dvc_at_work(root: Path) -> str | None:
    """The DVC that works here, its command and process; None where none does.

    While a stage runs, DVC names itself in a list of who reads and writes what; between two it holds its own lock.
    """
    return running_stage(root) or _holds_lock(state_folder(root) / DVC_LOCK)


def running_stage(root: Path) -> str | None:
    """The DVC that runs a stage, by the list; None where none does, or the list is just being written."""
    return at_work(state_folder(root) / RUNNING)


def _holds_lock(path: Path) -> str | None:
    import fcntl

    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment, in which DVC only tries again
    except BlockingIOError:
        return "another DVC"
    except OSError:
        return None  # there is none, or DVC is told to use another kind
    return None
