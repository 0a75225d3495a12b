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
        self._cache, self._here = repo.stage_cache, repo.cache.legacy

    def values(self, folder: Path) -> dict[str, str]:
        """The paths of the entries that the remote has for one key, by their names. folder: of the local ones."""
        there, fs = self._there(folder), self._remote.fs
        found = {fs.name(path): path for path in fs.find(there)} if fs.exists(there) else {}
        return {name: path for name, path in found.items() if _NAME.fullmatch(name)}  # not what is being written

    def fetch(self, folder: Path) -> None:
        """Brings those for one key here."""
        from dvc.fs import generic

        for name, path in self.values(folder).items():
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                generic.copy(self._remote.fs, path, self._here.fs, str(folder / name))

    def push(self, stage: Stage) -> bool:
        """Puts a stage's entry there, where it may have one; returns whether there is another one for its inputs."""
        from dvc.fs import generic
        from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        if not _can_hash(stage):
            return False
        folder = Path(self._cache._get_cache_dir(_get_stage_hash(stage)))
        taken, value = {*self.values(folder)}, _get_cache_hash(to_single_stage_lockfile(stage))
        if taken - {value}:
            return True
        if value not in taken and (folder / value).is_file():
            there = self._remote.fs.join(self._there(folder), value)
            generic.copy(self._here.fs, str(folder / value), self._remote.fs, there)
        return False

    def _there(self, folder: Path) -> str:
        return str(self._remote.fs.join(self._remote.path, *folder.relative_to(self._here.path).parts))


def fetch_by_stage() -> None:
    """From now on DVC fetches, in this process, of the run-cache what each stage asks for, in place of all of it. One
    that has other names for it goes on as it does."""
    from dvc.stage import cache as of_dvc

    known = {"pull": ["self", "remote", "odb"], "_load": ["self", "stage"], "_get_cache_dir": ["self", "key"]}
    found = {name: getattr(of_dvc.StageCache, name, None) for name in known}
    if {name: [*inspect.signature(one).parameters] for name, one in found.items() if one} != known:
        return
    load, key = of_dvc.StageCache._load, of_dvc._get_stage_hash

    def pull(cache: Any, remote: str | None, odb: Any = None) -> list[tuple[str, str]]:
        cache.shared = SharedCache(cache.repo, "fetch --run-cache")
        return []

    def fetched(cache: Any, stage: Stage) -> Any:
        if (shared := getattr(cache, "shared", None)) is not None:
            shared.fetch(Path(cache._get_cache_dir(key(stage))))
        return load(cache, stage)

    of_dvc.StageCache.pull, of_dvc.StageCache._load = pull, fetched  # type: ignore[method-assign]
