"""DVC's cache of runs: the results of earlier ones, by command, parameters and dependencies."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

    from qntz.provenance.contents import Contents

HEAD = 200  # bytes of an entry, in which its command stands


class Runs:
    """What the cache holds of earlier runs."""

    def __init__(self, repo: Repo, contents: Contents):
        self.cache, self.contents = repo.stage_cache, contents

    def same(self, stage: Stage) -> list[Output] | None:
        """The outputs of the last run with the same inputs, where the cache holds them all."""
        entry = self.cache._load(stage)
        found = self.cache._create_stage(entry, wdir=stage.wdir) if entry else None
        return list(found.outs) if found is not None and found.outs_cached() else None

    def alike(self, stage: Stage) -> bool:
        """Whether some run had the same command and parameters: by what its dependencies come to, the stage may be
        restored from it."""
        from dvc.utils.serialize import dumps_yaml

        if not self._entries:
            return False
        head = dumps_yaml({"cmd": stage.cmd}).encode()[:HEAD]
        params = {dep.def_path: dep.hash_info.value for dep in stage.params}
        for path, start in self._entries.get(_first_line(head), ()):
            if not start.startswith(head):
                continue
            entry = self.cache._load_cache(path.parent.name, path.name)
            if entry and entry.get("params", {}) == params:
                found = self.cache._create_stage(entry, wdir=stage.wdir)
                if self.contents.may_be_cached(found.outs):
                    return True
        return False

    @functools.cached_property
    def _entries(self) -> dict[bytes, list[tuple[Path, bytes]]]:
        """The files of the cache with how each begins, by the first line of that."""
        found: dict[bytes, list[tuple[Path, bytes]]] = {}
        for path in Path(self.cache.cache_dir).glob("*/*/*"):
            with path.open("rb") as file:
                start = file.read(HEAD)
            found.setdefault(_first_line(start), []).append((path, start))
        return found


def _first_line(head: bytes) -> bytes:
    return head.partition(b"\n")[0]
