"""What a project says of the qntz that it needs, by how that was installed: never the name alone, which on PyPI is
another project's."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qntz.cli import main
from qntz.scaffold import requirement as told_by
from qntz.scaffold import shipped
from qntz.scaffold.requirement import UNKNOWN, lacking, requirement
from tests.init.conftest import GIT

COMMIT = "0123456789012345678901234567890123456789"
WITH_MODEL = ("--model", "mypkg.net:tiny", "--input", "image=float32:batch,3,32,32")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has qntz installed as a direct_url.json of pip's tells; as from an index where there is none."""

    def install(told: dict[str, Any] | None) -> None:
        texts = {} if told is None else {"direct_url.json": json.dumps(told)}
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: SimpleNamespace(read_text=texts.get))
        monkeypatch.setattr(told_by.qntz, "__file__", "/somewhere/site-packages/qntz/__init__.py")

    return install


def git(folder: Path, *command: str) -> str:
    return subprocess.run([*GIT, *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A git repository that looks like qntz's."""
    path = tmp_path / "a clone"
    (path / "qntz/scaffold").mkdir(parents=True)
    (path / "qntz/scaffold/table.py").write_text("")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "start")):
        git(path, *command)
    return path


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://example.org/us/qntz.git", "https://example.org/us/qntz.git"),
        ("https://me:ghp_0123456789@example.org:8443/us/qntz.git", "https://example.org:8443/us/qntz.git"),
        ("https://ghp_0123456789@example.org/us/qntz.git", "https://example.org/us/qntz.git"),
        ("ssh://git:hidden@example.org:2222/us/qntz.git", "ssh://git@example.org:2222/us/qntz.git"),
        ("git@example.org:us/qntz.git", "ssh://git@example.org/us/qntz.git"),
        ("example.org:/srv/qntz.git", "ssh://example.org/srv/qntz.git"),
    ],
)
@pytest.mark.parametrize("kind", ["editable", "folder", "wheel"])
def test_a_clone_is_named_by_its_remote_and_commit(clone: Path, installed, remote: str, url: str, kind: str) -> None:
    git(clone, "remote", "add", "origin", remote)
    (clone / "dist").mkdir()
    (clone / "dist/qntz-0.1.0-py3-none-any.whl").write_bytes(b"")
    installed(
        {
            "editable": {"url": clone.as_uri(), "dir_info": {"editable": True}},
            "folder": {"url": clone.as_uri(), "dir_info": {}},
            "wheel": {"url": (clone / "dist/qntz-0.1.0-py3-none-any.whl").as_uri(), "archive_info": {}},
        }[kind]
    )
    assert requirement() == f"qntz @ git+{url}@{git(clone, 'rev-parse', 'HEAD')}"


def test_a_clone_below_the_top_of_its_repository(clone: Path, installed) -> None:
    git(clone, "remote", "add", "origin", "https://example.org/us/all.git")
    (clone / "libraries").mkdir()
    git(clone, "mv", "qntz", "libraries/qntz")
    git(clone, "commit", "-q", "-m", "one of several")
    installed({"url": (clone / "libraries").as_uri(), "dir_info": {}})
    assert requirement() == (
        f"qntz @ git+https://example.org/us/all.git@{git(clone, 'rev-parse', 'HEAD')}#subdirectory=libraries"
    )


@pytest.mark.parametrize("remote", ["", "/srv/qntz.git", "../qntz.git", "file:///srv/qntz.git", "http://example.org/a"])
def test_a_clone_that_nobody_else_can_read_is_none(clone: Path, installed, remote: str) -> None:
    if remote:
        git(clone, "remote", "add", "origin", remote)
    installed({"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert requirement() is None


def test_what_is_no_clone_of_qntz(clone: Path, tmp_path: Path, installed, monkeypatch) -> None:
    """A wheel in somebody's own repository, a folder without git, an index, a folder that is gone, and no git."""
    git(clone, "remote", "add", "origin", "https://example.org/them/theirs.git")
    url = clone.as_uri()
    (clone / "qntz/scaffold/table.py").rename(clone / "qntz.whl")
    (tmp_path / "plain").mkdir()
    for told in (
        {"url": (clone / "qntz.whl").as_uri(), "archive_info": {}},
        {"url": (tmp_path / "plain").as_uri(), "dir_info": {}},
        {"url": (tmp_path / "gone").as_uri(), "dir_info": {}},
        None,
    ):
        installed(told)
        assert requirement() is None, told
    (clone / "qntz.whl").rename(clone / "qntz/scaffold/table.py")
    installed({"url": url, "dir_info": {}})
    assert requirement() is not None
    monkeypatch.setenv("PATH", "")
    assert requirement() is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"url": "https://example.org/qntz.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"qntz @ git+https://example.org/qntz.git@{COMMIT}",
        ),
        ({"url": "https://example.org/qntz-1.whl", "archive_info": {}}, "qntz @ https://example.org/qntz-1.whl"),
    ],
)
def test_a_repository_or_an_archive_stays_what_it_was_installed_from(installed, told, expected: str) -> None:
    installed(told)
    assert requirement() == expected


def test_a_clone_that_is_imported_without_an_installation(clone: Path, monkeypatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    git(clone, "remote", "add", "origin", "https://example.org/us/qntz.git")
    (clone / "pyproject.toml").write_text("")
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(told_by.qntz, "__file__", f"{clone}/qntz/__init__.py")
    assert str(requirement()).startswith("qntz @ git+https://example.org/us/qntz.git@")


def test_a_comment_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"torch\n{UNKNOWN}\n")
    assert lacking(tmp_path) == "requirements.txt"
    (tmp_path / "requirements.txt").write_text(f"torch\nqntz[gpu] @ git+https://example.org/qntz.git@{COMMIT}\n")
    assert lacking(tmp_path) is None


def test_where_no_source_is_known_init_asks_for_one(without_dvc: Path, installed, capsys) -> None:
    installed(None)
    (without_dvc / "pyproject.toml").unlink()
    assert main(["init", *WITH_MODEL]) == 0
    assert (without_dvc / "requirements.txt").read_text() == (
        "# qntz: say where it is to be installed from, e.g. qntz @ git+https://...@COMMIT\n"
    )
    assert (
        "note: requirements.txt does not name qntz, and what installs this project elsewhere needs it: say there where it "
        "is to be installed from, for instance qntz @ git+https://...@COMMIT; the qntz of PyPI is another project.\n"
    ) in capsys.readouterr().out


def test_a_commit_that_is_not_pushed_is_told(without_dvc: Path, clone: Path, installed, capsys) -> None:
    git(clone, "remote", "add", "origin", "https://example.org/us/qntz.git")
    installed({"url": clone.as_uri(), "dir_info": {"editable": True}})
    head = git(clone, "rev-parse", "HEAD")
    asked = f"qntz @ git+https://example.org/us/qntz.git@{head}"
    note = f"no branch of its remote has this commit of qntz, so nobody else can install it: push it ({asked})."
    (without_dvc / "pyproject.toml").unlink()
    assert main(["init", *WITH_MODEL]) == 0
    assert (without_dvc / "requirements.txt").read_text() == f"{asked}\n"
    assert f"note: {note}" in capsys.readouterr().out.splitlines()
    git(clone, "update-ref", "refs/remotes/origin/main", head)
    assert not told_by.unpushed(asked)


def test_an_installation_without_the_files_is_not_mended_from_an_index(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(shipped, "INSIDE", tmp_path)
    monkeypatch.setattr(shipped, "__file__", f"{tmp_path}/a/b/shipped.py")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 1
    assert capsys.readouterr().err == (
        f"error: init: {tmp_path}: the files of a project are not in this installation of qntz. Install it again from "
        "where it came from: `pip install --force-reinstall --no-deps` of its clone or wheel.\n"
    )
