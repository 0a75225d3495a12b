"""What stages made, into DVC's remote: `python -m qntz.fleet.results STAGE ...`.

`dvc push --run-cache` writes the run-cache first and all of it, so that a push that ends early leaves entries without
their files, of which other machines find nothing, and its cost grows with all that was ever built. Here files come
first, and then the entries of these stages alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def push(root: Path, targets: Sequence[str]) -> None:
    """Pushes files and run-cache entries of stages, as DVC names them; raises what DVC does."""
    from dvc.fs import generic
    from dvc.repo import Repo
    from dvc.stage.cache import _can_hash, _get_stage_hash

    with Repo(str(root)) as repo:
        repo.push(targets=list(targets))
        with repo.lock:
            remote, here = repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix"), repo.cache.legacy
            for target in targets:
                stage = next(iter(repo.stage.collect(target)))
                if not _can_hash(stage):
                    continue
                folder = Path(repo.stage_cache._get_cache_dir(_get_stage_hash(stage)))
                for entry in sorted(folder.glob("*")):
                    if not entry.suffix:  # DVC writes them under another name first
                        to = remote.fs.join(remote.path, *entry.relative_to(here.path).parts)
                        generic.copy(here.fs, str(entry), remote.fs, to)


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
