"""Repositories of other people, in which `qntz init` runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

NET = """import torch
from torch import nn

from mypkg.layers import block


class TinyNet(nn.Module):
    def __init__(self, width, classes=5):
        super().__init__()
        self.features = nn.Sequential(block(3, width), block(width, 2 * width))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, image):
        return self.head(self.features(image).mean((2, 3)))


class TwoInputs(nn.Module):
    def forward(self, rows: torch.Tensor, mask: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return rows.sum(-1) * mask * scale


class Open(nn.Module):
    def forward(self, *tensors):
        return tensors[0]


def tiny(width=8):
    return TinyNet(width)
"""
LAYERS = """from torch import nn


def block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(cout), nn.ReLU())
"""
PYPROJECT = """[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "mypkg"
version = "0.3.0"
"""
FILES = {
    "mypkg/__init__.py": "",
    "mypkg/net.py": NET,
    "mypkg/layers.py": LAYERS,
    "pyproject.toml": PYPROJECT,
    ".gitignore": "*.pyc\ndist/\nbuild/",  # no line end: what is added must not run into it
}
DVC_CONFIG = "[core]\n    remote = ours\n['remote \"ours\"']\n    url = /somewhere\n"
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


def repository(path: Path) -> Path:
    """A repository with a package of its own and a history; the weights are a file that nobody reads here."""
    for name, text in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    (path / "mypkg/tiny.safetensors").write_bytes(b"weights")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "start")):
        subprocess.run([*GIT, *command], cwd=path, check=True)
    return path


@pytest.fixture
def without_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a repository, which is the working directory."""
    path = repository(tmp_path / "theirs")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def theirs(without_dvc: Path) -> Path:
    """One that uses DVC already, with a remote."""
    (without_dvc / ".dvc").mkdir()
    (without_dvc / ".dvc/config").write_text(DVC_CONFIG)
    return without_dvc


def tree(root: Path) -> dict[str, bytes]:
    """Every file but git's own and DVC's temporary ones, by path."""
    found = [path for path in root.rglob("*") if path.is_file()]
    paths = [path for path in found if not {".git", "tmp"} & set(path.relative_to(root).parts)]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
