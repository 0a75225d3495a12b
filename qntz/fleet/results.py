"""What stages made, into DVC's remote: `python -m qntz.fleet.results STAGE ...`.

`dvc push --run-cache` writes the run-cache first and all of it, so that a push that ends early leaves entries without
their files, of which other machines find nothing, and its cost grows with all that was ever built. Here files come
first, and then the entries of these stages alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

TAKEN = 75  # exit code: another result is there


class TakenError(Exception):
    """Another worker has pushed another result for the same inputs: an engine is not the same bytes twice."""


def push(root: Path, targets: Sequence[str]) -> None:
    """Pushes files and run-cache entries of stages, as DVC names them; raises what DVC does, and TakenError: the first
    result is everybody's."""
    from dvc.fs import generic
    from dvc.repo import Repo
    from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    with Repo(str(root)) as repo:
        repo.push(targets=list(targets))
        with repo.lock:
            remote, here = repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix"), repo.cache.legacy
            for target in targets:
                stage = next(iter(repo.stage.collect(target)))
                if not _can_hash(stage):
                    continue
                folder = Path(repo.stage_cache._get_cache_dir(_get_stage_hash(stage)))
                there = remote.fs.join(remote.path, *folder.relative_to(here.path).parts)
                taken = {remote.fs.name(path) for path in remote.fs.find(there)} if remote.fs.exists(there) else set()
                value = _get_cache_hash(to_single_stage_lockfile(stage))
                if taken - {value}:
                    raise TakenError(target)
                if value not in taken and (folder / value).is_file():
                    generic.copy(here.fs, str(folder / value), remote.fs, remote.fs.join(there, value))


def main() -> int:
    from dvc.exceptions import DvcException

    try:
        push(Path.cwd(), sys.argv[1:])
    except DvcException as error:
        print(f"ERROR: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except TakenError as error:
        print(f"ERROR: another worker has pushed {error} first", file=sys.stderr)
        return TAKEN
    return 0


if __name__ == "__main__":
    sys.exit(main())
