"""The head's side: what it removes before it takes results in, and which of DVC's locks it sends along."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qntz import pipelines
from qntz.fleet.handed import locks
from qntz.fleet.head import remove_left

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


def test_what_is_of_no_engine_any_more_is_removed(tmp_path: Path) -> None:
    """A report depends on all that lies there: folders, files and links; what a link names stays."""
    engines, said = tmp_path / "build/models/net/engines", list[str]()
    (engines / "net-int8").mkdir(parents=True)
    (engines / "net-old").mkdir()
    (engines / "net-old/model.engine").write_bytes(b"x")
    (engines / "moved").mkdir()
    (engines / ".DS_Store").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_bytes(b"x")
    (engines / "link").symlink_to(tmp_path / "elsewhere")
    params = {
        "models": {"net": {}, "other": {}},
        "engines": {"net-int8": {"model": "net"}, "moved": {"model": "other"}, "odd": None},
    }
    remove_left(tmp_path, params, said.append)
    assert [path.name for path in engines.iterdir()] == ["net-int8"]
    assert (tmp_path / "elsewhere/kept").is_file()
    names = (".DS_Store", "link", "moved", "net-old")
    assert said == [f"build/models/net/engines/{name} is of no entry: removed" for name in names]


def test_locks_that_are_others_than_the_commits(tmp_path: Path) -> None:
    """Of a project below the root of its repository: what has changed, what is new or gone, and nothing else."""
    root = tmp_path / "below"
    for name in ("a", "b", "c"):
        (root / "pipelines" / name).mkdir(parents=True)
        (root / "pipelines" / name / "dvc.yaml").write_text(pipelines.NOTE)
    for path in ("dvc.lock", "pipelines/a/dvc.lock", "pipelines/b/dvc.lock", "pipelines/own.txt"):
        (root / path).write_text("as it was")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "start")):
        subprocess.run([*GIT, *command], cwd=tmp_path, check=True)
    assert locks(root) == {}
    (root / "pipelines/own.txt").write_text("changed")
    (root / "pipelines/new.txt").write_text("new")
    for path in ("pipelines/b/dvc.lock", "pipelines/c/dvc.lock"):
        (root / path).write_text("other: ü")
    assert locks(root) == {Path(f"pipelines/{one}/dvc.lock"): "other: ü" for one in ("b", "c")}
    (root / "dvc.lock").unlink()
    (root / ".gitignore").write_text("kept\n")
    for path in ("train/dvc.lock", "kept/dvc.lock"):  # of the user's own pipelines
        (root / path).parent.mkdir()
        (root / path).write_text(path)
    told = {"dvc.lock": "", "pipelines/b/dvc.lock": "other: ü", "pipelines/c/dvc.lock": "other: ü"}
    assert locks(root) == {Path(path): text for path, text in {**told, "train/dvc.lock": "train/dvc.lock"}.items()}


@pytest.mark.parametrize(
    ("address", "path"), [("export@m0", "dvc.lock"), ("pipelines/m0/dvc.yaml:export@m0", "pipelines/m0/dvc.lock")]
)
def test_the_lock_of_a_stage(address: str, path: str) -> None:
    assert pipelines.lock_of(address) == Path(path)
