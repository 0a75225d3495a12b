"""A small pipeline that has run, with what the real one has: parameters, a stage whose output often comes out the same, a
folder as an output, and a last stage that depends on the folder which all others write into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from dvc import cli

STAGES = {
    "first": {
        "cmd": "cp in.txt build/all/first.txt && cat params.yaml >> build/all/first.txt",
        "params": ["first"],
        "deps": ["in.txt"],
        "outs": ["build/all/first.txt"],
    },
    # of its input only the first letter decides
    "letter": {
        "cmd": "head -c 1 build/all/first.txt > build/all/letter.txt",
        "deps": ["build/all/first.txt"],
        "params": ["letter"],
        "outs": ["build/all/letter.txt"],
    },
    "folder": {
        "cmd": "mkdir -p build/all/folder/in && cp build/all/letter.txt build/all/folder/in/one && touch build/all/folder/two",
        "deps": ["build/all/letter.txt"],
        "outs": ["build/all/folder"],
    },
    "side": {
        "cmd": "cp side.txt build/all/side.txt",
        "deps": ["side.txt"],
        "params": ["side"],
        "outs": ["build/all/side.txt"],
    },
    "last": {
        "cmd": "ls -R build/all > build/last.txt && cat build/all/letter.txt >> build/last.txt",
        "deps": ["build/all"],
        "outs": ["build/last.txt"],
    },
}
PARAMS = {"first": 0, "letter": 0, "side": 0}


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # DVC may have linked it to its cache
    path.write_text(text)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built")
    write(root, ".dvc/config", "[core]\n    analytics = false\n    no_scm = true\n")
    write(root, "dvc.yaml", yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    write(root, "params.yaml", yaml.safe_dump(PARAMS))
    write(root, "in.txt", "a1\n")
    write(root, "side.txt", "s\n")
    (root / "build/all").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert cli.main(["repro", "--quiet"]) == 0
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(built, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"
