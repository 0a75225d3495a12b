"""What will lie at a path once the stages before have run, by the hashes that DVC has for it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.tree import Tree

UNKNOWN = "not known here"  # of a folder whose files are in no cache: it equals nothing


@dataclass(frozen=True)
class Content:
    """What lies at a path: its hash, None where there is nothing, and DVC's record of size and mode."""

    value: str | None
    meta: Any = None


@dataclass(frozen=True)
class Open:
    """What lies at a path is decided by stages that run first."""

    after: frozenset[str]


T = TypeVar("T")


class Places(dict[str, T]):
    """Something by path, found from the folders above and below as well."""

    def __init__(self, places: Mapping[str, T] | None = None):
        super().__init__()
        self._below: dict[str, list[str]] = {}  # by folder, what lies in it, however deep
        for path, one in (places or {}).items():
            self[path] = one

    def __setitem__(self, path: str, one: T) -> None:
        if path not in self:
            for parent in _parents(path):
                self._below.setdefault(parent, []).append(path)
        super().__setitem__(path, one)

    def near(self, path: str) -> list[str]:
        """The paths at, above or below this one."""
        return [*(one for one in (path, *_parents(path)) if one in self), *self._below.get(path, ())]


class Contents:
    """The workspace as it is, and what the stages gone through so far will have changed in it."""

    def __init__(self, repo: Repo):
        self.repo = repo
        self._changed: Places[Content | Open] = Places()
        self._on_disk: dict[tuple[str, str], Content] = {}
        self._written_again: set[str] = set()  # that stages may give back to the cache as they run again
        self._assumed: set[str] = set()

    def leave_open(self, outs: Iterable[Output], after: frozenset[str]) -> None:
        """These will be written, or not, as the stages of `after` decide."""
        for out in outs:
            self._changed[out.fs_path] = Open(after)
            self._written_again |= self._lost(out)

    def restore(self, outs: Iterable[Output]) -> None:
        """These will be put there as they are recorded."""
        for out in outs:
            self._changed[out.fs_path] = Content(out.hash_info.value, out.meta)

    def assume(self, outs: Iterable[Output]) -> None:
        """These are missing, and count as being there as they are recorded."""
        missing = [out for out in outs if not out.exists and out.hash_info]
        self.restore(missing)
        self._assumed.update(out.fs_path for out in missing)

    def changing(self, path: str) -> list[str]:
        """The paths at, above or below this one that will be changed."""
        return self._changed.near(path)

    def waits(self, path: str) -> frozenset[str]:
        """The stages that decide what lies at, above or below a path; none where that is known."""
        return self._waits(self.changing(path))

    def of(self, dep: Dependency) -> Content | Open:
        """What will lie at a dependency's path."""
        paths = self.changing(dep.fs_path)
        if waits := self._waits(paths):
            return Open(waits)
        found = {path: one for path in paths if isinstance(one := self._changed[path], Content)}
        if not found:
            return self.on_disk(dep)
        if dep.fs_path in found:
            return found[dep.fs_path]
        if self._assumed.issuperset(found):  # what is in them may be in no cache, but it is what it was
            return Content(dep.hash_info.value if dep.hash_info else None, dep.meta)
        above = next((path for path in found if self.repo.fs.isin(dep.fs_path, path)), None)
        return self._overlaid(dep, found) if above is None else self._inside(dep, above, found[above])

    def absent(self, path: str) -> list[Output]:
        """The artifacts at, above or below a path that dvc.lock or a `.dvc` file has, and that are missing here."""
        return [self._missing[one] for one in self._missing.near(path)]

    @functools.cached_property
    def _missing(self) -> Places[Output]:
        return Places({out.fs_path: out for out in self.repo.index.outs if out.hash_info and not out.exists})

    def on_disk(self, item: Output) -> Content:
        """What lies at the path of a dependency or output now."""
        key = (item.fs_path, item.hash_name)
        if key not in self._on_disk:
            meta, info = item._get_hash_meta() if item.exists else (None, None)
            self._on_disk[key] = Content(info.value if info else None, meta)
        return self._on_disk[key]

    def may_be_cached(self, outs: Iterable[Output]) -> bool:
        """Whether the cache holds these, or may do so once the stages before have run."""
        cached = [out for out in outs if out.use_cache]
        return all(not out.changed_cache() or self._written_again.issuperset(self._lost(out)) for out in cached)

    def _waits(self, paths: Iterable[str]) -> frozenset[str]:
        found = (self._changed[path] for path in paths)
        return frozenset().union(*(one.after for one in found if isinstance(one, Open)))

    def _lost(self, out: Output) -> set[str]:
        """The hashes of a file, or of a folder; where the cache has the folder's list, of the files that it has not."""
        if not out.hash_info:
            return set()
        tree = self._tree(out.hash_info.value) if out.hash_info.isdir else None
        if tree is None:
            return {out.hash_info.value}
        return {info.value for _, _, info in tree if not self.repo.cache.repo.exists(info.value)}

    def _tree(self, value: str) -> Tree | None:
        """The list of a folder's files; None where the cache does not have it."""
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.tree import Tree

        cache = self.repo.cache.repo
        return Tree.load(cache, HashInfo("md5", value)) if cache.exists(value) else None

    def _overlaid(self, dep: Dependency, contents: Mapping[str, Content]) -> Content:
        """A folder in which some artifacts are replaced by what they will be."""
        from dvc_data.hashfile.hash_info import HashInfo

        entries: dict[tuple[str, ...], tuple[Any, Any]] = {}
        if dep.exists:
            built = dep._build(dep.local_cache, dep.fs_path, dep.fs, "md5", ignore=dep.dvcignore, dry_run=True)[2]
            entries = {key: (meta, info) for key, meta, info in built}
        for path, content in contents.items():
            prefix = self.repo.fs.relparts(path, dep.fs_path)
            entries = {key: entry for key, entry in entries.items() if key[: len(prefix)] != prefix}
            if content.value is not None and content.value.endswith(".dir"):
                tree = self._tree(content.value)
                if tree is None:
                    return Content(UNKNOWN)
                entries |= {(*prefix, *key): (meta, info) for key, meta, info in tree}
            elif content.value is not None:
                entries[prefix] = content.meta, HashInfo("md5", content.value)
        return _folder(entries)

    def _inside(self, dep: Dependency, above: str, content: Content) -> Content:
        """A file or folder in an artifact that is a folder."""
        tree = self._tree(content.value) if content.value is not None else None
        if tree is None:
            return Content(UNKNOWN)
        prefix = self.repo.fs.relparts(dep.fs_path, above)
        entries = {key[len(prefix) :]: (meta, info) for key, meta, info in tree if key[: len(prefix)] == prefix}
        if () in entries:
            meta, info = entries[()]
            return Content(info.value, meta)
        return _folder(entries) if entries else Content(None)


def _parents(path: str) -> Iterator[str]:
    """The folders that a path lies in, the nearest first."""
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _folder(entries: Mapping[tuple[str, ...], tuple[Any, Any]]) -> Content:
    from dvc_data.hashfile.meta import Meta
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for key, (meta, info) in entries.items():
        tree.add(key, meta, info)
    tree.digest()
    return Content(tree.hash_info.value, Meta(isdir=True))
