"""A project that workers can take part in: committed, with a remote, and a place for their checkouts."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from tests.pipeline.conftest import Project, new_project

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")
KINDS = {"fp32": "onnxruntime", "int8": "onnxruntime"}


def entries(count: int, kinds: dict[str, str] | None = None) -> str:
    """So many models: the example nets under other names, with an engine of each kind on the backend given."""
    nets = ("digits", "rows")
    lines = (
        ["models:"] + [f"  m{number}: {{use: {nets[number % len(nets)]}}}" for number in range(count)] + ["engines:"]
    )
    for number in range(count):
        for kind, backend in (kinds or KINDS).items():
            use = f"quantize: {{use: {kind}}}, engine: {{use: {backend}}}"
            lines.append(f"  m{number}-{kind}: {{model: m{number}, {use}}}")
    return "\n".join(lines) + "\n"


def commit(project: Project, what: str = "-A") -> str:
    for command in (("add", what), (*IDENTITY, "commit", "-q", "--allow-empty", "-m", "as it is")):
        done = project.run("git", *command)
        assert done.returncode == 0, done.stderr
    return project.run("git", "rev-parse", "HEAD").stdout.strip()


def shared(path: Path, text: str, remote: str, fleet: str = "", **environment: str) -> Project:
    """A project with these entries and this DVC remote, of which workers clone the folder itself."""
    project = new_project(path, **environment)
    project.params(text)
    told = f"repository: {project.path}\nfolder: {path.parent / 'work'}\nbackoff_seconds: 0.5\n{fleet}"
    (project.path / "conf/fleet.yaml").write_text(told)
    done = project.dvc("remote", "add", "--default", "shared", remote)
    assert done.returncode == 0, done.stderr
    commit(project)
    return project


def serial_beside(project: Project, text: str, split: bool) -> Project:
    """One beside it with the same entries, for a run on this machine. split: each model with a pipeline of its own, in
    both; of many, DVC spends most of the time in dvc.lock else, as the README has it."""
    serial = new_project(project.path.parent / "serial")
    serial.params(text)
    if split:
        assert [one.qntz("pipelines", "--split").returncode for one in (project, serial)] == [0, 0]
        commit(project)
    return serial


def at_work(project: Project) -> list[psutil.Process]:
    """The processes of workers that do a task of this project."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        told = " ".join(process.info["cmdline"] or [])
        if "qntz.fleet.node" in told and str(project.path) in told and "-c" not in told.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def wait_for_work(project: Project, stage: str = "") -> psutil.Process:
    """A worker of this project, in the middle of a stage ("stages.export") where one is named."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for one in at_work(project):
            with contextlib.suppress(psutil.NoSuchProcess):
                if not stage or any(stage in below.cmdline() for below in one.children(recursive=True)):
                    return one
        time.sleep(0.05)
    raise AssertionError(f"no worker came to {stage}")


def wait_for_none(project: Project, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := at_work(project):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
