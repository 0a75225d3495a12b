"""DVCs side by side: each runs the stages of one job, `dvc repro -s`, in a process of its own.

They are forked from a process that has imported DVC and does nothing else, so that a job pays for no import; each has
a session of its own, so that it can be ended with all that it started. What it says goes to a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz.fleet.warm import Start, start_warm
from qntz.repro.run import HANDED_ON, environment

RAN, RESTORED, UNCHANGED = "ran", "restored", "unchanged"
_SAID = {
    RAN: re.compile(r"^Running stage '(.+)':$"),
    RESTORED: re.compile(  # from the run-cache; as dvc.lock has it, under --pull
        r"^(?:Stage (?='.+' is cached - skipping run, checking out outputs$)|Pulling data for stage: )'([^']+)'"
    ),
    UNCHANGED: re.compile(r"^Stage '(.+)' didn't change, skipping$"),
}
_FAILED = re.compile(r"^ERROR: failed to reproduce '(.+?)'")
BUSY = "is busy, it is being blocked by"  # DVC's words for what another one reads or writes
PRELOADED = ("dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce", "dvc.stage.run", "dvc.stage.cache", "dvc.output")


def context(start: Start) -> Any:
    """What starts the processes; DVC is imported once, in the process that they come from, and what stages import where
    they are to start warm."""
    import multiprocessing
    from multiprocessing import forkserver

    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["qntz.fleet.workers", *PRELOADED, *(["qntz.fleet.loaded"] if start.warm else [])])
    # what ends the run is for its workers, each by itself: the process that they come from outlives them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # one that comes now is told afterwards
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in HANDED_ON}
    try:
        with start.environ():
            forkserver.ensure_running()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return found


class Worker:
    """One DVC at work on some stages.

    Args:
        context: that of `context()`. targets: as DVC names the stages. options: further ones of `dvc repro`. log: the
            file for what it says. held: a pipe that ends with this process, and the workspace's lock, which it holds
            too: where this process is killed, it ends its stages first. env: set in it. start: how the process was
            started that it is forked from.
    """

    def __init__(
        self,
        context: Any,
        root: Path,
        targets: Sequence[str],
        options: Sequence[str],
        log: Path,
        held: tuple[Any, int],
        env: dict[str, str],
        start: Start,
    ):
        from multiprocessing.reduction import DupFd

        alive, turn = held
        self.log, self.started = log, time.monotonic()
        self._told, telling = context.Pipe(duplex=False)
        arguments = (
            str(root),
            list(targets),
            list(options),
            str(log),
            alive,
            DupFd(turn),
            telling,
            {**environment(), **env},
            start,
        )
        self.process = context.Process(target=_dvc, args=arguments, daemon=False)
        self.process.start()
        telling.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """Its exit code, 128 and more for a signal; None while it is at work."""
        code = self.process.exitcode
        return code if code is None or code >= 0 else 128 - code

    def peak(self) -> int:
        """The bytes that the largest of its processes took; 0 where it did not come to tell."""
        try:
            return int(self._told.recv()) if self._told.poll() else 0
        except EOFError:
            return 0

    def said(self) -> Said:
        """What it has said so far."""
        with contextlib.suppress(FileNotFoundError):
            return Said.of(self.log.read_text(encoding="utf-8", errors="replace"))
        return Said({}, [])

    def is_there(self) -> bool:
        """Whether it, or something that it started, still runs."""
        if self.process.exitcode is None:
            return True
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def send(self, number: int) -> bool:
        """Sends a signal to it and to all that it started; returns whether it was there to be told: one that has just
        been started comes to its session a moment later."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return self.process.exitcode is not None
        except PermissionError:
            return True
        return True


@dataclass(frozen=True)
class Said:
    """What a DVC said: what became of each stage, by its name as DVC has it, in their order; the error lines of the
    stages, or its own where they said nothing; the stage that it could not reproduce, "" where it named none; and
    whether another DVC was in its way."""

    stages: dict[str, str]
    errors: list[str]
    failed: str = ""
    busy: bool = False

    @staticmethod
    def of(text: str) -> Said:
        stages: dict[str, str] = {}
        for line in text.splitlines():
            for outcome, pattern in _SAID.items():
                if found := pattern.match(line):
                    stages[found[1]] = outcome
        lines = text.splitlines()
        errors = [line for line in lines if line.startswith("error: ")] or [
            line for line in lines if line.startswith("ERROR: ")
        ]
        failed = next((found[1] for line in lines if (found := _FAILED.match(line))), "")
        return Said(stages, errors, failed, any(BUSY in line for line in errors))


def _dvc(
    root: str,
    targets: Sequence[str],
    options: Sequence[str],
    log: str,
    alive: Any,
    turn: Any,
    telling: Any,
    env: dict[str, str],
    start: Start,
) -> None:
    """The life of a worker's process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # which are ignored, until there are handlers
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(root)
    from dvc.cli import main

    from qntz.repro.ending import below, end_at_the_end_of
    from qntz.repro.observed import keep_to_this_process
    from qntz.repro.run_cache import fetch_by_stage

    fetch_by_stage()
    if start.warm:
        start_warm(start)
    keep_to_this_process(alive.fileno(), turn.detach(), telling.fileno())
    end_at_the_end_of(alive.fileno())

    def end(*_: Any) -> None:
        if not below():  # else its stage was told as well, and DVC waits for that, as it does on Ctrl-C
            raise KeyboardInterrupt

    for number in HANDED_ON:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    # for the other workers, which hold DVC's lock while they save what they made, and for as long as that takes
    arguments = ["--wait-for-lock", "repro", *options, *targets]
    sys.argv = ["dvc", *arguments]  # DVC names itself by it in its list of who reads and writes what
    code = int(main(arguments) or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        telling.send(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1024 if sys.platform == "linux" else 1))
    os._exit(code)
