"""A stage knows the DVC that started it, whatever program that is, and ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGE = """
import sys, time
sys.path.insert(0, {root!r})
from stages.parent import die_with_parent
die_with_parent()
open("started", "w").close()
time.sleep({seconds})
open("out.txt", "w").close()
"""
BY_API = "from dvc.repo import Repo\nRepo('.').reproduce()\n"
OWN_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture
def own_pids() -> tuple[str, ...]:
    """What starts a command as process 1."""
    if sys.platform != "linux" or subprocess.run([*OWN_PIDS, "true"], capture_output=True).returncode != 0:
        pytest.skip("process ids of its own need Linux, and root")
    return OWN_PIDS


def project(folder: Path, root: Path, seconds: float) -> Path:
    """With a stage that has a shell above it, and a program that calls DVC from Python."""
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (folder / "stage.py").write_text(STAGE.format(root=str(root), seconds=seconds))
    (folder / "dvc.yaml").write_text(
        f"stages:\n  one:\n    cmd: {sys.executable} stage.py && true\n    outs: [out.txt]\n"
    )
    (folder / "build_all.py").write_text(BY_API)
    return folder


def test_dvc_called_from_python_as_process_1_of_a_container(
    tmp_path: Path, root: Path, own_pids: tuple[str, ...]
) -> None:
    where = project(tmp_path, root, 0)
    done = subprocess.run([*own_pids, sys.executable, "build_all.py"], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (where / "out.txt").exists()


def test_where_no_dvc_is_above_it_says_why_it_ends(tmp_path: Path, root: Path, own_pids: tuple[str, ...]) -> None:
    where = project(tmp_path, root, 0)
    (where / ".dvc/tmp").mkdir()
    for listed in (None, "{}", '{"read": {}}', "{"):
        if listed is not None:
            (where / ".dvc/tmp/rwlock").write_text(listed)
        command = ["sh", "-c", f"{sys.executable} stage.py; exit $?"]
        environment = {**os.environ, "DVC_STAGE": "check@digits"}
        done = subprocess.run([*own_pids, *command], cwd=where, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (
            1,
            "error: check@digits: the dvc that started it has ended, and so it does. "
            "Where something else started it, unset DVC_STAGE.\n",
        )


def test_it_ends_with_a_program_that_calls_dvc_from_python(tmp_path: Path, root: Path) -> None:
    where = project(tmp_path, root, 4)
    with subprocess.Popen([sys.executable, "build_all.py"], cwd=where, stdout=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 60
        while not (where / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        running.kill()
    time.sleep(6)
    assert not (where / "out.txt").exists()
