"""Whether the working directory is a project: its files, git, DVC with its cache and remote, and `python` on PATH."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qntz.doctor import pipeline
from qntz.doctor.child import Failed, ask
from qntz.doctor.finding import Finding
from qntz.environment import activation, is_this, python_on_path
from qntz.errors import QntzError, one_line

SECTION = "project"
FILES = ("dvc.yaml", "params.yaml", "conf/config.yaml", "stages/entry.py")
DEFAULT = "tensorrt_rtx"
GIB = 2**30
LITTLE_DISK = 2 * GIB

_DVC = """
from dvc.repo import Repo
with Repo() as repo:
    told = {"root": repo.root_dir, "cache": repo.cache.local_cache_dir, "git": type(repo.scm).__name__ != "NoSCM"}
    told["remotes"], told["default"] = sorted(repo.config["remote"]), repo.config["core"].get("remote", "")
answer(told)
"""


def is_project(root: Path) -> bool:
    """Whether the folder was one of qntz at some time; other pipelines of DVC are none."""
    return (root / "stages" / "entry.py").is_file() or "-m stages.compose" in _text(root / "dvc.yaml")


def default_backend(root: Path) -> str:
    """The backend that conf/ chooses where an entry chooses none; the shipped one where that cannot be told."""
    config = root / "conf" / "config.yaml"
    option = re.search(r"^\s*- engine: (\w+)", _text(config), re.MULTILINE)
    chosen = root / "conf" / "engine" / f"{option[1] if option else DEFAULT}.yaml"
    named = re.search(r"^backend: (\w+)", _text(chosen), re.MULTILINE)
    return named[1] if named else DEFAULT


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def findings(root: Path) -> Iterator[Finding]:
    """Findings of the folder, and of the `python` that DVC will start its stages with."""
    yield _python()
    if shutil.which("dvc") is None:
        yield Finding(
            SECTION, "dvc on PATH", "none", "note", "Write `python -m dvc repro`, or activate the environment."
        )
    if not is_project(root):
        yield Finding(SECTION, "folder", "no project of qntz", "note", "`qntz init` makes it one.")
        return
    missing = [name for name in FILES if not (root / name).is_file()]
    if missing:
        do = "Run this from the project's root, or put them back: git checkout."
        yield Finding(SECTION, "folder", f"{', '.join(missing)} missing", "broken", do)
    elif why := _no_yaml():
        yield Finding(SECTION, "folder", f"its files cannot be read: {why}", "broken", "See pyyaml among the tools.")
    else:
        yield from _entries(root)
        yield from pipeline.findings(root)
    yield from _dvc(root)


def _no_yaml() -> str:
    """Why YAML cannot be read; "" where it can."""
    try:
        import yaml  # noqa: F401
    except Exception as error:  # whatever a broken installation does
        return one_line(error)
    return ""


def _python() -> Finding:
    told = python_on_path()
    do = f"DVC starts the stages with `python`. Activate this environment: {activation()}."
    if told is None:
        return Finding(SECTION, "python on PATH", "none", "broken", do)
    if is_this(told):
        return Finding(SECTION, "python on PATH", f"{told[0]}, of this environment")
    # one of another environment that has qntz runs the stages as well, in its own versions
    return Finding(SECTION, "python on PATH", f"{told[0]}, of another environment", "note" if told[2] else "broken", do)


def _entries(root: Path) -> Iterator[Finding]:
    from qntz.compose import read_params

    try:
        entries = read_params(root / "params.yaml")
    except QntzError as error:
        yield Finding(SECTION, "params.yaml", error.what, "broken", error.do)
        return
    counts = ", ".join(f"{len(found)} {kind if len(found) > 1 else kind[:-1]}" for kind, found in entries.items())
    yield Finding(SECTION, "params.yaml", counts)


def _dvc(root: Path) -> Iterator[Finding]:
    try:
        told: dict[str, Any] = ask(_DVC, root=root)
    except Failed as error:
        do = "Run `dvc init` in a git repository." if "NotDvcRepo" in str(error) else "`dvc status` may tell more."
        yield Finding(SECTION, "DVC", f"{error}", "broken", do)
        return
    if told["git"]:
        yield Finding(SECTION, "git", "there")
    else:
        do = "Run `git init`, or `dvc init` at the top of the git repository."
        yield Finding(SECTION, "git", "DVC works without it here", "note", do)
    if told["remotes"]:
        default = told["default"] or f"{', '.join(told['remotes'])}, none of them the default"
        yield _refused(root) or Finding(SECTION, "DVC remote", default)
    else:
        do = "To share results: dvc remote add -d NAME URL."
        yield Finding(SECTION, "DVC remote", "none", "note", do)
    yield _disk(Path(told["cache"]))


def _refused(root: Path) -> Finding | None:
    """What the stage compose refuses of the remotes."""
    from qntz.remotes import require_sound

    try:
        require_sound(root)
    except QntzError as error:
        because = f": {error.why}" if error.why else ""
        return Finding(SECTION, "DVC remote", f"{error.where}: {error.what}{because}", "broken", error.do)
    return None


def _disk(cache: Path) -> Finding:
    nearest = next(place for place in (cache, *cache.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    told = f"{free / GIB:.1f} GiB free for {cache}"
    if free < LITTLE_DISK:
        return Finding(SECTION, "DVC cache", told, "note", "`dvc gc -w` removes what no file here refers to.")
    return Finding(SECTION, "DVC cache", told)
