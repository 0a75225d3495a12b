"""`make soak`: SIGKILL at random moments of `dvc repro` over the default set, and the same digests in the end.

Each run is killed after a time drawn at random; the next one goes on from there. A run that comes to its end is compared
with an undisturbed build, and all of its results are thrown away, DVC's cache included, so that the kills go on falling
into work. Nothing may be left behind that still writes, and nothing half written.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qntz.repro.mend import mend
from tests.pipeline.conftest import Project, new_project
from tests.pipeline.test_kill import ELSEWHERE, require_no_orphan

LONGEST = 14.0  # seconds until a kill, at most: a stage takes 1 to 6
RUNNING = re.compile(r"^(?:Running stage|Stage) '(?P<stage>[^'@]+)", re.MULTILINE)


@dataclass
class Soaked:
    """What became of the kills.

    Attributes:
        fell: how many fell while a stage of each kind was the last that DVC had named; "" before the first.
        whole: runs that came to their end, each compared with the undisturbed build. mended: times that DVC's own files
            were cut off. differences: artifacts whose digests were others than those of the undisturbed build.
    """

    fell: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    mended: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.fell.total()


def soak(project: Project, wanted: dict[str, str], kills: int, seed: int) -> Soaked:
    """Kills runs in a project until there are so many; `wanted` are the digests of an undisturbed build."""
    moments, soaked = random.Random(seed), Soaked()
    log = project.path.parent / "log"
    while soaked.kills < kills:
        with log.open("w") as out:
            running = subprocess.Popen(
                ["dvc", "repro"],
                cwd=project.path,
                env=project.env({"PYTHONUNBUFFERED": "1"}),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            try:
                running.wait(moments.uniform(0, LONGEST))
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                named = RUNNING.findall(log.read_text())
                soaked.fell[named[-1] if named else ""] += 1
        require_no_orphan(project.path)
        soaked.mended += bool(mend(project.path))  # as `qntz repro` does
        if running.returncode == 0:
            _compare(project, wanted, soaked)
            _forget(project)
        elif running.returncode > 0:
            raise AssertionError(f"a run failed:\n{log.read_text()[-3000:]}")
    project.repro()
    _compare(project, wanted, soaked)
    return soaked


def _compare(project: Project, wanted: dict[str, str], soaked: Soaked) -> None:
    soaked.whole += 1
    found = project.digests()
    soaked.differences += [
        f"{name}: {found.get(name)} in place of {wanted.get(name)}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
    soaked.differences += [f"{path}: left behind" for path in (project.path / "build").rglob("*.tmp")]
    soaked.differences += [
        f"{path}: empty" for path in project.path.rglob("build/models/**/*.engine") if not path.stat().st_size
    ]


def _forget(project: Project) -> None:
    for name in ("build", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project.path / name, ignore_errors=True)
    (project.path / "dvc.lock").unlink(missing_ok=True)


def tabled(soaked: Soaked) -> Table:
    table = Table(title=f"{soaked.kills} kills, by the stage that DVC had named last")
    table.add_column("stage")
    table.add_column("kills", justify="right")
    for stage, count in soaked.fell.most_common():
        table.add_row(stage or "none yet", str(count))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed = new_project(Path(temporary).resolve() / "undisturbed")
        undisturbed.repro()
        project = new_project(Path(temporary).resolve() / "killed" / "project", **ELSEWHERE)
        soaked = soak(project, undisturbed.digests(), options.kills, options.seed)
    Console(width=100).print(tabled(soaked))
    print("\n".join(soaked.differences))
    print(
        f"{soaked.whole} whole runs compared, {len(soaked.differences)} differences; DVC's files mended "
        f"{soaked.mended} times; {time.monotonic() - started:.0f} s"
    )
    return 1 if soaked.differences else 0


if __name__ == "__main__":
    sys.exit(main())
