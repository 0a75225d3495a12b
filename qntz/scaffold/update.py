"""Brings a project's copies of the shipped files to those of this qntz: stages/, dvc.yaml, what draws the plots."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from qntz.artifacts import write_bytes
from qntz.errors import ArtifactError, UsageError
from qntz.pipelines import as_one, as_split, is_split
from qntz.scaffold import table
from qntz.scaffold.git import git
from qntz.scaffold.plan import PLOTS, pipeline, plan_of
from qntz.scaffold.shipped import shipped, shipped_files

DVC_YAML = "dvc.yaml"
REPLACED = ("stages/", PLOTS, DVC_YAML)  # the rest is the project's own: of it only what is missing is added


def update(root: Path) -> tuple[list[str], list[str]]:
    """Replaces what differs and adds what is missing; returns the names of what was written, and a sentence for what
    was left. dvc.yaml keeps compose's `deps`, and stays as it is where it has stages of the project's own. What git
    does not keep is kept as a .bak beside it.

    Raises:
        UsageError: there is no project, or a file to be replaced has changes that git does not hold.
        ArtifactError: dvc.yaml cannot be read, or a file cannot be written.
    """
    if not (root / DVC_YAML).is_file() or not (root / "stages").is_dir():
        raise UsageError("is no project of qntz", where=str(root), do="Make it one: qntz init.")
    plan, left = plan_of(root), []
    wanted = {name: data for name, data in shipped_files(table.PIPELINE).items() if not name.startswith("plugins/")}
    try:
        wanted[DVC_YAML] = _pipeline(root / DVC_YAML)
    except _Own as own:
        left.append(f"{DVC_YAML} is left as it is, for it has {own} of its own; `qntz doctor` tells what differs.")
        del wanted[DVC_YAML]
    changed = {name: data for name, data in wanted.items() if _differs(plan.path(name), data, name)}
    held = {name: _held(plan.path(name)) for name in changed if plan.path(name).is_file()}
    if unsaved := [name for name, is_held in held.items() if is_held is False]:
        verb, it = ("has", "it") if len(unsaved) == 1 else ("have", "them")
        do = f"Nothing was written. Commit {it}: `git diff` then shows what the update changes."
        raise UsageError(f"{', '.join(unsaved)} {verb} changes that git does not hold", do=do)
    kept = []
    for name, data in changed.items():
        path = plan.path(name)
        if name in held and held[name] is None:
            kept.append(_beside(path))
            write_bytes(kept[-1], path.read_bytes())
        write_bytes(path, data)
    if kept:
        names = ", ".join(os.path.relpath(path, root) for path in kept)
        left.append(f"git does not keep what was replaced, so it is kept as {names}.")
    return list(changed), left


def _differs(path: Path, data: bytes, name: str) -> bool:
    return not path.is_file() or (name.startswith(REPLACED) and path.read_bytes() != data)


class _Own(Exception):
    """dvc.yaml has something of the project's own; its text says what."""


def _pipeline(path: Path) -> bytes:
    """The shipped dvc.yaml with the project's own `deps` of compose; what is there where nothing else differs."""
    text = shipped(DVC_YAML)
    try:
        given = path.read_text(encoding="utf-8")
        told, known = yaml.safe_load(as_one(given)), yaml.safe_load(text)
        own = [*(told["stages"].keys() - known["stages"].keys()), *(told.keys() - known.keys())]
        deps: Sequence[str] = told["stages"].get("compose", {}).get("deps") or []
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        do = "Repair it, or take it back: git checkout dvc.yaml."
        raise ArtifactError("is no pipeline of DVC", where=path.name, why=str(error), do=do) from error
    if own:
        raise _Own(", ".join(sorted(own)))
    known["stages"]["compose"]["deps"] = deps
    if told == known:
        return given.encode()
    wanted = pipeline(text, deps)
    return (as_split(wanted) if is_split(path.parent) else wanted).encode()


def _held(path: Path) -> bool | None:
    """Whether git has a file as it is; None where git does not keep it: there is no repository, no git, or it ignores
    the file."""
    told = git(path.parent, "status", "--porcelain", "--ignored", "--", path.name)
    return None if told is None or told.startswith("!!") else not told


def _beside(path: Path) -> Path:
    """A name beside a file that is not taken."""
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in itertools.count())
    return next(name for name in names if not name.exists())
