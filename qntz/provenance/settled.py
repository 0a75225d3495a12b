"""Models whose pipelines were found up to date, and of which nothing has changed since: DVC need not be asked again.

Of each are kept the digest of its dvc.yaml, its dvc.lock and what compose writes for it, and the states (size, time,
number) of every file that its stages read or write, and of DVC's copies of them. What lies in a file is taken from its
state by DVC too; states that were young when they were kept, so that a further change might not show, are not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.artifacts import BUILD, write_text
from qntz.watch import state

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import Stage

SETTLED = "qntz-settled.json"  # in DVC's folder of temporary files
YOUNG = 2_000_000_000  # nanoseconds


class Settled:
    """What is kept, of the models by name.

    Args:
        folder: DVC's of temporary files. root: the project's, by which it is kept: a copy elsewhere is another, and so
            is a second one below the same `.dvc`.
    """

    def __init__(self, folder: Path, root: Path):
        self._path, self._root = folder / SETTLED, root
        self._every = _read(self._path)
        self._kept = self._every.get(str(root), {})

    @property
    def models(self) -> list[str]:
        return list(self._kept)

    def is_settled(self, model: str, files: Iterable[bytes]) -> bool:
        """Whether nothing of a model has changed since it was kept.

        Args:
            files: its dvc.yaml, dvc.lock and what else its stages are made by.
        """
        kept = self._kept.get(model)
        return (
            kept is not None
            and kept["digest"] == _digest(files)
            and all(_state(kind, path) == before for kind, path, before in kept["states"])
        )

    def look(self, stages: Iterable[Stage]) -> Look | None:
        """The states of what DVC looks at to find a model's stages up to date, to be asked for before it does; None
        where some of that lies elsewhere, which has none."""
        stages, now = list(stages), time.time_ns()
        if any(one.protocol != "local" for stage in stages for one in (*stage.outs, *stage.deps)):
            return None
        return Look(now, [[*one, _state(*one)] for one in sorted(_looked_at(stages, self._root))])

    def keep(self, found: Mapping[str, tuple[Iterable[bytes], Look | None]], gone: Iterable[str] = ()) -> None:
        """Keeps models that were found up to date, and forgets others.

        Args:
            found: of each its files, as `is_settled` is given them, and what `look` saw before.
        """
        kept = {model: one for model, one in self._kept.items() if model not in {*gone}}
        for model, (files, look) in found.items():
            if look is not None and not look.young:
                kept[model] = {"digest": _digest(files), "states": look.states}
        if kept != self._kept:
            self._kept = kept
            write_text(self._path, json.dumps({**self._every, str(self._root): kept}, separators=(",", ":")))


@dataclass(frozen=True)
class Look:
    """States, by kind and path, as they were at a time in nanoseconds."""

    at: int
    states: list[Any]

    @property
    def young(self) -> bool:
        """Whether a file was written so shortly before that a further change might leave its time as it is."""
        times = [one[1] for kind, _, found in self.states if found for one in _files(kind, found)]
        return any(time_ns > self.at - YOUNG for time_ns in times)


def _looked_at(stages: Iterable[Stage], root: Path) -> set[tuple[str, str]]:
    """What DVC looks at to find stages up to date: files and folders, and its copies of those; without what compose
    writes, of which the text is known."""
    composed = root / BUILD / "config"
    found = set()
    for stage in stages:
        for one in (*stage.outs, *stage.deps):
            if not Path(one.fs_path).is_relative_to(composed):
                found.add(("folder" if one.fs.isdir(one.fs_path) else "file", one.fs_path))
        for out in stage.outs:
            if out.use_cache and out.hash_info:
                found |= {("cached", path) for path in _copies(out)}
    return found


def _copies(out: Output) -> Iterator[str]:
    """DVC's copy of an output, and of a folder those of all files in it."""
    yield out.cache_path
    if out.is_dir_checksum and (tree := out.get_obj()) is not None:
        for _, _, info in tree:
            yield out.cache.oid_to_path(info.value)


def _state(kind: str, path: str) -> Any:
    """That of a copy is whether there is one: DVC gives all links to it its times."""
    return Path(path).exists() if kind == "cached" else state(kind, path)


def _files(kind: str, found: Any) -> list[Any]:
    return [] if kind == "cached" else [one for _, one in found if one] if kind == "folder" else [found]


def _digest(files: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for data in files:
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """By project; nothing where it is damaged: it only spares work."""
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(root): {str(m): {"digest": str(one["digest"]), "states": list(one["states"])} for m, one in its.items()}
            for root, its in told.items()
        }
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return {}
