"""Real projects in folders of their own, with git and DVC, in which real `dvc repro`s run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from qntz import cli

ROOT = Path(__file__).parent.parent.parent
REPRODUCIBLE = (".onnx", ".ts", ".npz", "ranges.json", "calibration.cache", "sources.json", "verdict.json")


@dataclass
class Project:
    """A copy of this repository in which DVC runs."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 900  # that a command may take

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        tools = Path(sys.executable).parent
        return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **self.environment, **(extra or {})}

    def run(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.env(extra),
            capture_output=True,
            text=True,
            timeout=self.seconds,
            check=False,
        )

    def dvc(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments, **extra)

    def qntz(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """The project's own copy of the tool."""
        return self.run("python", "-m", "qntz.cli", *arguments, **extra)

    def repro(self, *arguments: str, **extra: str) -> set[str]:
        """Runs `dvc repro`, which must succeed; the stages that ran, compose left out."""
        done = self.dvc("repro", *arguments, **extra)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return stages_run(done.stdout) - {"compose"}

    def params(self, text: str) -> None:
        (self.path / "params.yaml").write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.path / path).read_text()
        assert old in text, f"{old!r} is not in {path}"
        (self.path / path).write_text(text.replace(old, new, 1))

    def digests(self) -> dict[str, str]:
        """SHA-256 of every artifact that has the same bytes everywhere, of the models and engines that params.yaml names
        (DVC leaves the files of those that it named once)."""
        params = yaml.safe_load((self.path / "params.yaml").read_text())
        found = {}
        for path in sorted((self.path / "build/models").rglob("*")):
            model, *inner = path.relative_to(self.path / "build/models").parts
            named = model in params["models"] and (
                inner[:1] != ["engines"] or set(inner[1:2]) <= set(params["engines"])
            )
            if named and path.is_file() and path.name.endswith(REPRODUCIBLE):
                found[str(path.relative_to(self.path))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Qntz = Callable[..., Done]


@pytest.fixture
def qntz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qntz:
    """Runs a command of the tool in a project, in this process, which saves the imports."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(project: Project, *arguments: str) -> Done:
        monkeypatch.chdir(project.path)
        capsys.readouterr()
        code = cli.main(arguments)
        return Done(code, *capsys.readouterr())

    return run


def stages_run(output: str) -> set[str]:
    """The stages whose command DVC ran (not those it restored or skipped)."""
    return set(re.findall(r"^Running stage '(.+)':$", output, re.MULTILINE))


def new_project(path: Path, **environment: str) -> Project:
    """A copy of the files that git has or would take, in a git repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    (path / "dvc.lock").unlink(missing_ok=True)
    project = Project(path, environment)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "start")):
        assert project.run("git", *command).returncode == 0
    return project


@pytest.fixture
def empty_project(tmp_path: Path) -> Project:
    return new_project(tmp_path / "project")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """digits in int8, built once: shared, so tests must leave it as it was."""
    project = new_project(tmp_path_factory.mktemp("small"))
    project.params("models: {digits: {}}\nengines: {digits-int8: {model: digits, quantize: {use: int8}}}\n")
    return _built(project)


@pytest.fixture(scope="session")
def default(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The default set, built once, undisturbed: shared, so tests must leave it as it was."""
    project = new_project(tmp_path_factory.mktemp("default"))
    return _built(project)


def _built(project: Project) -> Project:
    """By stages that start warm, which take half the time."""
    done = project.qntz("repro", "-j", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return project
