"""Whether the files that a stage depends on are still as they were when its entry was composed.

compose digests them once, before anything runs; a stage reads them later. What was written in between would be kept
under the digest of what was there before, in dvc.lock and in the cache, for good. So a stage looks at its files' states
when it begins and when it is done: their sizes, times and numbers, also where the content is the old one again by then.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qntz.artifacts import BUILD
from qntz.errors import ArtifactError

WATCHED = BUILD / "memo" / "watched.json"  # not in build/config: times and numbers are of this checkout alone
COMPILED = "__pycache__"
INSTALLED = {"site-packages", "dist-packages"}
OWN = (
    "qntz",
    "stages",
)  # a stage's own code is known by its statements, backends that it does not use are not in its key
DISTRIBUTIONS = (".dist-info", ".egg-info", ".egg", ".egg-link")

Watched = tuple[str, str]
"""What is looked at: a kind ("file", "folder": all that is below it, "glob": the paths that it finds, "site": the
distributions in a folder of sys.path) and a path."""


def files_in(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The files below a folder, through links too, but for compiled Python. A link to a folder that it stands in, one
    of `above`, is not followed: it has no end."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield Path(entry.path)
            elif entry.name != COMPILED:
                yield from files_in(Path(entry.path), above | {real})


@functools.cache
def _of_python() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[key] + os.sep for key in ("purelib", "platlib", "stdlib", "platstdlib"))


def is_installed(origin: str) -> bool:
    """Whether a file or folder lies where distributions do, or Python: of this environment, or of another one that this
    one looks into."""
    return f"{origin}{os.sep}".startswith(_of_python()) or bool(INSTALLED & set(Path(origin).parts))


def distributions_in(folder: str) -> list[str]:
    """The names of what is installed in a folder of sys.path, versions included; none where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(DISTRIBUTIONS))
    except OSError:
        return []


def state(kind: str, path: str) -> Any:
    """The state of what is looked at, of JSON's types; None where it is not there."""
    if kind == "file":
        return _file_state(path)
    if kind == "folder":
        try:
            return sorted([str(one), _file_state(one)] for one in files_in(Path(path)))
        except OSError:
            return None
    return sorted(glob.glob(path, recursive=True)) if kind == "glob" else distributions_in(path)


def _file_state(path: str | Path) -> list[int] | None:
    """Size, time and number: not the time of the last change of its rights or links, which change no content."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def as_text(stages: Mapping[str, Collection[Watched]], states: Mapping[Watched, Any]) -> str:
    """The text of build/memo/watched.json: what each stage ("export@digits") looks at, and its states."""
    known = {one: str(number) for number, one in enumerate(sorted({one for of in stages.values() for one in of}))}
    sets: dict[tuple[str, ...], int] = {}
    of = {
        stage: sets.setdefault(tuple(known[one] for one in sorted(watched)), len(sets))
        for stage, watched in sorted(stages.items())
    }
    listed = {number: [*one, states[one]] for one, number in known.items()}
    return json.dumps({"stages": of, "sets": [list(one) for one in sets], "states": listed}, separators=(",", ":"))


def require_unchanged(root: Path, stage: str) -> None:
    """Raises ArtifactError where something that a stage ("export@digits") depends on is not as compose saw it."""
    for kind, path, before in _watched_by(root, stage):
        if state(kind, path) != before:
            what = "installed packages changed" if kind == "site" else "changed"
            do = "Nothing is kept of this stage. Run `dvc repro` again."
            raise ArtifactError(f"{what} after it was composed", where=os.path.relpath(path, root), do=do)


def require_known(root: Path, stages: Sequence[str], before: Collection[str] = ()) -> None:
    """Looks at what this process has imported: compose follows statements, and not what a program works out, as
    importlib.import_module(f"nets.{name}") does.

    Args:
        stages: whose files may be among it ("torchscript@digits"). before: modules that were there already.

    Raises:
        ArtifactError: a module of the user's lies in none of their keys, so that nobody would see it change.
    """
    watched = [one for stage in stages for one in _watched_by(root, stage)]
    if not watched:
        return
    files = {os.path.realpath(path) for kind, path, _ in watched if kind == "file"}
    folders = tuple(os.path.realpath(path) + os.sep for kind, path, _ in watched if kind == "folder")
    unknown = []
    for name, file in sorted(modules_of_files()):
        if name in before or name.partition(".")[0] in OWN or is_installed(file) or _is_made(file, root):
            continue
        real = os.path.realpath(file)
        if not (real in files or real.startswith(folders) or is_installed(real)):
            unknown.append(os.path.relpath(file, root) if Path(file).is_relative_to(root) else file)
    if unknown:
        several = "" if len(unknown) == 1 else f" (as were {len(unknown) - 1} more)"
        above = os.path.commonpath([os.path.dirname(one) for one in unknown]) if several else ""
        named = above or ", ".join(unknown)
        raise ArtifactError(
            f"was imported and is in no key, so that nobody would see it change{several}",
            where=unknown[0],
            why="no import statement that compose can follow leads to it",
            do=f"Import it by a statement from the root, or name it in the model's `extra_inputs: [{named}]`.",
        )


def modules_of_files() -> list[tuple[str, str]]:
    """The modules of this process that come from files, and these. It asks no __getattr__ of a module's."""
    files = ((name, vars(one).get("__file__")) for name, one in list(sys.modules.items()) if hasattr(one, "__dict__"))
    return [(name, file) for name, file in files if isinstance(file, str) and os.path.isabs(file)]


def _is_made(file: str, root: Path) -> bool:
    """Whether a module lies where torch compiles what it makes of others, or among temporary files."""
    if Path(file).is_relative_to(root):
        return False
    caches = [os.environ.get(name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR")]
    folders = [
        *filter(None, caches),
        tempfile.gettempdir(),
        os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"),
    ]
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _watched_by(root: Path, stage: str) -> list[list[Any]]:
    """What a stage looks at, as [kind, path, state]; nothing where it was not composed: `dvc repro` always does, and a
    stage by itself goes by what there is."""
    try:
        told = json.loads((root / WATCHED).read_text(encoding="utf-8"))
        return [told["states"][number] for number in told["sets"][told["stages"][stage]]]
    except (OSError, ValueError, LookupError, TypeError):
        return []
