"""The run-cache in a remote, by real DVCs: entries of one stage there and back, whatever else lies beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotSupported

from qntz.fleet.results import TAKEN
from qntz.repro.run_cache import SharedCache


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def pushed(folder: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "qntz.fleet.results", *arguments], cwd=folder, check=False).returncode


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With two stages that ran, and a remote that has the first of them; the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "in.txt").write_text("in")
    stages = "".join(
        f"  {name}:\n    cmd: cp in.txt {name}.txt\n    deps: [in.txt]\n    outs: [{name}.txt]\n" for name in "ab"
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    dvc(folder, "init", "--no-scm", "-q")
    dvc(folder, "remote", "add", "-q", "--default", "shared", str(tmp_path / "remote"))
    dvc(folder, "repro", "-q")
    assert pushed(folder, "a", "--") == 0
    return folder


def folder_of(repo: Repo, stage: str) -> Path:
    from dvc.stage.cache import _get_stage_hash

    (one,) = repo.stage.collect(stage)
    return Path(repo.stage_cache._get_cache_dir(_get_stage_hash(one)))


def test_what_is_being_written_is_no_entry(project: Path, tmp_path: Path) -> None:
    """Nor is what lies there by accident; of a stage that was not pushed there is none."""
    (there,) = (path for path in (tmp_path / "remote/runs").glob("*/*") if path.is_dir())
    (entry,) = there.iterdir()
    for name in (f".{entry.name}.tmp", "tmp8x2", entry.name[:-1], f"{entry.name}~"):
        (there / name).write_text("half")
    with Repo() as repo:
        shared = SharedCache(repo, "test")
        folder = folder_of(repo, "a")
        assert shared.entry(folder) == entry.name
        assert shared.entry(folder_of(repo, "b")) is None
        for path in folder.iterdir():
            path.unlink()
        shared.fetch(folder)
        assert [path.name for path in folder.iterdir()] == [entry.name]
        assert (folder / entry.name).read_bytes() == entry.read_bytes()


def test_of_two_that_were_pushed_in_one_moment_all_take_the_same(project: Path, tmp_path: Path) -> None:
    (entry,) = (tmp_path / "remote/runs").glob("*/*/*")
    other = entry.with_name("0" * 64)
    other.write_bytes(entry.read_bytes())
    with Repo() as repo:
        shared = SharedCache(repo, "test")
        assert shared.entry(folder_of(repo, "a")) == other.name
    assert pushed(project, "a", "--") == TAKEN
    other.rename(entry.with_name("f" * 64))
    assert pushed(project, "a", "--") == 0


def test_where_the_data_of_dvc_lock_are_nowhere_the_remote_is_asked(project: Path, tmp_path: Path) -> None:
    """Another machine made something else of the same inputs: that is everybody's."""
    (project / "dvc.yaml").write_text(
        "stages:\n  made:\n    cmd: date +%N > made.txt\n    deps: [in.txt]\n    outs: [made.txt]\n"
    )
    dvc(project, "repro", "-q")
    assert pushed(project, "made", "--") == 0
    first = (project / "made.txt").read_text()
    dvc(project, "repro", "-q", "--force")
    assert (project / "made.txt").read_text() != first
    (project / "made.txt").unlink()
    shutil.rmtree(project / ".dvc/cache")
    command = [sys.executable, "-m", "qntz.cli", "repro", "--pull"]
    done = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
    assert (project / "made.txt").read_text() == first
    assert "Running stage" not in done.stdout
    dvc(project, "commit", "made")  # dvc.lock names it now
    assert dvc(project, "status") == "Data and pipelines are up to date.\n"


def test_the_first_result_stays(project: Path, tmp_path: Path) -> None:
    """A second one for the same inputs is refused of what was made, and let be of what is kept."""
    (entry,) = (tmp_path / "remote/runs").glob("*/*/*")
    assert pushed(project, "a", "--") == 0
    (project / "a.txt").write_text("another")
    dvc(project, "commit", "-f", "-q", "a")
    assert pushed(project, "b", "a", "--") == TAKEN
    assert pushed(project, "b", "--", "a") == 0
    assert len([*(tmp_path / "remote/runs").glob("*/*/*")]) == 2  # of a and b
    assert entry.is_file()


def test_one_whose_files_are_gone_is_replaced(project: Path, tmp_path: Path) -> None:
    """As `dvc gc --cloud` leaves it."""
    (entry,) = (tmp_path / "remote/runs").glob("*/*/*")
    (project / "a.txt").write_text("another")
    dvc(project, "commit", "-f", "-q", "a")
    shutil.rmtree(tmp_path / "remote/files")
    assert pushed(project, "a", "--") == 0
    (new,) = (tmp_path / "remote/runs").glob("*/*/*")
    assert new.name != entry.name
    assert len([*(tmp_path / "remote/files").rglob("*")]) == 3  # two folders and what was made
    new.write_text("")  # as one that was cut short
    (project / "a.txt").write_text("a third")
    dvc(project, "commit", "-f", "-q", "a")
    assert pushed(project, "a", "--") == 0
    (last,) = (tmp_path / "remote/runs").glob("*/*/*")
    assert last.name not in (entry.name, new.name)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([("url", "http://127.0.0.1:1/x")], "no run-cache over http"),
        ([("url", "s3://bucket/x"), ("version_aware", "true")], "cloud versioned"),
        ([("url", "s3://bucket/x"), ("worktree", "true")], "cloud versioned"),
    ],
)
def test_remotes_that_hold_no_run_cache(project: Path, options: list[tuple[str, str]], why: str) -> None:
    for key, value in options:
        dvc(project, "remote", "modify", "-q", "shared", key, value)
    with Repo() as repo, pytest.raises(RunCacheNotSupported, match=why):
        SharedCache(repo, "test")
