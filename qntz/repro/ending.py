"""Ends all that a run has started, so that nothing of it goes on once the workspace is free.

DVC starts each stage by a shell, and leaves it behind where it is itself killed. Linux hands such orphans to the
process that asks for them, which this one does; elsewhere they are known only as long as DVC lives.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from qntz.parent import PR_SET_PDEATHSIG

if TYPE_CHECKING:
    from psutil import Process

PR_SET_CHILD_SUBREAPER = 36
GRACE = 10.0  # seconds that a stage has, after it was asked to end
STEP = 0.01  # seconds


def take_in_orphans() -> None:
    """What the children of this process leave behind becomes its own child, rather than init's."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def below(but: Collection[Process] = ()) -> list[Process]:
    """The processes that this one has started, and those that they have, which still run."""
    import psutil

    return [one for one in psutil.Process().children(recursive=True) if one not in but and _runs(one)]


def send(number: int, processes: Collection[Process]) -> None:
    import psutil

    for one in processes:
        try:
            one.send_signal(number)
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue


def end(asked: Collection[Process], but: Collection[Process] = ()) -> None:
    """Ends these, which have been asked to, and all below this process, without those of `but`: they are asked, and
    killed if they have not ended after a while. Returns when none is left."""
    deadline, known = time.monotonic() + GRACE, set(asked)
    while left := [*(one for one in asked if _runs(one)), *below(but)]:
        if time.monotonic() > deadline:
            send(signal.SIGKILL, left)
        else:
            send(signal.SIGTERM, [one for one in left if one not in known])
        known.update(left)
        time.sleep(STEP)


def _runs(process: Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_at_the_end_of(pipe: int) -> None:
    """Kills this process and all below it once the other end of a pipe is closed, as the death of who holds it does."""
    take_in_orphans()

    def watch() -> None:
        os.read(pipe, 1)
        sys.addaudithook(_nothing_new)
        while found := below():
            send(signal.SIGKILL, found)
            time.sleep(STEP)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)  # from here on, the thread sees to it


def _nothing_new(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        raise RuntimeError("the run is being ended")
