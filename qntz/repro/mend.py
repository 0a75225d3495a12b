"""Mends what a kill left of DVC's own files, before DVC stumbles over it.

DVC rewrites dvc.lock and its list of running processes in place; a kill in that moment leaves half a file, which DVC
then refuses. The results of the stages are in DVC's run cache, keyed by their inputs, so a run without dvc.lock
restores them. The list holds nothing once no DVC runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.errors import ArtifactError, UsageError, unreadable
from qntz.pipelines import locks
from qntz.remotes import dvc_root
from qntz.repro.running import entries, is_it, shown

if TYPE_CHECKING:
    from dvc.lock import LockBase
    from yaml import YAMLError

LOCK = Path("dvc.lock")
RUNNING = "rwlock"
DVC_LOCK = "lock"
HEAD = "schema: '2.0'\nstages:"  # of dvc.lock, as DVC writes it
MARKS = ("<<<<<<< ", ">>>>>>> ")


def state_folder(root: Path) -> Path:
    """The folder of DVC's own locks, for the project at `root`; made where it is missing.

    Raises:
        UsageError: there is no `.dvc`, there or above. ArtifactError: it cannot be made.
    """
    top = dvc_root(root)
    if top is None:
        raise UsageError("is no project of DVC", where=str(root), do="Run it from the project's root.")
    state = top / ".dvc/tmp"
    try:
        state.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(state, error) from error
    return state


def unwritable(path: Path, error: OSError) -> ArtifactError:
    """The error for a file of DVC's state that the system does not let be written."""
    why = error.strerror or str(error)
    return ArtifactError("cannot be written", where=str(path), why=why, do="DVC keeps its locks there: let it write.")


def mend(root: Path) -> list[str]:
    """Mends what a kill left; returns what it did, a line each. What another DVC is writing just now is left alone.

    Raises:
        ArtifactError: dvc.lock is damaged in another way, which is not for this to mend; or the system does not let a
            file be written.
    """
    told = []
    state = state_folder(root)
    try:
        if (state / RUNNING).is_file():
            told += _mended_list(state / RUNNING)
        mended = {lock: _set_aside_if_cut_off(root / lock, state, lock.as_posix()) for lock in locks(root)}
    except OSError as error:
        raise unwritable(Path(error.filename or state), error) from error
    for lock, done in mended.items():
        if done is not None:
            why, aside = done
            told.append(
                f"{lock} was cut off ({why}); it is {aside.name} now, and the run cache restores what was done."
            )
    return told


# dvc.lock


@dataclass(frozen=True)
class Damage:
    """Why DVC refuses a dvc.lock. `cut`: it ends where it should not, as a kill leaves it. `where`: the file, and the
    line where that is known. `do`: what else helps."""

    why: str
    cut: bool
    where: str
    do: str = "Mend it, or remove it: the run cache restores what was done."

    def error(self) -> ArtifactError:
        return ArtifactError("DVC refuses it", where=self.where, why=self.why, do=self.do)


def damage(path: Path, name: str = str(LOCK)) -> Damage | None:
    """Why DVC would refuse this dvc.lock; None where it would not, or there is none.

    Args:
        name: how it is named in messages.

    Raises:
        ArtifactError: the system does not let it be read.
    """
    import yaml
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import MultipleInvalid

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    if b"\0" in data:  # what some file systems leave of a file when the machine goes down
        return Damage("a null byte", True, name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Damage(str(error), error.reason == "unexpected end of data", name)
    marked = next((number for number, line in enumerate(text.splitlines(), 1) if line.startswith(MARKS)), None)
    if marked is not None:
        do = f"Take one side (`git checkout --ours {name}`): the run cache restores what was done."
        return Damage("it has the marks of a merge conflict", False, f"{name}:{marked}", do)
    try:
        loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        return _no_yaml(text, error, name)
    if not text.strip() or HEAD.startswith(text.strip()):
        return Damage("it ends in its head", True, name)
    if isinstance(loaded, Mapping) and loaded.get("schema") not in (None, "2.0"):
        from dvc import __version__

        do = f"Update DVC, or take the {name} that this DVC wrote from git."
        return Damage(f"its schema is {loaded['schema']!r}, which DVC {__version__} does not know", False, name, do)
    try:
        COMPILED_LOCKFILE_SCHEMA(loaded)
    except MultipleInvalid as error:
        return Damage(str(error), all(_in_last(loaded, one.path) for one in error.errors), name)
    return _without_hash(loaded, name)


def _no_yaml(text: str, error: YAMLError, name: str) -> Damage:
    why, mark = getattr(error, "problem", None) or str(error).splitlines()[0], getattr(error, "problem_mark", None)
    if mark is None:
        return Damage(why, False, name)
    return Damage(why, mark.line >= text.rstrip("\n").count("\n"), f"{name}:{mark.line + 1}")


def _in_last(loaded: Any, path: list[Any]) -> bool:
    """Whether it is at the last of the stages: in it, or in what there is of its name."""
    stages = loaded.get("stages") if isinstance(loaded, Mapping) else None
    if not isinstance(stages, Mapping):
        return isinstance(stages, str) and [*loaded][-1:] == [str(one) for one in path] == ["stages"]
    return [str(one) for one in path[:2]] == ["stages", str(list(stages)[-1])]


def _without_hash(loaded: Mapping[str, Any], lock: str) -> Damage | None:
    """An entry that names the kind of its hash, and has none."""
    stages = loaded.get("stages") or {}
    for name, stage in stages.items():
        for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
            if "hash" in entry and entry["hash"] not in entry:
                return Damage(f"{name}: {entry['path']}: no {entry['hash']!r}", name == list(stages)[-1], lock)
    return None


def _set_aside_if_cut_off(path: Path, state: Path, name: str) -> tuple[str, Path] | None:
    """Under DVC's own lock, which it holds while it writes dvc.lock: what looks cut off may be half written."""
    from dvc.lock import LockError

    if damage(path, name) is None:
        return None
    try:
        with dvc_lock(state, DVC_LOCK):
            found = damage(path, name)
            if found is None:
                return None
            if not found.cut:
                raise found.error()
            aside = _free(path.with_suffix(".lock.damaged"))
            path.replace(aside)
            return found.why, aside
    except LockError:
        return None


def _free(path: Path) -> Path:
    """The path, or where something lies there one with a number."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in range(2, 1000))
    return next((one for one in (path, *numbered) if not os.path.lexists(one)), path)


def dvc_lock(state: Path, name: str) -> LockBase:
    """A lock of DVC's in its folder, of the kind that it is told to use."""
    from dvc.config import Config, ConfigError
    from dvc.lock import make_lock

    try:
        hard = bool(Config(str(state.parent))["core"].get("hardlink_lock", False))
    except ConfigError:  # DVC refuses it right after this
        hard = False
    return make_lock(str(state / name), tmp_dir=str(state), hardlink_lock=hard)


# the list of running processes


def _mended_list(path: Path) -> list[str]:
    """Removes the list where DVC could not read it, and from it those whose process id is another's by now: DVC itself
    removes those that are gone. Under DVC's lock for it."""
    from dvc.lock import LockError
    from dvc.rwlock import RWLOCK_LOCK, SCHEMA
    from voluptuous import Invalid

    try:
        with dvc_lock(path.parent, RWLOCK_LOCK):
            try:
                written = path.stat().st_mtime
                listed = SCHEMA(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                return []
            except (ValueError, Invalid):
                path.unlink()
                return [f".dvc/tmp/{path.name} was damaged, and is removed: DVC writes it anew."]
            gone = _others(listed, written, path.parent)
            if gone:
                _without(listed, gone)
                new = path.with_name(f"{path.name}.new")
                new.write_text(json.dumps(listed), encoding="utf-8")
                new.replace(path)
    except LockError:
        return []  # it is being written
    text = f".dvc/tmp/{path.name} named process {{}} as {{}}, which that is not: the entry is removed."
    return [text.format(pid, shown(command)) for pid, command in sorted(gone)]


def _others(listed: Mapping[str, Any], written: float, state: Path) -> set[tuple[int, str]]:
    """Those that are listed, and whose process is there, and is another."""
    import psutil

    named = {(one["pid"], one["cmd"]) for one in entries(listed)}
    return {(pid, cmd) for pid, cmd in named if psutil.pid_exists(pid) and not is_it(pid, cmd, written, state)}


def _without(listed: dict[str, Any], gone: set[tuple[int, str]]) -> None:
    stays = {kind: listed[kind] for kind in ("write", "read")}
    listed["write"] = {path: one for path, one in stays["write"].items() if (one["pid"], one["cmd"]) not in gone}
    read = {path: [one for one in some if (one["pid"], one["cmd"]) not in gone] for path, some in stays["read"].items()}
    listed["read"] = {path: some for path, some in read.items() if some}
