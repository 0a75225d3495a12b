"""What stages made, into DVC's remote: `python -m qntz.fleet.results STAGE ... -- STAGE ...`, those before the dashes
as the first that made it.

`dvc push --run-cache` writes the run-cache first and all of it, so that a push that ends early leaves entries without
their files, of which other machines find nothing. Here files come first, and then the entries of these stages alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from qntz.errors import one_line
from qntz.fleet.way import may_be_there_again
from qntz.parent import end_with

TAKEN = 75  # exit code: another result is there
TRIES, FIRST_WAIT = 5, 1.0  # seconds before the second one, twice as long before each further one


class TakenError(Exception):
    """Another worker has pushed another result for the same inputs: an engine is not the same bytes twice."""


def push(made: Sequence[str], kept: Sequence[str] = ()) -> None:
    """Pushes files and run-cache entries of stages, as DVC names them, of the project in the working directory; raises
    what DVC does, and at the end TakenError for one that was made of which there is another: the first result is
    everybody's.

    Args:
        kept: stages of which there may be another: who needs these has them by dvc.lock.
    """
    from dvc.repo import Repo

    from qntz.repro.run_cache import SharedCache

    with Repo() as repo:
        shared = SharedCache(repo, "push --run-cache")
        repo.push(targets=[*made, *kept])
        with repo.lock:
            taken = [one for one in (*made, *kept) if shared.push(next(iter(repo.stage.collect(one))))]
    if first := next((one for one in taken if one in made), None):
        raise TakenError(first)


def push_apart(root: Path, made: Sequence[str], kept: Sequence[str] = ()) -> tuple[int, str]:
    """As `push`, in a process of its own, which ends with this one, and again where the way may be there in a moment;
    returns its exit code and what it said."""
    this, wait = os.getpid(), FIRST_WAIT
    for number in range(TRIES):
        if number:
            time.sleep(wait)
            wait *= 2
        done = subprocess.run(
            [sys.executable, "-m", "qntz.fleet.results", *made, "--", *kept],
            cwd=root,
            check=False,
            capture_output=True,
            text=True,
            preexec_fn=lambda: end_with(this),
        )
        said = done.stdout + done.stderr or f"exit code {done.returncode}"
        if done.returncode in (0, TAKEN) or not may_be_there_again(said):
            break
    return done.returncode, said


def main() -> int:
    split = sys.argv.index("--")
    if sys.path[0] == os.getcwd():  # that of `python -m`: nothing of the project is to stand in for a module of DVC
        del sys.path[0]
    try:
        push(sys.argv[1:split], sys.argv[split + 1 :])
    except TakenError as error:
        print(f"ERROR: another worker has pushed {error} first", file=sys.stderr)
        return TAKEN
    except Exception as error:  # of DVC, the file system, and what speaks with the remote
        print(f"ERROR: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
