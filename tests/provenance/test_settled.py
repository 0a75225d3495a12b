"""Models that need not be asked of DVC again: only while nothing of them can have changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qntz.provenance.settled import SETTLED, YOUNG, Settled
from qntz.provenance.workspace import opened, steps

FILES = [b"dvc.yaml", b"dvc.lock"]


def aged(root: Path) -> None:
    """All files are older than what might change without a trace."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            told = path.stat().st_mtime_ns - 2 * YOUNG
            os.utime(path, ns=(told, told))


def settle(root: Path, folder: Path, files: list[bytes] = FILES) -> Settled:
    """What is kept once the model "m", all stages of the pipeline, was found up to date."""
    kept = Settled(folder, root)
    with opened(root) as repo:
        look = kept.look(steps(repo, ()))
    kept.keep({"m": (files, look)})
    return kept


def is_settled(root: Path, folder: Path, files: list[bytes] = FILES) -> bool:
    return Settled(folder, root).is_settled("m", files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def test_nothing_changed(root: Path, folder: Path) -> None:
    aged(root)
    assert settle(root, folder).models == ["m"]
    assert is_settled(root, folder)
    assert not Settled(folder, root).is_settled("other", FILES)


def test_files_of_the_pipeline_are_told_apart(root: Path, folder: Path) -> None:
    aged(root)
    settle(root, folder)
    assert not is_settled(root, folder, [b"dvc.yaml", b"dvc.loc", b"k"])
    assert not is_settled(root, folder, [b"dvc.yamldvc.lock"])
    assert not is_settled(root, folder, [])


def cached(root: Path) -> Path:
    """DVC's copy of an output."""
    return next(path for path in sorted((root / ".dvc/cache/files/md5").rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "in.txt").write_text("another text"),
        lambda root: (root / "side.txt").unlink(),
        lambda root: (root / "build/all/letter.txt").unlink(),
        lambda root: (root / "build/all/folder/in/one").unlink(),
        lambda root: (root / "build/all/folder/new").write_text(""),
        lambda root: shutil.rmtree(root / "build"),
        lambda root: cached(root).unlink(),
        lambda root: shutil.rmtree(root / ".dvc/cache"),
    ],
)
def test_any_file_that_a_stage_looks_at(root: Path, folder: Path, change: Callable[[Path], object]) -> None:
    aged(root)
    settle(root, folder)
    change(root)
    assert not is_settled(root, folder)


def test_the_same_size_and_time_in_another_file_is_another(root: Path, folder: Path) -> None:
    aged(root)
    settle(root, folder)
    path = root / "in.txt"
    before = path.stat()
    (root / "new.txt").write_bytes(path.read_bytes()[::-1])
    os.utime(root / "new.txt", ns=(before.st_mtime_ns, before.st_mtime_ns))
    os.replace(root / "new.txt", path)
    assert not is_settled(root, folder)


def test_what_was_just_written_is_not_kept(root: Path, folder: Path) -> None:
    """A further change might leave its time as it is."""
    aged(root)
    (root / "in.txt").touch()
    assert settle(root, folder).models == []
    assert not is_settled(root, folder)


def test_another_checkout_is_another(root: Path, folder: Path, tmp_path: Path) -> None:
    """Also one below the same `.dvc`, or a copy with its state."""
    aged(root)
    settle(root, folder)
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    assert not is_settled(tmp_path / "copy", folder)
    settle(tmp_path / "copy", folder)  # its files are as old as the others
    assert is_settled(tmp_path / "copy", folder)
    assert is_settled(root, folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', "null"])
def test_a_damaged_record_is_none(root: Path, folder: Path, text: str) -> None:
    aged(root)
    settle(root, folder)
    (folder / SETTLED).write_text(text)
    assert not is_settled(root, folder)
    settle(root, folder)
    assert is_settled(root, folder)
    assert json.loads((folder / SETTLED).read_text())


def test_a_model_that_is_gone_is_forgotten(root: Path, folder: Path) -> None:
    aged(root)
    kept = settle(root, folder)
    kept.keep({}, ["m"])
    assert Settled(folder, root).models == []
