"""Several runs at once in one workspace: they take turns, one is killed, plain DVC comes between; the end is the same."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, new_project, stages_run
from tests.pipeline.test_kill import require_no_orphan

pytestmark = pytest.mark.slow

DIGITS = "models: {digits: {}}\nengines: {digits-int8: {model: digits, quantize: {use: int8}}}\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = new_project(tmp_path / "project")
    project.params(DIGITS)
    return project


def start(project: Project, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A run of `qntz repro` (or of another command) whose output goes to a file."""
    with (project.path.parent / name).open("w") as log:
        command = arguments if arguments[:1] == ("dvc",) else ("python", "-m", "qntz.cli", "repro", *arguments)
        return subprocess.Popen(
            command, cwd=project.path, env=project.env({"PYTHONUNBUFFERED": "1"}), stdout=log, stderr=log
        )


def said(project: Project, name: str) -> str:
    return (project.path.parent / name).read_text()


def wait_for(project: Project, name: str, text: str) -> None:
    deadline = time.monotonic() + 300
    while text not in said(project, name):
        assert time.monotonic() < deadline, said(project, name)
        time.sleep(0.05)


def test_the_second_of_two_waits_and_finds_nothing_left_to_do(project: Project, small: Project) -> None:
    first = start(project, "first")
    wait_for(project, "first", "Running stage 'check@digits'")
    second = start(project, "second")
    wait_for(project, "second", f"repro: waits for the run of process {first.pid} (since ")
    refused = project.qntz("repro", "--no-wait")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: repro: another run is at work in this workspace: process {first.pid}")
    assert len(refused.stderr.splitlines()) == 1
    assert (first.wait(600), second.wait(600)) == (0, 0)
    assert stages_run(said(project, "second")) == {"compose"}
    assert project.digests() == small.digests()


def test_one_is_killed_while_another_waits_and_plain_dvc_comes_between(project: Project, small: Project) -> None:
    first = start(project, "first")
    wait_for(project, "first", "Running stage 'export@digits'")
    second = start(project, "second")
    wait_for(project, "second", "waits for the run")
    first.kill()
    first.wait()
    between = [project.dvc("repro") for _ in range(3)]  # refused as busy, or it does a part
    assert second.wait(600) == 0, said(project, "second")
    for done in between:
        busy = re.search("is busy, it is being blocked by|Unable to acquire lock", done.stderr)
        assert (done.returncode, bool(busy)) in ((0, False), (255, True)), done.stderr
    assert stages_run(said(project, "first")) >= {"check@digits", "torchscript@digits"}
    assert not {"check@digits", "torchscript@digits"} & stages_run(said(project, "second"))
    require_no_orphan(project.path)
    assert project.qntz("status").returncode == 0
    assert project.digests() == small.digests()


def test_it_waits_for_a_plain_run_of_dvc(project: Project, small: Project) -> None:
    plain = start(project, "plain", "dvc", "repro")
    wait_for(project, "plain", "Running stage 'check@digits'")
    refused = project.qntz("repro", "--no-wait")
    assert refused.returncode == 1
    assert "error: repro: another DVC was in the way: " in refused.stderr
    second = start(project, "second")
    wait_for(project, "second", f"(process {plain.pid}), for at most 3600 s")
    assert (plain.wait(600), second.wait(600)) == (0, 0)
    assert stages_run(said(project, "second")) == {"compose"}
    assert project.digests() == small.digests()


def test_its_exit_code_is_that_of_dvc_and_signals_reach_the_stage(project: Project) -> None:
    assert project.qntz("repro", "bogus").returncode == 255
    assert project.qntz("repro", "compose", "--", "--dry").returncode == 0
    for number, code in ((2, {130, 255, 252}), (15, {143})):
        running = start(project, "running")
        wait_for(project, "running", "Running stage 'check@digits'")
        running.send_signal(number)
        assert running.wait(60) in code
        require_no_orphan(project.path)
