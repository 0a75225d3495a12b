"""Small projects of DVC, without qntz's pipeline."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

CONFIG = "[core]\n    analytics = false\n    no_scm = true\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A project without stages."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def small(workspace: Path) -> Path:
    """A project with one slow stage."""
    (workspace / "dvc.yaml").write_text("stages:\n  slow:\n    cmd: sleep 1 && echo 1 > out.txt\n    outs: [out.txt]\n")
    return workspace


def command_line(root: Path, *arguments: str) -> dict[str, Any]:
    """What starts a module of the clone, as `subprocess` takes it."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return {"args": [sys.executable, "-m", *arguments], "env": environment, "text": True}
