"""What stages made, into DVC's remote: `python -m qntz.fleet.results STAGE ...`.

`dvc push --run-cache` writes the run-cache first and all of it, so that a push that ends early leaves entries without
their files, of which other machines find nothing. Here files come first, and then the entries of these stages alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

TAKEN = 75  # exit code: another result is there


class TakenError(Exception):
    """Another worker has pushed another result for the same inputs: an engine is not the same bytes twice."""


def push(root: Path, targets: Sequence[str]) -> None:
    """Pushes files and run-cache entries of stages, as DVC names them; raises what DVC does, and at the end TakenError
    for one of which there is another: the first result is everybody's."""
    from dvc.repo import Repo

    from qntz.repro.run_cache import SharedCache

    with Repo(str(root)) as repo:
        shared = SharedCache(repo, "push --run-cache")
        repo.push(targets=list(targets))
        with repo.lock:
            taken = [target for target in targets if shared.push(next(iter(repo.stage.collect(target))))]
    if taken:
        raise TakenError(taken[0])


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
