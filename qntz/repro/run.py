"""`dvc repro` in a process of its own, with this one's terminal, signals and exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qntz.parent import end_with
from qntz.repro.ending import below, end, send, take_in_orphans
from qntz.repro.mend import state_folder
from qntz.repro.turns import STEP, BusyError, Patience, dvc_at_work, turn

if TYPE_CHECKING:
    from psutil import Process

PAUSE = 1.0  # seconds before DVC is asked again
HANDED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
SI_KERNEL = 0x80  # a terminal's Ctrl-C, which DVC is sent as well


def repro(root: Path, arguments: Sequence[str], seconds: float, say: Callable[[str], None]) -> int:
    """Runs `dvc repro ARGUMENTS` once no other run is at work here; returns its exit code.

    Args:
        seconds: how long to wait for others, at most, in all; what DVC works does not count. say: is told what it
            waits for.

    Raises:
        UsageError: this is no project of DVC. BusyError: others did not end in time. ArtifactError: DVC's state cannot
            be written.
    """
    patience = Patience(seconds)
    with turn(root, patience, say) as held:
        while True:
            wait_for_dvc(root, patience, say)
            code, busy = run_dvc(root, ["repro", *arguments], held)
            if code == 0 or not busy:
                return code
            if patience.left < PAUSE:
                do = (
                    "Run it again when the other has ended: a stage that had just ended runs again, all before is kept."
                )
                raise BusyError("another DVC was in the way", why=busy, do=do)
            say("another DVC was in the way; tries again (a stage that had just ended runs again)")
            patience.sleep(PAUSE)


def wait_for_dvc(root: Path, patience: Patience, say: Callable[[str], None]) -> None:
    """Until no other DVC works here, by its own list, or the time is up: then DVC itself decides."""
    told = False
    while (other := dvc_at_work(root)) is not None and patience.left > 0:
        if not told:
            told = True
            say(f"waits for {other}, for at most {patience.left:g} s")
        patience.sleep(STEP)


def _wait(child: subprocess.Popen[bytes], others: Collection[Process]) -> list[Process]:
    """Until it ends, handing signals on, which are blocked here; returns the stages that it had then."""
    if not hasattr(signal, "sigtimedwait"):  # macOS: a terminal's signals reach DVC by themselves
        child.wait()
        return []
    stages: list[Process] = []
    wanted = {one for one in HANDED_ON if signal.getsignal(one) != signal.SIG_IGN}  # nohup ignores SIGHUP for all of us
    while child.poll() is None:
        told = signal.sigtimedwait(wanted | {signal.SIGCHLD}, 1.0)
        if told and told.si_signo in wanted and told.si_code != SI_KERNEL:
            # DVC expects that its stages are told as well, as a terminal does it, and leaves them to end
            stages = [one for one in below(others) if one.pid != child.pid]
            child.send_signal(told.si_signo)
            send(told.si_signo, stages)
    return stages


@contextlib.contextmanager
def heard(take: Callable[[int], None]) -> Iterator[None]:
    """A block in which the signals that end a run are told to `take`, in the main thread; one that is ignored, as by
    nohup, stays so."""
    kept = {}
    for number in HANDED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            kept[number] = signal.signal(number, lambda number, _: take(number))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def ended_by(code: int) -> str:
    """The name of the signal that an exit code stands for; "" where it is another (DVC's own for an error is 255)."""
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return ""


def environment() -> dict[str, str]:
    """That of a DVC: its stages run by `python`, the one that composes here, also where no environment is activated."""
    return {**os.environ, "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])}


def run_dvc(
    root: Path, arguments: Sequence[str], held: int, *, output: int | None = None, **extra: str
) -> tuple[int, str]:
    """Runs DVC to its end; returns its exit code, 128 and more for a signal, and the lock that it did not get.

    Args:
        held: the workspace's lock, which DVC is given too: where this process is killed, DVC ends its stages first.
        output: the file for what it says, this process's own where it is None. extra: set in its environment.
    """
    this, others = os.getpid(), below()
    take_in_orphans()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON | {signal.SIGCHLD})
    gone, alive = os.pipe()

    def prepare() -> None:
        end_with(this)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    with tempfile.TemporaryFile(dir=state_folder(root)) as busy:
        given = (busy.fileno(), gone, held)
        command = [sys.executable, "-m", "qntz.repro.observed", *map(str, given), "dvc", *arguments]
        try:
            child = subprocess.Popen(
                command,
                cwd=root,
                env={**environment(), **extra},
                pass_fds=given,
                preexec_fn=prepare,
                stdout=output,
                stderr=output,
            )
            stages = _wait(child, others)
            if child.returncode < 0:  # it could not wait for its stage
                end(stages, others)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(alive)
            os.close(gone)
        busy.seek(0)
        told = busy.read().decode("utf-8", "replace")
    return (child.returncode if child.returncode >= 0 else 128 - child.returncode), told
