"""Secrets that stand in the environment while a real pipeline runs, and fails: in nothing that it leaves or says."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, new_project

pytestmark = pytest.mark.slow
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDSECRET001",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+PLANTEDSECRET002",
    "HF_TOKEN": "hf_PLANTEDSECRET003",
    "DATABASE_URL": "postgres://qntz:PLANTEDSECRET004@db.example.org/models",
    "SIGNING_KEY": "-----BEGIN PRIVATE KEY-----\nPLANTEDSECRET005\n-----END PRIVATE KEY-----\n",
}
IN_A_URL = "PLANTEDSECRET006"  # of a remote
MARK = b"PLANTEDSECRET"
LEAKY = """
import os

from qntz import hookimpl
from qntz.records import ModuleRewrite


def leaks(module):
    raise RuntimeError(f"cannot log in: {dict(os.environ)}")


@hookimpl
def qntz_module_rewrites():
    yield ModuleRewrite(name="leaky", match=leaks, apply=leaks, tolerance=1e-5)
"""
FACTORY = """
import os


def make(**given):
    raise RuntimeError(f"cannot fetch weights with {os.environ['HF_TOKEN']} of {os.environ['DATABASE_URL']}")


def samples(**given):
    raise OSError(f"403 for {os.environ['AWS_SECRET_ACCESS_KEY']}")
    yield
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = new_project(tmp_path_factory.mktemp("secrets"), **SECRETS)
    project.params("models: {digits: {}}\nengines: {d: {model: digits, quantize: {use: int8}}}\n")
    url = f"https://qntz:{IN_A_URL}@127.0.0.1:9/models"
    assert project.dvc("remote", "add", "--local", "--default", "hub", url).returncode == 0
    assert project.dvc("remote", "modify", "--local", "hub", "verify", "true").returncode == 0
    return project


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that lies in a project, what archives hold as well, but for what a user wrote there."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(".git/") or name == ".dvc/config.local":
            continue
        yield name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((f"{name}:{member}", archive.read(member)) for member in archive.namelist())


def require_none(project: Project, *runs: subprocess.CompletedProcess[str]) -> int:
    """No secret in any file or output; how many were looked at."""
    looked = 0
    for name, data in texts(project.path):
        looked += 1
        assert MARK not in data, name
    for done in runs:
        assert MARK.decode() not in done.stdout + done.stderr, done.args
    return looked


def test_nothing_that_a_pipeline_leaves_or_says_holds_one(project: Project) -> None:
    done = project.dvc("repro", "--verbose")
    assert done.returncode == 0, done.stderr[-2000:]
    shown = project.dvc("metrics", "show")
    assert (project.path / "build/reports/digits.html").is_file()
    assert (project.path / "dvc.lock").is_file()
    assert require_none(project, done, shown) > 60
    names = {name.partition("/")[0] for name, _ in texts(project.path)}
    assert {".dvc", "build", "dvc.lock"} <= names
    (project.path / "planted").write_text(SECRETS["HF_TOKEN"])
    with pytest.raises(AssertionError, match="planted"):  # the search finds what is there
        require_none(project)
    (project.path / "planted").unlink()


def test_a_plugin_that_fails_with_the_environment_in_its_message(project: Project) -> None:
    plugin = project.path / "plugins/leaky.py"
    plugin.write_text(LEAKY)
    runs = [
        project.dvc("repro", "torchscript@digits"),
        project.run("python", "-m", "stages.torchscript", "digits", "--debug"),
        project.run("python", "-m", "qntz.cli", "check", "digits"),
    ]
    plugin.unlink()
    assert (runs[0].returncode != 0, runs[1].returncode) == (True, 1)
    assert "RuntimeError: cannot log in" in runs[0].stderr + runs[0].stdout
    assert "***" in runs[1].stderr
    assert "Traceback" in runs[1].stderr
    require_none(project, *runs)


@pytest.mark.parametrize("key", ["factory", "data"])
def test_a_model_or_a_data_source_that_fails_with_one(project: Project, key: str) -> None:
    (project.path / "mine").mkdir(exist_ok=True)
    (project.path / "mine/leaky.py").write_text(FACTORY)
    given = {
        "factory": "model: {factory: {_target_: mine.leaky.make}}",
        "data": "model: {data: {test: {source: python, _target_: mine.leaky.samples}}}",
    }[key]
    project.params(f"models: {{digits: {{}}, leaky: {{use: digits, {given}}}}}\nengines: {{d: {{model: leaky}}}}\n")
    done = project.dvc("repro", "torchscript@leaky")
    stage = "check" if key == "factory" else "torchscript"
    debug = project.run("python", "-m", f"stages.{stage}", "leaky", "--debug")
    assert (done.returncode != 0, debug.returncode) == (True, 1)
    assert "***" in done.stderr
    assert "***" in debug.stderr
    require_none(project, done, debug)


def test_a_push_that_fails_leaves_none(project: Project) -> None:
    """DVC's own message may have the URL: a token belongs into the environment, as the README says."""
    done = project.dvc("push")
    assert done.returncode != 0
    require_none(project)
