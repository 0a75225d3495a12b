"""The README's sweeps over a key of conf/, by DVC's queue and by Hydra: experiments in workspaces of their own, which
share the cache."""

from __future__ import annotations

import csv
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow
SWEEP = "conf/quantize/int8.yaml:method=percentile,entropy"


@pytest.fixture
def project(small: Project, tmp_path: Path) -> Project:
    shutil.copytree(small.path, tmp_path / "project", symlinks=True)
    who = {f"GIT_{one}_{what}": "t@example.org" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    made = Project(tmp_path / "project", who)
    for command in (("add", "-A"), ("commit", "-q", "-m", "built")):
        assert made.run("git", *command).returncode == 0
    return made


def require_swept(project: Project) -> list[dict[str, str]]:
    """The experiments, with the figures that differ."""
    shown = project.dvc("exp", "show", "--only-changed", "--csv")
    rows = list(csv.DictReader(shown.stdout.splitlines()))
    found = {row["quantize.method"]: float(row["sqnr_db"]) for row in rows}
    assert {*found} == {"mse", "percentile", "entropy"}
    assert len({*found.values()}) == 3
    assert all(30 < value < 60 for value in found.values())
    assert project.repro() == set()
    return rows


def test_by_hydras_multirun(project: Project) -> None:
    """A combination that fails stops none of the others, and is told at the end."""
    done = project.run("python", "-m", "examples.sweep", "--multirun", "method=nonsense,percentile,entropy")
    assert done.returncode == 1
    assert "nonsense" in done.stdout
    assert "method=nonsense: dvc exp run ended with exit code 255" in done.stderr.splitlines()
    assert "Traceback" not in done.stdout + done.stderr
    require_swept(project)
    assert project.run("git", "status", "--porcelain").stdout == ""
    good = project.run("python", "-m", "examples.sweep", "--multirun", "method=percentile")
    assert good.returncode == 0, good.stdout + good.stderr
    refused = project.run("python", "-m", "examples.sweep", "--multirun", "metod=percentile")
    assert refused.returncode == 1
    assert "Could not override 'metod'" in refused.stderr


@pytest.mark.soak  # DVC's workers have been seen not to end
def test_a_sweep_over_the_method(project: Project) -> None:
    queued = project.dvc("exp", "run", "--queue", "-S", SWEEP)
    assert queued.stdout.count("Queued experiment") == 2, queued.stdout + queued.stderr
    # DVC's workers outlive the command, and would hold a pipe
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["dvc", "queue", "start", "-j", "2"], cwd=project.path, env=project.env(), **silent)
    deadline = time.monotonic() + 400
    while project.dvc("queue", "status").stdout.count("Success") < 2:
        assert time.monotonic() < deadline, project.dvc("queue", "status").stdout
        time.sleep(2)
    rows = require_swept(project)
    for name in filter(None, (row["Experiment"] for row in rows)):
        log = project.dvc("queue", "logs", name).stdout
        ran = {line.split("'")[1].partition("@")[0] for line in log.splitlines() if line.startswith("Running stage '")}
        assert ran == {"compose", "quantize", "engine", "verify", "report"}, (name, ran)
