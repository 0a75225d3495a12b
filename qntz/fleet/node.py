"""A worker's side of `qntz repro --on CLUSTER`: it checks out the commit, lets DVC go through its stages against the
shared remote, and pushes what came of them. Nothing else travels, so that one that dies costs its own stages alone.

`python -m qntz.fleet.node TASK ANSWER [PARENT]` is the process that does it: it reads a `Task` and writes an `Answer`,
as JSON, and ends with the process PARENT.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qntz.errors import ArtifactError, QntzError, one_line
from qntz.fleet.only import OTHERWISE, REFUSED, write_shell
from qntz.fleet.results import push_apart
from qntz.fleet.way import AWAY, may_be_there_again, telling
from qntz.fleet.workers import RAN, Said
from qntz.parent import end_with
from qntz.pipelines import shown
from qntz.redact import redacted

DONE, FAILED, UNREACHED, LOST = "done", "failed", "unreached", "lost"
SLOTS = 1000
COMPOSE = "compose"
SHELL = Path(".dvc/tmp/qntz-shell")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_RUNS = re.compile(r"^Running stage '(.+)':$")
_PASSED = re.compile(r"^Stage '(.+)' (is cached - skipping run|didn't change, skipping)")
_AS_LOCKED = re.compile(
    r"^(?:Pulling data for stage: (?='.+'$)|Stage (?='.+' didn't change, skipping$))'([^']+)'", re.M
)
_GONE = re.compile(r"^Unable to pull data for stage: '(.+)'$", re.M)
_FAILED = re.compile(r"^ERROR: failed to reproduce (?:stages: )?('.*')")
_EXITED = "WARNING: failed to run: "


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes:
        repository: from which it clones. commit: that it checks out. below: the project's folder in it. targets: its
            stages, as DVC names them. composed: what compose has to come to there, by path. locks: those of
            DVC, by path, that are others on the head than in the commit: what is made so far is the same for both then.
            remote: DVC's, its name and options without secrets. folder: for its checkouts, "" for the user's caches.
    """

    repository: str
    commit: str
    targets: Sequence[str]
    below: str = ""
    composed: Mapping[str, str] = field(default_factory=dict)
    locks: Mapping[str, str] = field(default_factory=dict)
    remote: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Attributes:
        how: "done"; "failed", by a stage or for good; "unreached", where git, the remote or its data were not there;
            "lost", where the worker ended. why: in lines. stages: what became of each, as DVC names them, but for those
            whose results nobody else can have. failed: those that did, with their reasons. ran: those that did
            and did not fail, pushed or not. host: on which. seconds: that it took. said: all that DVC said.
    """

    how: str
    why: Sequence[str] = ()
    stages: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ran: Sequence[str] = ()
    host: str = ""
    seconds: float = 0.0
    said: str = ""

    def redacted(self) -> Answer:
        """Without the secrets of this machine's environment, which the head does not know."""
        failed = {stage: [*map(redacted, lines)] for stage, lines in self.failed.items()}
        return replace(self, why=[*map(redacted, self.why)], failed=failed, said=redacted(self.said))


def work(task: Mapping[str, Any]) -> dict[str, Any]:
    """Does a task in a process of its own, which ends with this one; returns an `Answer`, both as mappings."""
    with tempfile.TemporaryDirectory(prefix="qntz-") as folder:
        given, answer = Path(folder, "task.json"), Path(folder, "answer.json")
        given.write_text(json.dumps(task), encoding="utf-8")
        # the repository is for people who look at what runs
        command = [*command_of(given, answer), str(os.getpid()), str(task["repository"])]
        started = time.monotonic()
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        if answer.is_file():
            found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
            return found
    code = done.returncode
    how = f"its process ended: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    told = Answer(LOST, [how, *lines[-1:]], host=socket.gethostname(), seconds=time.monotonic() - started)
    return asdict(told.redacted())


def command_of(task: Path, answer: Path) -> list[str]:
    """What does a task that stands in a file."""
    return [sys.executable, "-m", "qntz.fleet.node", str(task), str(answer)]


def main() -> int:
    """The process that does a task."""
    given, to, *parent = sys.argv[1:4]
    if parent:
        end_with(int(parent[0]))
    started = time.monotonic()
    try:
        answer = _answer(Task(**json.loads(Path(given).read_text(encoding="utf-8"))))
    except QntzError as error:
        answer = Answer(FAILED, [str(error)])
    except Exception as error:
        answer = Answer(FAILED, [f"unexpected error, a bug in qntz: {one_line(error, place=True)}"])
    told = {**asdict(answer.redacted()), "host": socket.gethostname(), "seconds": time.monotonic() - started}
    temporary = Path(f"{to}.tmp")
    temporary.write_text(json.dumps(told), encoding="utf-8")
    temporary.replace(to)
    return 0


def _answer(task: Task) -> Answer:
    name = hashlib.sha256(task.repository.encode()).hexdigest()[:16]
    folder = Path(task.folder or _caches()).expanduser() / name / socket.gethostname()
    with _slot(folder) as checkout:
        try:
            _check_out(checkout, task)
        except subprocess.CalledProcessError as error:
            said = " ".join(_ESCAPES.sub("", error.stderr).split())
            how = UNREACHED if AWAY.search(said) else FAILED
            return Answer(how, [f"{task.repository} at {task.commit[:12]}: {said or error}"])
        root = checkout / task.below
        os.chdir(root)
        _set_up(root, task)
        return _reproduced(root, task)


def _caches() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "qntz" / "work"


@contextlib.contextmanager
def _slot(folder: Path) -> Iterator[Path]:
    """A checkout that no other process of this machine works in, the first that is free."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS):
        with (folder / f"{number}.lock").open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder / str(number)
            return
    raise ArtifactError("all checkouts are in use", where=str(folder), do="End what works there.")


def _check_out(checkout: Path, task: Task) -> None:
    """Raises CalledProcessError where git fails, with what it said."""

    def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        inside = ("-C", str(checkout), "-c", "advice.detachedHead=false")
        return _run(["git", *inside, *arguments], check=check, GIT_TERMINAL_PROMPT="0")

    for left in checkout.glob(".git/*.lock"):  # by a worker that was killed
        left.unlink(missing_ok=True)
    if git("rev-parse", "HEAD", check=False).stdout.strip() != task.commit:
        shutil.rmtree(checkout / task.below / "build", ignore_errors=True)  # a report looks at all of its model's
    if not (checkout / ".git/HEAD").is_file():
        shutil.rmtree(checkout, ignore_errors=True)
        checkout.mkdir()
        git("init", "--quiet")
    if git("cat-file", "-e", f"{task.commit}^{{commit}}", check=False).returncode:
        git("fetch", "--quiet", "--no-tags", task.repository, task.commit)
    git("checkout", "--quiet", "--force", "--detach", task.commit)
    git("clean", "-d", "--force", "--quiet")


def _run(command: Sequence[str], *, check: bool = False, **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends with this process."""
    this, environment = os.getpid(), {**os.environ, **extra}
    return subprocess.run(
        command, check=check, capture_output=True, text=True, env=environment, preexec_fn=lambda: end_with(this)
    )


def _set_up(root: Path, task: Task) -> None:
    """The remote, DVC's locks, and the shell that runs no stages but the task's own."""
    from configobj import ConfigObj

    from qntz.remotes import LOCAL, dvc_root

    top = dvc_root(root)
    if top is None:
        raise QntzError("is no project of DVC", where=task.repository, do="Run `dvc init` in it, and commit that.")
    local = ConfigObj(str(top / LOCAL), encoding="utf-8")
    if task.remote:
        name = task.remote["name"]
        local["core"] = {"remote": name}
        local[f'remote "{name}"'] = dict(task.remote["options"])
        local.write()
    for path, text in task.locks.items():
        if text:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        else:
            (root / path).unlink(missing_ok=True)
    digests = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in task.composed.items()}
    write_shell(root / SHELL, [shown(one) for one in task.targets], digests)


def _reproduced(root: Path, task: Task) -> Answer:
    from qntz.repro.run import ended_by, repro

    os.environ["SHELL"] = str(root / SHELL)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        options = ["--pull", "--keep-going", *task.targets]
        code = repro(root, options, 3600.0, lambda text: print(f"repro: {text}", flush=True))
        log.seek(0)
        text = log.read()
    said = Said.of(text)
    reasons = failures(text)
    made = {stage: what for stage, what in said.stages.items() if stage not in reasons}
    ran = [stage for stage, what in made.items() if what == RAN and shown(stage) != COMPOSE]
    # what it found may not have been pushed before; where that is as the head's dvc.lock has it, another may have been
    there = [stage for stage, what in made.items() if what != RAN and stage in task.targets]
    kept = [stage for stage in there if stage in {*_AS_LOCKED.findall(text)} - {*_GONE.findall(text)}]
    new = [*ran, *(stage for stage in there if stage not in kept)]
    code_of_push, text_of_push = push_apart(root, new, kept) if new or kept else (0, "")

    def answer(how: str, *why: str) -> Answer:
        failed = {stage: lines for stage, lines in reasons.items() if lines}
        return Answer(how, why, made, failed, ran, said=text)

    if code_of_push:
        made = {}  # for all others
        what = f"what was made is not pushed: {telling(text_of_push)}"
        return answer(UNREACHED if may_be_there_again(text_of_push) else FAILED, what)
    if code == 0:
        return answer(DONE)
    if ended := ended_by(code):
        return answer(LOST, f"DVC was ended: {ended}")
    if other := OTHERWISE.search(text):
        return answer(FAILED, _otherwise(root, other[1], task.composed[other[1]]))
    refused = {*REFUSED.findall(text)}
    if any(lines and shown(stage) not in refused for stage, lines in reasons.items() if stage in task.targets):
        return answer(FAILED)
    elsewhere = [line for stage, lines in reasons.items() if shown(stage) not in refused for line in lines]
    if elsewhere:  # in compose, or a stage of the user's own
        return answer(FAILED, *elsewhere)
    if refused:
        return answer(UNREACHED, f"the result of {min(refused)} could not be fetched")
    lines = "\n".join(line for line in text.splitlines() if line.startswith(("ERROR: ", "WARNING: ")))
    how = UNREACHED if may_be_there_again(lines) else FAILED
    return answer(how, telling(lines) or f"DVC ended with exit code {code}")


def failures(text: str) -> dict[str, list[str]]:
    """The stages that a `dvc repro --keep-going` names as failed, with what they said themselves, or DVC of how they
    ended; with nothing, those that did not come to run."""
    said: dict[str, list[str]] = {}
    ended: dict[str, str] = {}
    named: list[str] = []
    current = ""
    for line in text.splitlines():
        if runs := _RUNS.match(line):
            current = runs[1]
        elif _PASSED.match(line):
            current = ""
        elif current and line.startswith("error: "):
            said.setdefault(current, []).append(line)
        elif current and line.startswith(_EXITED):
            ended[current] = line.removeprefix("WARNING: ")
        elif failed := _FAILED.match(line):
            named = re.findall(r"'([^']+)'", failed[1])
    return {stage: said.get(stage) or ([ended[stage]] if stage in ended else []) for stage in named}


def _otherwise(root: Path, path: str, text: str) -> str:
    """How compose came to something else here than on the head, of which the head would find nothing that is made."""
    import yaml

    here = yaml.safe_load((root / path).read_text(encoding="utf-8")) if (root / path).is_file() else {}
    ours, its = _flat(yaml.safe_load(text)), _flat(here)
    keys = sorted(key for key in {*ours, *its} if ours.get(key) != its.get(key))
    first = f"{keys[0]} is {its.get(keys[0])!r} here, {ours.get(keys[0])!r} there" if keys else "its text"
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    error = QntzError(
        "this worker composes otherwise than the head",
        where=path,
        why=f"{first}{more}",
        do="Install the same versions on both, and commit all that the stages read.",
    )
    return str(error)


def _flat(told: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(told, Mapping):
        return {at: told}
    return {key: one for name, part in told.items() for key, one in _flat(part, f"{at}.{name}".lstrip(".")).items()}


if __name__ == "__main__":
    sys.exit(main())
