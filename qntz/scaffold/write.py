"""Carries a plan out: git, DVC, files. Where it fails half-way, all is as it was."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from qntz.artifacts import telling, write_bytes
from qntz.errors import ArtifactError
from qntz.scaffold.git import git
from qntz.scaffold.plan import Plan

_DVC_INIT = """
import sys
from dvc.repo import Repo
with Repo.init(".", subdir=sys.argv[1] == "subdir") as repo, repo.config.edit("repo") as config:
    config["core"].update(analytics="false", check_update="false")
"""


def write(plan: Plan) -> list[str]:
    """Writes all of it; returns the names of the files that are new or have new lines. Raises ArtifactError where git
    or DVC fails, or a file cannot be written."""
    written = list(plan.lines)
    with _taking_back() as back:
        _remove_folders(back, plan.root)
        with telling(plan.root):
            plan.root.mkdir(parents=True, exist_ok=True)
        if plan.git:
            back.callback(shutil.rmtree, plan.root / ".git", ignore_errors=True)
            _run("git init", plan.root, "git", "init", "-q")
            # `git init -b` is not in every git
            _run("git symbolic-ref", plan.root, "git", "symbolic-ref", "HEAD", f"refs/heads/{plan.branch}")
        # before `dvc init`, which leaves a .dvcignore as it is, and writes an empty one where there is none
        for name, lines in plan.lines.items():
            _restore(back, plan.root / name)
            _add_lines(plan.root / name, lines)
        if plan.dvc:
            back.callback(shutil.rmtree, plan.root / ".dvc", ignore_errors=True)
            if index := git(plan.root, "rev-parse", "--git-path", "index"):
                _restore(back, plan.root / index)  # `dvc init` stages what it writes
            _run("dvc init", plan.root, sys.executable, "-c", _DVC_INIT, "subdir" if plan.subdir else "top")
        for name, data in plan.files.items():
            path = plan.path(name)
            if not path.exists():
                _restore(back, path)
                write_bytes(path, data)
                written.append(name)
    return written


@contextlib.contextmanager
def _taking_back() -> Iterator[contextlib.ExitStack]:
    """A stack for what takes changes back: it does where the block does not end well, the last change first."""
    with contextlib.ExitStack() as back:
        yield back
        back.pop_all()


def _restore(back: contextlib.ExitStack, path: Path) -> None:
    """Has a file taken back to what it is now, or removed where there is none, with the folders that it needs."""
    _remove_folders(back, path.parent)
    if path.is_file():
        back.callback(write_bytes, path, path.read_bytes())
    else:
        back.callback(path.unlink, missing_ok=True)


def _remove_folders(back: contextlib.ExitStack, folder: Path) -> None:
    """Has a folder and those above it removed that are not there yet, unless something else is in them by then."""
    for one in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
        back.callback(_remove_empty, one)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _add_lines(path: Path, lines: Sequence[str]) -> None:
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    write_bytes(path, before + "".join(f"{line}\n" for line in lines).encode())


def _run(what: str, folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        told = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ArtifactError(f"`{what}` fails", where=str(folder), why=told[-1] if told else f"exit {done.returncode}")
