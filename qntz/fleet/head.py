"""What the head of a cluster does itself: it restores what workers made, and pushes what they need."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from qntz.artifacts import ModelPaths
from qntz.errors import ArtifactError, ConfigError, one_line
from qntz.fleet.only import REFUSED, write_shell
from qntz.fleet.results import push_apart
from qntz.fleet.way import may_be_there_again, telling
from qntz.fleet.workers import Said
from qntz.pipelines import Params
from qntz.repro.mend import state_folder
from qntz.repro.run import ended_by, run_dvc

TRIES = 4  # of a pull


class Head:
    """Of a project, in its turn.

    Args:
        held: the workspace's lock. say: takes what is to be told.
    """

    def __init__(self, root: Path, held: int, say: Callable[[str], None]):
        self.root, self._held, self._say = root, held, say

    def restore(self, targets: Sequence[str]) -> int:
        """What the cache of this machine has; returns DVC's exit code. Of models and engines it runs nothing."""
        code, text = self._repro(["--keep-going", *targets], ())
        if code and not ended_by(code):
            self._tell(text)
        return code

    def pull(self, targets: Sequence[str], own: Collection[str] = ()) -> int:
        """Returns the exit code; of models and engines it runs nothing.

        Args:
            targets: as DVC names them, none for all. own: stages that may run here.
        """
        for number in range(TRIES):
            code, text = self._repro(["--pull", *targets], own)
            gone = REFUSED.search(text)
            lines = [line for line in text.splitlines() if line.startswith(("ERROR: ", "WARNING: "))]
            again = gone or may_be_there_again("\n".join(lines))
            if code == 0 or ended_by(code) or not again or number == TRIES - 1:
                break
            time.sleep(2**number)
        if code and gone:
            do = "Run it again: what is missing is made again; or `qntz status` tells how this workspace differs."
            self._say(f"the result of {gone[1]} could not be fetched. {do}")
        elif code:
            self._tell(text)
        return code if ended_by(code) else min(code, 1)

    def _repro(self, arguments: Sequence[str], own: Collection[str]) -> tuple[int, str]:
        """The exit code of a `dvc repro`, and all that it said."""
        shell = state_folder(self.root) / "qntz-shell"
        write_shell(shell, own)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            code, _ = run_dvc(self.root, ["repro", *arguments], self._held, output=log.fileno(), SHELL=str(shell))
            log.seek(0)
            return code, log.read()

    def _tell(self, text: str) -> None:
        for line in Said.of(text).errors:
            self._say(line.removeprefix("error: ").removeprefix("ERROR: "))

    def push(self, targets: Sequence[str]) -> None:
        """What workers need of stages that they are not given; raises ConfigError where it cannot be pushed. Where
        there is another result for them, workers take this one all the same: they are sent dvc.lock."""
        code, said = push_apart(self.root, (), targets)
        if code:
            more = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
            where, do = f"{targets[0]}{more}", "See whether DVC's remote can be written: dvc push."
            raise ConfigError("workers need it, and it cannot be pushed", where=where, why=telling(said), do=do)


def remove_left(root: Path, params: Params, say: Callable[[str], None]) -> None:
    """Removes what is of engines that are in no entry any more: a report depends on all that there is of its model, and
    workers have nothing of them. Raises ArtifactError where it cannot."""
    for model in params["models"]:
        for folder in sorted((ModelPaths(root, model).folder / "engines").glob("*")):
            entry = params["engines"].get(folder.name)
            if isinstance(entry, Mapping) and entry.get("model") == model:
                continue
            try:
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
                else:
                    folder.unlink()
            except OSError as error:
                do = "Remove it, and run this again: all that was made is kept."
                raise ArtifactError("cannot be removed", where=str(folder), why=one_line(error), do=do) from error
            say(f"{folder.relative_to(root)} is of no entry: removed")
