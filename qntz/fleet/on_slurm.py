"""Tasks on Slurm: a job for each, by Slurm's own commands. The head writes what a job is to do into a folder that the
nodes see, and finds the answer there.

Not by submitit, whose jobs end after five minutes unless they are told otherwise, report a job that comes near its
limit as one that failed, and answer with pickles. How jobs stand is asked of `squeue`, for all of them at once, which
needs no database of accounts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qntz.errors import one_line
from qntz.fleet.cluster import ClusterError
from qntz.fleet.node import FAILED, LOST, Answer, command_of
from qntz.fleet.requests import Request
from qntz.fleet.way import AWAY
from qntz.redact import credentials_in, is_secret

LOOK = 1.0  # seconds between two questions to Slurm
PATIENCE = 600.0  # seconds for which it need not answer them
SHOWN = 90.0  # seconds that a shared file system may take, to show what a job wrote that has ended well
GOING = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT"),
)
OWN = ("OUT_OF_MEMORY", "TIMEOUT", "DEADLINE", "CANCELLED")  # states of a job that would end so again, or was to end
SECONDS = 60.0  # for a command


class Slurm:
    """A `qntz.fleet.cluster.Cluster`; a machine has one of them.

    Args:
        folder: for what jobs read and write; on a file system that the nodes see.

    Raises:
        ClusterError: Slurm does not answer.
    """

    place = ""

    def __init__(self, folder: Path):
        self._folder = folder
        _told("sinfo", "--noheader")
        self._end_left()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # a task says where the remote is
        for path in self._folder.iterdir():  # a number may be given to another job by now
            path.unlink()
        self._states: dict[str, str] = {}
        self._given, self._unsure_until = set[str](), 0.0
        self._asked = self._answered = time.monotonic()

    def _end_left(self, but: Collection[str] = ()) -> None:
        """Ends jobs of this project that Slurm still has, but for some: of an earlier run that was killed, too, which
        are asked for again."""
        found = _told("squeue", "--noheader", "--me", "--format=%i %Z")
        here = str(self._folder.resolve())
        left = [
            job
            for job, _, at in (line.strip().partition(" ") for line in found.splitlines())
            if at == here and job not in but
        ]
        if left:
            _told("scancel", *left)

    def refusal(self, request: Request) -> str:
        done = _run("sbatch", "--test-only", *_options(request), "--wrap=true")
        why = " ".join(done.stderr.replace("sbatch: error:", "").split())
        if done.returncode != 0 and AWAY.search(why):
            raise ClusterError("Slurm does not answer", where="sbatch", why=why)
        return "" if done.returncode == 0 else why

    def start(self, task: Mapping[str, Any], request: Request, name: str) -> _Job:
        if time.monotonic() < self._unsure_until:
            self._end_left(self._given)
        number = f"{time.time_ns():x}"
        given, answer = self._folder / f"{number}.json", self._folder / f"{number}.answer.json"
        given.write_text(json.dumps(task), encoding="utf-8")
        options = [f"--job-name={name}", f"--chdir={self._folder.resolve()}", "--output=%j.log", "--no-requeue"]
        wrap = f"--wrap=exec {shlex.join(command_of(given.resolve(), answer.resolve()))}"
        try:
            job = _told("sbatch", "--parsable", *options, *_options(request), wrap).strip().partition(";")[0]
        except ClusterError:  # it may have taken the job without an answer, which is given again
            self._unsure_until = time.monotonic() + PATIENCE
            raise
        self._given.add(job)
        self._states[job] = "PENDING"
        return _Job(self, job, answer, self._folder / f"{job}.log")

    def state(self, job: str) -> str:
        """In Slurm's words; "" where it knows of no such job any more. What it does not answer for a while, as when its
        controller is started again, stays as it was; raises ClusterError where that is long."""
        if time.monotonic() - self._asked > LOOK:
            self._asked = time.monotonic()
            done = _run("squeue", "--noheader", "--me", "--states=all", "--format=%i %T")
            if done.returncode == 0:
                self._answered = time.monotonic()
                self._states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
            elif time.monotonic() - self._answered > PATIENCE:
                raise ClusterError("Slurm does not answer any more", where="squeue", why=one_line(done.stderr))
        return self._states.get(job, "").strip()

    def close(self) -> None:
        self._end_left()  # of a job that was submitted as the head was ended, it may not know the number


class _Job:
    def __init__(self, slurm: Slurm, job: str, answer: Path, log: Path):
        self._slurm, self._job, self._answer, self._log = slurm, job, answer, log
        self._ended: float | None = None

    def poll(self) -> Answer | None:
        state = self._slurm.state(self._job)
        answer = None
        with contextlib.suppress(OSError):  # a file system of the net may be away for a moment
            os.listdir(self._answer.parent)  # else it may go by what it knew
            answer = Answer(**json.loads(self._answer.read_text(encoding="utf-8")))
        if answer is not None and answer.how != LOST:
            return answer
        if state in GOING:  # one that Slurm ends, at its time limit, may still say so
            self._ended = None
            return None
        self._ended = self._ended or time.monotonic()
        if time.monotonic() - self._ended < (SHOWN if state in ("COMPLETED", "") else LOOK):
            return None
        last = ""
        with contextlib.suppress(OSError, IndexError):
            last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        why = f"Slurm's job {self._job} ended: {state or 'it is not known any more'}"
        if answer is not None and state not in OWN:
            return answer
        return Answer(FAILED if state in OWN else LOST, [why, *([last] if last else [])])

    def cancel(self) -> None:
        _told("scancel", self._job)


def _options(request: Request) -> list[str]:
    """As sbatch takes them: what is true is given by its name alone."""
    told = []
    for key, value in request.slurm.items():
        name = f"--{key.replace('_', '-')}"
        if value is not False and value is not None:
            told.append(name if value is True else f"{name}={value}")
    return told


def _is_confidential(name: str, value: str) -> bool:
    is_proxy = name.lower().endswith("_proxy")  # without which a job reaches nothing
    return is_secret(name) or (bool(credentials_in(value)) and not is_proxy)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of Slurm's, out of reach of a terminal's Ctrl-C, without secrets: a job gets its environment."""
    plain = {name: value for name, value in os.environ.items() if not _is_confidential(name, value)}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, env=plain, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer in {SECONDS:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", error.strerror or str(error))


def _told(*command: str) -> str:
    """What it says; raises ClusterError with its own words where it fails."""
    done = _run(*command)
    if done.returncode != 0:
        why = " ".join(done.stderr.replace(f"{command[0]}: error:", "").split())
        do = "Run it where Slurm's commands reach their controller."
        raise ClusterError("Slurm does not answer", where=command[0], why=why or f"exit code {done.returncode}", do=do)
    return done.stdout
