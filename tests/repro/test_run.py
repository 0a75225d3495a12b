"""`qntz repro` ends with all that it has started, and counts as waiting nothing but that."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.lock import LockError, make_lock

from qntz.repro import ending
from qntz.repro.observed import LONGEST, _Watch
from qntz.repro.turns import Patience, turn
from tests.repro.conftest import command_line

STUBBORN = """
import pathlib, signal, subprocess, sys, time
asked = []
def told(number, frame):
    asked.append(number)
    if "polite" in sys.argv:
        time.sleep(1)  # to save what it has
        pathlib.Path(f"saved-{'child' in sys.argv}").write_text(str(len(asked)))
        sys.exit(1)
signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGHUP, told)
if "child" not in sys.argv:
    subprocess.Popen([sys.executable, __file__, "child", *sys.argv[1:]])
else:
    pathlib.Path("started").touch()
time.sleep(60)
"""


@pytest.fixture
def stubborn(small: Path) -> Path:
    """A project with a stage of the user's own that has a child, and ends by itself after a minute."""
    (small / "train.py").write_text(STUBBORN)
    (small / "dvc.yaml").write_text(f"stages:\n  train:\n    cmd: {sys.executable} train.py\n    outs: [out.txt]\n")
    return small


def inside(folder: Path, command: str) -> list[int]:
    """The processes of a command that run in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").resolve() == folder.resolve():
                ended = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if not ended and command in (entry / "cmdline").read_text().replace("\0", " "):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running(
    project: Path, root: Path, *arguments: str, hangup: signal.Handlers = signal.SIG_DFL
) -> Iterator[subprocess.Popen[str]]:
    """hangup: what becomes of SIGHUP, which the tests themselves may run without."""
    command = command_line(root, "qntz.cli", "repro", *arguments)
    process = subprocess.Popen(
        **command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free(project: Path) -> bool:
    try:
        with turn(project, Patience(0), pytest.fail):
            return True
    except Exception:
        return False


@pytest.mark.parametrize(
    ("number", "kind", "least", "most"),
    [
        (signal.SIGTERM, "polite", 0.0, ending.GRACE - 2),
        (signal.SIGHUP, "polite", 0.0, ending.GRACE - 2),
        pytest.param(signal.SIGTERM, "", ending.GRACE - 1, ending.GRACE + 20, marks=pytest.mark.slow),
    ],
)
def test_a_stage_of_the_users_own_is_asked_to_end_and_then_killed(
    stubborn: Path, root: Path, number: signal.Signals, kind: str, least: float, most: float
) -> None:
    text = (stubborn / "dvc.yaml").read_text()
    (stubborn / "dvc.yaml").write_text(text.replace("train.py", f"train.py {kind}"))
    with running(stubborn, root) as process:
        wait_for(stubborn / "started")
        before = time.monotonic()
        process.send_signal(number)
        while process.poll() is None:
            assert not free(stubborn) or not inside(stubborn, "train.py")
            time.sleep(0.02)
        assert process.returncode == 128 + number
        assert least <= time.monotonic() - before <= most
        assert inside(stubborn, "train.py") == []
    if kind:  # each was asked once, and could do what it had to
        assert [(stubborn / f"saved-{child}").read_text() for child in (False, True)] == ["1", "1"]


def test_under_nohup_a_hangup_is_nothing(stubborn: Path, root: Path) -> None:
    text = (stubborn / "dvc.yaml").read_text()
    (stubborn / "dvc.yaml").write_text(text.replace("train.py", "train.py polite"))
    with running(stubborn, root, hangup=signal.SIG_IGN) as process:
        wait_for(stubborn / "started")
        process.send_signal(signal.SIGHUP)
        time.sleep(1.5)
        assert process.poll() is None
        assert inside(stubborn, "train.py")
        assert not (stubborn / "saved-False").exists()  # it was not told
        process.send_signal(signal.SIGTERM)
        assert process.wait(ending.GRACE) == 128 + signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["qntz", "dvc"])
def test_a_kill_ends_the_stage_before_the_workspace_is_free(stubborn: Path, root: Path, killed: str) -> None:
    import psutil

    with running(stubborn, root) as process:
        wait_for(stubborn / "started")
        (dvc,) = psutil.Process(process.pid).children()
        assert "qntz.repro.observed" in dvc.cmdline()
        assert not free(stubborn)
        process.kill() if killed == "qntz" else dvc.kill()
        deadline = time.monotonic() + ending.GRACE + 20
        while not free(stubborn):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert inside(stubborn, "train.py") == []
        assert process.wait(10) == (-signal.SIGKILL if killed == "qntz" else 128 + signal.SIGKILL)


def test_what_a_stage_leaves_to_run_on_is_left(small: Path, root: Path) -> None:
    """As a plain `dvc repro` leaves it: a server that a stage starts, for instance."""
    (small / "dvc.yaml").write_text(
        "stages:\n  slow:\n    cmd: (nohup sleep 20 >/dev/null 2>&1 &) && echo 1 > out.txt\n    outs: [out.txt]\n"
    )
    with running(small, root) as process:
        assert process.wait(60) == 0
    assert free(small)
    (left,) = inside(small, "sleep 20")
    os.kill(left, signal.SIGKILL)


@pytest.mark.slow
def test_work_is_not_counted_as_waiting(small: Path, root: Path) -> None:
    """The lock is taken as the stage ends, after more seconds than there are to wait; the stage runs again."""
    slow = (small / "dvc.yaml").read_text().replace("sleep 1", "echo x >> started && sleep 4")
    (small / "dvc.yaml").write_text(slow)
    lock = make_lock(str(small / ".dvc/tmp/lock"))
    with running(small, root, "--wait", "3") as process:
        wait_for(small / "started")
        with lock:
            assert process.stdout is not None
            again = "repro: another DVC was in the way; tries again (a stage that had just ended runs again)\n"
            assert again in iter(process.stdout.readline, "")
        assert process.wait(60) == 0
        assert (small / "started").read_text() == "x\nx\n"


def test_where_it_gives_up_it_tells_what_is_lost(small: Path, root: Path) -> None:
    (small / "dvc.yaml").write_text((small / "dvc.yaml").read_text().replace("sleep 1", "touch started && sleep 1"))
    with running(small, root, "--no-wait") as process:
        wait_for(small / "started")
        with make_lock(str(small / ".dvc/tmp/lock")):
            said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("error: repro: another DVC was in the way: Unable to acquire lock.")
    assert last.endswith("a stage that had just ended runs again, all before is kept.")
    assert "\x1b" not in last


def test_only_the_first_message_is_kept_in_plain_text() -> None:
    error = LockError("\x1b[36mheld\x1b[39m\nby " + "x" * 2 * LONGEST)
    logger = logging.getLogger("dvc")
    with tempfile.TemporaryFile() as file:
        watch = _Watch(file.fileno())
        logger.addHandler(watch)
        try:
            for _ in range(3):
                logger.error("failed: %s", error)
        finally:
            logger.removeHandler(watch)
        file.seek(0)
        told = file.read().decode()
    assert told.startswith("held by xxx")
    assert len(told) == LONGEST


def test_what_dvc_leaves_behind_keeps_nothing_waiting(small: Path, root: Path) -> None:
    """DVC's daemon forks, and waits for what it runs."""
    (small / "sitecustomize.py").write_text(
        "import atexit, os, sys, time\n"
        "if 'qntz.repro.observed' in sys.orig_argv:\n"
        "    def daemon():\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            os.close(1), os.close(2)\n"
        "            time.sleep(20)\n"
        "            os._exit(0)\n"
        "    atexit.register(daemon)\n"
    )
    command = command_line(root, "qntz.cli", "repro")
    command["env"]["PYTHONPATH"] = f"{small}:{root}"
    before = time.monotonic()
    done = subprocess.run(**command, cwd=small, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - before < 15
    assert free(small)
    (left,) = inside(small, "qntz.repro.observed")
    os.kill(left, signal.SIGKILL)
