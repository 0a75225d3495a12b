"""A worker's side: a commit is checked out, its stages are gone through, and their results are in the remote."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from qntz.compose import composed_entries, composed_files
from qntz.fleet.node import DONE, FAILED, LOST, UNREACHED, failures, work
from qntz.fleet.results import TAKEN
from tests.fleet.machines import commit, entries, shared
from tests.pipeline.conftest import Project, stages_run
from tests.pipeline.test_trouble import mounted

pytestmark = pytest.mark.slow
STAGES = ("check", "torchscript", "export", "simplify", "calibrate")
ALL = [*(f"{one}@m0" for one in STAGES), "quantize@m0-fp32", "engine@m0-fp32", "verify@m0-fp32", "report@m0"]
ONE = {"fp32": "onnxruntime"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return shared(tmp_path / "head", entries(1, ONE), str(tmp_path / "remote"))


def task(project: Project, **other: Any) -> dict[str, Any]:
    files = composed_files(project.path, composed_entries(project.path))
    told = {
        "repository": str(project.path),
        "commit": project.run("git", "rev-parse", "HEAD").stdout.strip(),
        "targets": ALL,
        "composed": {str(path.relative_to(project.path)): data.decode() for path, data in files.items()},
        "remote": {"name": "shared", "options": {"url": str(project.path.parent / "remote")}},
        "folder": str(project.path.parent / "work"),
    }
    return {**told, **other}


def test_what_it_makes_is_pulled_by_the_head_and_made_once(project: Project) -> None:
    first = work(task(project))
    assert first["how"] == DONE, first
    assert first["stages"] == {"compose": "ran", **dict.fromkeys(ALL, "ran")}
    assert first["seconds"] > 1
    assert not (project.path / "build/models").exists()
    assert project.repro("--pull") == set()  # compose left out
    assert (project.path / "build/reports/m0.html").is_file()
    again = work(task(project, folder=str(project.path.parent / "elsewhere")))  # another machine
    assert again["how"] == DONE, again
    assert again["stages"] == {"compose": "ran", **dict.fromkeys(ALL, "restored")}
    at_once = work(task(project))
    assert at_once["stages"] == {"compose": "ran", **dict.fromkeys(ALL, "restored")}


def test_stages_that_fail_are_told_and_all_else_is_made_and_pushed(tmp_path: Path) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    project.edit("params.yaml", "quantize: {use: fp32}", "quantize: {use: fp32}, verify: {tolerance: {relative: 0}}")
    commit(project)
    second = [f"{one}@m0-int8" for one in ("quantize", "engine", "verify")]
    targets = [*ALL[:-1], *second, "report@m0"]
    told = work(task(project, targets=targets))
    made = [*ALL[:7], *second]
    assert (told["how"], [*told["failed"]]) == (FAILED, ["verify@m0-fp32"]), told
    (reason,) = told["failed"]["verify@m0-fp32"]
    assert reason.startswith("error: verify m0-fp32: ")
    assert "tolerance" in reason
    assert told["stages"] == {"compose": "ran", **dict.fromkeys(made, "ran")}
    other = work(task(project, folder=str(tmp_path / "elsewhere"), targets=made))
    assert other["stages"] == {"compose": "ran", **dict.fromkeys(made, "restored")}
    # what is not its own, and not in the remote, is not made up for
    alien = work(task(project, folder=str(tmp_path / "elsewhere"), targets=["report@m0"]))
    assert alien["how"] == UNREACHED
    assert alien["why"] == ["the result of verify@m0-fp32 could not be fetched"]


def test_what_the_lock_has_is_kept_though_the_remote_has_another_result(project: Project) -> None:
    """And one that is made here while another is there is not pushed: the task is done again, with the other."""
    assert project.qntz("repro", "-j", "2").returncode == 0
    assert project.dvc("push").returncode == 0
    engine, results = project.path / "build/models/m0/engines/m0-fp32/model.engine", "qntz.fleet.results"
    kept = engine.read_bytes()
    lock = (project.path / "dvc.lock").read_text()
    engine.write_bytes(kept + b"\0")
    assert project.dvc("commit", "-f", "engine@m0-fp32").returncode == 0
    assert project.run("python", "-m", results, "engine@m0-fp32", "--").returncode == 0
    # with the head's own lock
    told = work(task(project, targets=ALL[6:], locks={"dvc.lock": lock}))
    assert told["how"] == DONE, told
    assert told["stages"] == {"compose": "ran", **dict.fromkeys(ALL, "restored")}
    (made,) = (project.path.parent / "work").glob("*/*/0/build/models/m0/engines/m0-fp32/model.engine")
    assert made.read_bytes() == kept
    (project.path / "dvc.lock").write_text(lock)
    taken = project.run("python", "-m", results, "engine@m0-fp32", "--")
    assert (taken.returncode, taken.stderr) == (TAKEN, "ERROR: another worker has pushed engine@m0-fp32 first\n")
    assert project.run("python", "-m", results, "--", "engine@m0-fp32").returncode == 0


def test_a_lock_whose_data_are_nowhere(project: Project) -> None:
    """As of a commit of results that nobody pushed: they are made once, and all find these, the head too."""
    assert project.qntz("repro", "-j", "2").returncode == 0
    engine = project.path / "build/models/m0/engines/m0-fp32/model.engine"
    made = engine.read_bytes()
    engine.write_bytes(made + b"\0")  # it is to be another than that which is made next
    assert project.dvc("commit", "-f", "engine@m0-fp32").returncode == 0
    commit(project)
    for name in ("build", ".dvc/cache"):
        shutil.rmtree(project.path / name)
    told = work(task(project))
    assert told["how"] == DONE, told
    assert told["stages"] == {"compose": "ran", **dict.fromkeys(ALL, "ran")}
    again = work(task(project, folder=str(project.path.parent / "elsewhere")))
    assert again["how"] == DONE, again
    assert again["stages"] == {"compose": "ran", **dict.fromkeys(ALL, "restored")}
    done = project.qntz("repro", "--pull")
    assert stages_run(done.stdout) == {"compose"}
    assert engine.read_bytes() == made


def test_a_stage_of_ones_own_that_fails_is_told(project: Project) -> None:
    """Which compose comes from, and so all."""
    project.edit(
        "dvc.yaml",
        "stages:\n",
        "stages:\n  data:\n    cmd: cp nowhere examples/new.txt\n    outs: [examples/new.txt]\n",
    )
    commit(project)
    told = work(task(project))
    assert (told["how"], told["stages"], told["ran"]) == (FAILED, {}, []), told
    assert told["why"] == ["failed to run: cp nowhere examples/new.txt, exited with 1"]


def test_what_dvc_says_of_several_failures() -> None:
    text = """\
Running stage 'compose':
error: compose: params.yaml: engines.x: no conf/quantize/y.yaml.
Stage 'check@a' is cached - skipping run, checking out outputs
Running stage 'export@a':
> python -m stages.export a
error: export a: no.
WARNING: failed to run: python -m stages.export a, exited with 1
Running stage 'export@b':
WARNING: failed to run: python -m stages.export b, exited with -9
Running stage 'export@c':
ERROR: failed to reproduce stages: 'export@a', 'export@b' and 'check@d'
"""
    assert failures(text) == {
        "export@a": ["error: export a: no."],
        "export@b": ["failed to run: python -m stages.export b, exited with -9"],
        "check@d": [],
    }
    assert failures("Running stage 'x':\nERROR: failed to reproduce 'x'\n") == {"x": []}


def test_a_commit_or_a_repository_that_is_not_there(project: Project) -> None:
    told = work(task(project, commit="1" * 40))
    assert told["how"] == FAILED
    assert "at 111111111111: " in told["why"][0]
    told = work(task(project, repository="git://127.0.0.1:1/nowhere"))
    assert told["how"] == UNREACHED
    assert "Connection refused" in told["why"][0]
    told = work(task(project, repository=str(project.path.parent / "nowhere")))
    assert told["how"] == FAILED
    assert "does not appear to be a git repository" in told["why"][0]


def test_secrets_of_a_worker_stay_there(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TOKEN", "glpat-planted-99")
    told = work(task(project, repository=str(project.path.parent / "glpat-planted-99")))
    assert told["how"] == FAILED
    assert "***" in told["why"][0]
    assert "planted" not in json.dumps(told)


def test_a_worker_that_composes_otherwise_is_refused(project: Project) -> None:
    other = task(project)
    path = "build/config/models/m0.yaml"
    other["composed"][path] = other["composed"][path].replace("opset: 17", "opset: 18")
    told = work(other)
    assert told["how"] == FAILED
    assert told["why"] == [
        "build/config/models/m0.yaml: this worker composes otherwise than the head: export.opset is 17 here, 18 there. "
        "Install the same versions on both, and commit all that the stages read."
    ]
    assert told["stages"] == {}


def test_a_remote_that_is_full_is_told(project: Project) -> None:
    with mounted(project.path.parent / "remote", 64):
        told = work(task(project))
    assert told["how"] == FAILED, told
    assert told["why"][0].startswith("what was made is not pushed: ")
    assert "No space left on device" in told["why"][0]
    told = work(task(project))
    assert told["how"] == DONE, told


def test_a_worker_that_is_killed_leaves_nothing_at_work(project: Project, tmp_path: Path) -> None:
    """Of the process that the cluster runs, and of the one that does the work; the next goes on from there."""
    (tmp_path / "task.json").write_text(json.dumps(task(project)))
    command = [
        sys.executable,
        "-c",
        "import json, sys; from qntz.fleet.node import work; print(work(json.load(sys.stdin)))",
    ]
    for victim in ("cluster", "work"):
        with (tmp_path / "task.json").open() as given:
            process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, text=True, env=project.env())
        deadline = time.monotonic() + 100
        while not any("stages." in " ".join(one) for one in _below(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        known = psutil.Process(process.pid).children(recursive=True)
        (worker,) = (one for one in known if "qntz.fleet.node" in " ".join(one.cmdline()))
        os.kill(process.pid if victim == "cluster" else worker.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        if victim == "work":
            assert f"'how': '{LOST}'" in said
            assert "its process ended: SIGKILL" in said
        _, left = psutil.wait_procs(known, timeout=15)
        assert left == []
    (lock,) = (project.path.parent / "work").glob("*/*/0/.git")
    (lock / "index.lock").touch()  # as one that was killed in git leaves it
    told = work(task(project))
    assert told["how"] == DONE, told
    assert project.repro("--pull") == set()


def _below(pid: int) -> list[list[str]]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(one.cmdline())
    return found
