"""The shell that runs no stages but those that it may."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qntz.fleet.only import OTHERWISE, REFUSED, write_shell


def run(shell: Path, command: str) -> subprocess.CompletedProcess[str]:
    """As DVC calls it, in a folder with a python that only says what it is asked for."""
    python = shell.parent / "bin/python"
    python.parent.mkdir(exist_ok=True)
    python.write_text('#!/bin/sh\necho "ran $2 $3"\n[ "$2" != stages.compose ] || printf composed > composed.yaml\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [str(shell), "-c", command], cwd=shell.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_what_it_may_runs_and_nothing_else_of_a_model(tmp_path: Path) -> None:
    shell = tmp_path / "shell"
    write_shell(shell, ["export@a", "engine@a-int8"])
    assert run(shell, "python -m stages.export a").stdout == "ran stages.export a\n"
    assert run(shell, "python -m stages.engine a-int8").stdout == "ran stages.engine a-int8\n"
    assert run(shell, "python -m stages.compose").stdout == "ran stages.compose \n"
    assert run(shell, "echo its own; exit 3").returncode == 3
    for command, stage in (("export b", "export@b"), ("engine a", "engine@a"), ("verify a-int8", "verify@a-int8")):
        done = run(shell, f"python -m stages.{command}")
        assert (done.returncode, done.stdout) == (1, "")
        found = REFUSED.search(done.stderr)
        assert found is not None
        assert found[1] == stage


def test_an_interpreter_in_a_folder_with_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my projects"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    write_shell(folder / "shell", ["export@a"])
    assert run(folder / "shell", "python -m stages.export a").stdout == "ran stages.export a\n"
    assert run(folder / "shell", "python -m stages.export b").returncode == 1


@pytest.mark.parametrize(("text", "wrong"), [("composed", ""), ("else", "composed.yaml")])
def test_compose_has_to_come_to_what_it_should(tmp_path: Path, text: str, wrong: str) -> None:
    shell = tmp_path / "shell"
    write_shell(shell, [], {"composed.yaml": hashlib.sha256(text.encode()).hexdigest()})
    done = run(shell, "python -m stages.compose")
    found = OTHERWISE.search(done.stderr)
    assert (done.returncode, found[1] if found else "") == (1 if wrong else 0, wrong)
    assert done.stdout == "ran stages.compose \n"


def test_a_file_that_compose_does_not_write_is_told(tmp_path: Path) -> None:
    shell = tmp_path / "shell"
    write_shell(shell, [], {"other.yaml": "0" * 64})
    assert "qntz: other.yaml is composed otherwise here" in run(shell, "python -m stages.compose").stderr
