"""SIGKILL at random moments and Ctrl-C in the middle of every stage: no orphan goes on writing, and the next run ends as
an undisturbed one.

The disturbed project lies in another folder and has another hash seed, number of threads, locale and time zone, so that
equal digests also show that the artifacts do not depend on them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, new_project

pytestmark = pytest.mark.slow

STAGES = (
    "compose",
    "check",
    "torchscript",
    "export",
    "simplify",
    "calibrate",
    "quantize",
    "engine",
    "verify",
    "report",
)
ELSEWHERE = {"PYTHONHASHSEED": "1234", "OMP_NUM_THREADS": "1", "LC_ALL": "C", "TZ": "Asia/Kathmandu"}


def inside(path: Path) -> list[int]:
    """The processes that work in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").resolve() == path and "Z" not in (entry / "stat").read_text().rpartition(")")[
                    2
                ].split()[0]:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def disturb(project: Project, stage: str, how: int, delay: float) -> bool:
    """Starts a run, waits until a stage of this kind runs, and ends it; False where none ran."""
    with (project.path.parent / "log").open("w+") as log:
        running = subprocess.Popen(
            ["python", "-m", "qntz.cli", "repro"],
            cwd=project.path,
            env=project.env({"PYTHONUNBUFFERED": "1"}),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while running.poll() is None:
            if re.search(rf"^Running stage '{stage}(@.*)?':$", (project.path.parent / "log").read_text(), re.MULTILINE):
                time.sleep(delay)
                if how == signal.SIGKILL:
                    running.kill()  # DVC and its stage end with it
                else:
                    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
                running.wait(30)
                return True
            time.sleep(0.02)
    return False


def require_no_orphan(path: Path) -> None:
    deadline = time.monotonic() + 5
    while inside(path):
        assert time.monotonic() < deadline, f"still running: {inside(path)}"
        time.sleep(0.05)


def test_kills_at_random_moments(default: Project, tmp_path: Path) -> None:
    """Twenty; `make soak` does a hundred."""
    from tests.pipeline.soak import soak

    soaked = soak(new_project(tmp_path / "project", **ELSEWHERE), default.digests(), kills=20, seed=1)
    assert soaked.kills == 20
    assert not soaked.differences


@pytest.mark.parametrize("how", [signal.SIGINT])
def test_every_stage_disturbed_ends_as_undisturbed(default: Project, tmp_path: Path, how: int) -> None:
    project = new_project(tmp_path / "some where" / "else", **ELSEWHERE)
    hit: Counter[str] = Counter()
    for index, stage in enumerate(STAGES):
        for attempt in (0.05, 0.35 + 0.2 * index):  # at its start, and somewhere in its work
            hit[stage] += disturb(project, stage, how, attempt)
            require_no_orphan(project.path)
    assert min(hit.values()) >= 1, hit
    assert hit.total() >= 15, hit
    assert project.qntz("repro").returncode == 0
    assert project.digests() == default.digests()
    engines = sorted(p.relative_to(default.path) for p in default.path.rglob("model.engine") if "build" in p.parts)
    for engine in engines:
        assert (project.path / engine).stat().st_size > 0
    assert len(engines) == 6
    assert not list((project.path / "build").rglob("*.tmp"))
