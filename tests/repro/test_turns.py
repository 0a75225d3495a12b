"""One run at a time in a workspace: who waits, for whom, for how long, and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qntz.errors import ArtifactError, UsageError
from qntz.repro.mend import DVC_LOCK, RUNNING, mend, state_folder
from qntz.repro.run import repro
from qntz.repro.turns import TURN, BusyError, Patience, dvc_at_work, running_stage, turn
from tests.repro.conftest import command_line

HOLD = """
import sys, time
from pathlib import Path
from qntz.repro.turns import Patience, turn
with turn(Path.cwd(), Patience(30), lambda text: print(text, flush=True)):
    print("mine", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def holder(workspace: Path, root: Path, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", HOLD, str(seconds)]
    return subprocess.Popen(command, cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_run_is_told_whom_it_waits_for_and_a_kill_frees_the_turn(workspace: Path, root: Path) -> None:
    first = holder(workspace, root, 60)
    assert line(first) == "mine"
    second = holder(workspace, root, 0)
    told = line(second)
    assert re.fullmatch(
        rf"waits for the run of process {first.pid} \(since \d\d:\d\d:\d\d\), for at most [\d.]+ s", told
    ), told
    first.send_signal(signal.SIGKILL)
    assert line(second) == "mine"
    assert (first.wait(10), second.wait(10)) == (-signal.SIGKILL, 0)


def test_a_run_that_does_not_wait_long_enough_is_refused_in_one_line(workspace: Path, root: Path) -> None:
    first = holder(workspace, root, 60)
    try:
        assert line(first) == "mine"
        told: list[str] = []
        for seconds, said in ((0, 0), (0.5, 1)):
            before = time.monotonic()
            with pytest.raises(BusyError, match=rf"another run is at work .* process {first.pid} \(since"):
                repro(workspace, [], seconds, told.append)
            assert seconds <= time.monotonic() - before < seconds + 5
            assert len(told) == said
    finally:
        first.kill()
        first.wait()
    with turn(workspace, Patience(0), pytest.fail):
        pass


@contextlib.contextmanager
def child(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with these arguments, which does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *arguments], cwd=folder)
    try:
        time.sleep(0.1)  # it is itself by then, and not yet this one's copy
        yield process
    finally:
        process.kill()
        process.wait()


def test_dvc_is_seen_at_work_by_its_list_and_by_its_lock(workspace: Path) -> None:
    assert dvc_at_work(workspace) is None
    state = state_folder(workspace / "build")  # from below, as DVC finds it
    assert state == workspace / ".dvc/tmp"
    with pytest.raises(UsageError, match="is no project of DVC"):
        state_folder(Path("/"))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    entry = {"pid": gone.pid, "cmd": "/venv/bin/dvc repro --pull"}
    for text in (json.dumps({"write": {"build/config": entry}}), "{", "[]", '{"read": {"a": [{}]}}'):
        (state / RUNNING).write_text(text)
        assert dvc_at_work(workspace) is None  # what is dead, or cannot be read, is left to DVC
    with child(workspace, "dvc", "repro", "--pull") as running:
        entry["pid"] = running.pid
        for listed in ({"write": {"build/config": entry}}, {"read": {"build/config": [entry]}}):
            (state / RUNNING).write_text(json.dumps(listed))
            assert dvc_at_work(workspace) == f"`dvc repro --pull` (process {running.pid})"
    (state / RUNNING).write_text("{}")
    with (state / DVC_LOCK).open("w") as file:
        assert dvc_at_work(workspace) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert dvc_at_work(workspace) == "another DVC"
    assert dvc_at_work(workspace) is None


@pytest.mark.parametrize(
    ("command", "arguments", "started", "inside", "same"),
    [
        ("/venv/bin/dvc repro --pull", ("dvc", "repro", "--pull"), "before", False, True),
        ("/venv/bin/dvc repro --pull", ("dvc", "repro"), "before", False, False),
        ("/venv/bin/dvc repro", ("dvc", "repro"), "before", False, True),  # what calls DVC may work elsewhere
        ("/venv/bin/dvc repro", ("dvc", "repro"), "after", False, False),
        ("/venv/bin/dvc repro", ("dvc", "repro"), "after", True, True),  # then clocks have been set
        ("/venv/bin/dvc repro", ("something", "else"), "after", True, False),
        ("/home/me/train.py", ("/home/me/train.py",), "before", False, True),
        ("/home/me/pkg/train.py", ("-m", "pkg.train"), "before", False, True),
        ("/home/me/train.py --all", ("-m", "pkg.other"), "before", True, True),  # it may have changed its arguments
        ("/home/me/train.py --all", ("-m", "pkg.other"), "before", False, False),
    ],
)
def test_a_process_id_that_is_anothers_by_now_holds_nobody_up(
    workspace: Path, command: str, arguments: tuple[str, ...], started: str, inside: bool, same: bool
) -> None:
    listed = state_folder(workspace) / RUNNING
    with child(workspace if inside else Path("/"), *arguments) as other, child(workspace, "dvc", "push") as kept:
        entry, stays = {"pid": other.pid, "cmd": command}, {"pid": kept.pid, "cmd": "dvc push"}
        listed.write_text(json.dumps({"write": {"a": entry, "b": stays}, "read": {"c": [entry, stays], "d": [entry]}}))
        if started == "after":
            an_hour_ago = time.time() - 3600
            os.utime(listed, (an_hour_ago, an_hour_ago))
            stays["pid"] = 2**22 + 1  # there is none: left to DVC
            listed.write_text(listed.read_text().replace(str(kept.pid), str(stays["pid"])))
            os.utime(listed, (an_hour_ago, an_hour_ago))
        told = mend(workspace)
        now = json.loads(listed.read_text())
        if same:
            assert (told, now["write"]["a"], now["read"]["d"]) == ([], entry, [entry])
            return
        (line,) = told
        assert line.startswith(f".dvc/tmp/rwlock named process {other.pid} as `")
        assert line.endswith("`, which that is not: the entry is removed.")
        assert now == {"write": {"b": stays}, "read": {"c": [stays]}}


def test_a_dvc_that_was_killed_and_is_not_waited_for_is_gone(workspace: Path) -> None:
    listed = state_folder(workspace) / RUNNING
    with child(workspace, "dvc", "repro") as killed:
        listed.write_text(json.dumps({"write": {"a": {"pid": killed.pid, "cmd": "dvc repro"}}}))
        assert dvc_at_work(workspace)
        killed.kill()
        time.sleep(0.2)
        assert dvc_at_work(workspace) is None
        assert len(mend(workspace)) == 1


@pytest.mark.parametrize("arguments", [("dvc", "repro"), ("qntz.cli", "repro", "--", "-q")])
def test_a_real_dvc_knows_itself_in_its_list(small: Path, root: Path, arguments: tuple[str, ...]) -> None:
    running = subprocess.Popen(**command_line(root, *arguments), cwd=small, stdout=subprocess.DEVNULL)
    told = set()
    while running.poll() is None:
        told.add(running_stage(small))
        time.sleep(0.05)
    assert running.returncode == 0
    (named,) = told - {None}
    assert re.fullmatch(r"`(dvc repro -q|__main__.py repro)` \(process \d+\)", named), named


def test_dvc_goes_on_where_a_process_id_is_anothers_by_now(small: Path, root: Path) -> None:
    listed = state_folder(small) / RUNNING
    with child(Path("/"), "something", "else") as other:
        entry = {"write": {str(small / "out.txt"): {"pid": other.pid, "cmd": "dvc repro"}}}
        listed.write_text(json.dumps(entry))
        plain = subprocess.run(**command_line(root, "dvc", "repro"), cwd=small, capture_output=True)
        assert (plain.returncode, "is busy" in plain.stderr) == (255, True)
        done = subprocess.run(**command_line(root, "qntz.cli", "repro", "--no-wait"), cwd=small, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert f"named process {other.pid} as `dvc repro`, which that is not" in done.stderr
    assert "Process 'dvc repro'" not in done.stderr


def test_a_folder_of_state_that_cannot_be_written_is_told_in_one_line(workspace: Path) -> None:
    (state_folder(workspace) / TURN).mkdir()
    with pytest.raises(ArtifactError, match="qntz-repro.lock: cannot be written: Is a directory. DVC keeps its locks"):
        repro(workspace, [], 0, pytest.fail)
    (workspace / ".dvc/tmp" / TURN).rmdir()
    (workspace / ".dvc/tmp").rmdir()
    (workspace / ".dvc/tmp").write_text("")
    with pytest.raises(ArtifactError, match=".dvc/tmp: cannot be written: File exists"):
        repro(workspace, [], 0, pytest.fail)
