"""DVC's run-cache in its default remote, stage by stage.

`dvc repro --pull` copies all of it first, at each call, and `dvc push --run-cache` all of it the other way: what
anybody ever built, so that the cost of one stage grows with the number of all. Here a stage's own entries are fetched
when DVC looks for them, and pushed with what they name. DVC's private names for the run-cache are in here alone.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

_NAME = re.compile(r"[0-9a-f]{64}")


class SharedCache:
    """The run-cache in the default remote.

    Args:
        task: for DVC's messages.

    Raises:
        DvcException: there is none, or it is of a kind that holds no run-cache.
    """

    def __init__(self, repo: Repo, task: str):
        from dvc.config import RemoteConfigError
        from dvc.fs import HTTPFileSystem
        from dvc.stage.cache import RunCacheNotSupported
        from dvc_objects.fs.errors import AuthError, ConfigError, RemoteMissingDepsError

        try:
            self._remote = repo.cloud.get_remote_odb(None, task, hash_name="md5-dos2unix")
        # one whose versions the store itself keeps, or that DVC's package is missing for
        except (RemoteConfigError, AuthError, ConfigError, RemoteMissingDepsError) as error:
            raise RunCacheNotSupported(error) from error
        if isinstance(self._remote.fs, HTTPFileSystem):
            raise RunCacheNotSupported(f"there is no run-cache over http: {self._remote.path}")
        self._data = repo.cloud.get_remote_odb(None, task)
        self._cache, self._here = repo.stage_cache, repo.cache.legacy

    def entry(self, folder: Path) -> str | None:
        """The name of the entry that the remote has for one key, None for none. Of two that were pushed in one moment
        all take the same. folder: of the local ones."""
        there, fs = self._there(folder), self._remote.fs
        found = map(fs.name, fs.find(there)) if fs.exists(there) else ()
        return min((name for name in found if _NAME.fullmatch(name)), default=None)  # not what is being written

    def fetch(self, folder: Path) -> None:
        """Brings that for one key here, as the newest that there is."""
        from dvc.fs import generic

        if (name := self.entry(folder)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = self._there(folder, name)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                generic.copy(self._remote.fs, path, self._here.fs, str(folder / name))

    def push(self, stage: Stage) -> bool:
        """Puts a stage's entry there, where it may have one; returns whether there is another one for its inputs."""
        from dvc.exceptions import DvcException
        from dvc.fs import generic
        from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        if not _can_hash(stage):
            return False
        folder = Path(self._cache._get_cache_dir(_get_stage_hash(stage)))
        taken, value = self.entry(folder), _get_cache_hash(to_single_stage_lockfile(stage))
        if taken not in (None, value) and not self._is_whole(folder, taken, stage):
            there = self._there(folder, taken)
            with contextlib.suppress(FileNotFoundError):
                self._remote.fs.rm_file(there)
            if self.entry(folder) == taken:
                raise DvcException(f"{there} names files that are gone, and cannot be removed")
            taken = self.entry(folder)
        if taken is not None:
            return taken != value
        if (folder / value).is_file():
            there = self._there(folder, value)
            generic.copy(self._here.fs, str(folder / value), self._remote.fs, there)
        return False

    def _is_whole(self, folder: Path, name: str, stage: Stage) -> bool:
        """Whether what an entry names is there, which `dvc gc --cloud` may have removed."""
        try:
            told = yaml.safe_load(self._remote.fs.read_text(self._there(folder, name)))
            outs = {out["path"]: out for out in told["outs"]}
        except (FileNotFoundError, yaml.YAMLError, KeyError, TypeError):  # removed meanwhile, or cut short
            return False
        for one in stage.outs:
            if one.use_cache and one.can_push and not one.remote:
                out = outs[one.def_path]
                of = self._data if out.get("hash") else self._remote
                try:
                    of.fs.info(of.oid_to_path(out["md5"]))
                except FileNotFoundError:
                    return False
        return True

    def _there(self, folder: Path, *name: str) -> str:
        return str(self._remote.fs.join(self._remote.path, *folder.relative_to(self._here.path).parts, *name))


def fetch_by_stage() -> None:
    """From now on DVC fetches, in this process, of the run-cache what each stage asks for, in place of all of it; and
    asks it too where the data that dvc.lock names are nowhere, of which it says else that there are none. One that has
    other names for it goes on as it does."""
    from dvc.stage import cache as of_dvc

    known = {
        "pull": ["self", "remote", "odb"],
        "restore": ["self", "stage", "run_cache", "pull", "dry"],
        "_load": ["self", "stage"],
        "_get_cache_dir": ["self", "key"],
    }
    found = {name: getattr(of_dvc.StageCache, name, None) for name in known}
    if {name: [*inspect.signature(one).parameters] for name, one in found.items() if one} != known:
        return
    asked: set[int] = set()
    load, key, restore = of_dvc.StageCache._load, of_dvc._get_stage_hash, of_dvc.StageCache.restore

    def pull(cache: Any, remote: str | None, odb: Any = None) -> list[tuple[str, str]]:
        cache.shared = SharedCache(cache.repo, "fetch --run-cache")
        return []

    def fetched(cache: Any, stage: Stage) -> Any:
        if (shared := getattr(cache, "shared", None)) is not None:
            asked.add(id(stage))
            shared.fetch(Path(cache._get_cache_dir(key(stage))))
        return load(cache, stage)

    def restored(cache: Any, stage: Stage, run_cache: bool = True, pull: bool = False, dry: bool = False) -> None:
        asked.discard(id(stage))
        try:
            restore(cache, stage, run_cache, pull, dry)
        except of_dvc.RunCacheNotFoundError:
            outs = [(out, out.hash_info) for out in stage.outs]
            if not run_cache or getattr(cache, "shared", None) is None or id(stage) in asked:
                raise
            for out, _ in outs:
                out.hash_info = type(out.hash_info)()  # as if dvc.lock named none
            try:
                restore(cache, stage, run_cache, pull, dry)
            finally:
                for out, told in outs:
                    out.hash_info = out.hash_info or told

    of_dvc.StageCache.pull = pull  # type: ignore[method-assign]
    of_dvc.StageCache.restore = restored  # type: ignore[method-assign]
    of_dvc.StageCache._load = fetched  # type: ignore[method-assign]
