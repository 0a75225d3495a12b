"""Two small models with two engines each, as one `dvc repro` builds them, and as `qntz repro -j 2` does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, new_project

PARAMS = """\
models: {digits: {}, rows: {}}
engines:
  digits-fp16: {model: digits, quantize: {use: fp16}}
  digits-int8: {model: digits, quantize: {use: int8}, engine: {use: onnxruntime}}
  rows-fp32: {model: rows, engine: {use: onnxruntime}}
  rows-int8: {model: rows, quantize: {use: int8}, engine: {use: onnxruntime}}
"""


@pytest.fixture(scope="session")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Built by `dvc repro`: shared, so tests must leave it as it was."""
    project = new_project(tmp_path_factory.mktemp("serial") / "project")
    project.params(PARAMS)
    project.repro()
    return project


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """Built by `qntz repro -j 2`, whose DVCs wait for each other even if it is to wait for none, and what that said:
    shared, so tests must leave it as it was."""
    project = new_project(tmp_path_factory.mktemp("side") / "project")
    project.params(PARAMS)
    done = project.qntz("repro", "-j", "2", "--no-wait")
    assert done.returncode == 0, done.stdout + done.stderr
    return project, done.stdout


@pytest.fixture
def mine(built: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of what was built, with its cache."""
    shutil.copytree(built[0].path, tmp_path / "mine", symlinks=True)
    return Project(tmp_path / "mine")


@pytest.fixture
def split(mine: Project) -> Project:
    """A copy of what was built, with a pipeline for each model."""
    done = mine.qntz("pipelines", "--split")
    assert done.returncode == 0, done.stderr
    return mine
