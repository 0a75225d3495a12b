"""The README's sweep: `dvc exp run --queue` over a key of conf/, in workspaces of their own, which share the cache."""

from __future__ import annotations

import csv
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.soak]  # DVC's workers have been seen not to end
SWEEP = "conf/quantize/int8.yaml:method=percentile,entropy"


def test_a_sweep_over_the_method(small: Project, tmp_path: Path) -> None:
    shutil.copytree(small.path, tmp_path / "project", symlinks=True)
    who = {f"GIT_{one}_{what}": "t@example.org" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    project = Project(tmp_path / "project", who)
    for command in (("add", "-A"), ("commit", "-q", "-m", "built")):
        assert project.run("git", *command).returncode == 0
    queued = project.dvc("exp", "run", "--queue", "-S", SWEEP)
    assert queued.stdout.count("Queued experiment") == 2, queued.stdout + queued.stderr
    # DVC's workers outlive the command, and would hold a pipe
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["dvc", "queue", "start", "-j", "2"], cwd=project.path, env=project.env(), **silent)
    deadline = time.monotonic() + 400
    while project.dvc("queue", "status").stdout.count("Success") < 2:
        assert time.monotonic() < deadline, project.dvc("queue", "status").stdout
        time.sleep(2)
    shown = project.dvc("exp", "show", "--only-changed", "--csv")
    rows = list(csv.DictReader(shown.stdout.splitlines()))
    found = {row["quantize.method"]: float(row["sqnr_db"]) for row in rows}
    assert {*found} == {"mse", "percentile", "entropy"}
    assert len({*found.values()}) == 3
    assert all(30 < value < 60 for value in found.values())
    for name in filter(None, (row["Experiment"] for row in rows)):
        log = project.dvc("queue", "logs", name).stdout
        ran = {line.split("'")[1].partition("@")[0] for line in log.splitlines() if line.startswith("Running stage '")}
        assert ran == {"compose", "quantize", "engine", "verify", "report"}, (name, ran)
    assert project.repro() == set()
