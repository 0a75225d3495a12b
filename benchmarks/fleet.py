"""Many models: what DVC costs beside the stages' own work, as the set grows, one after the other and side by side.

The models are one small trained net under many names, each with three engines. Each run is cold, then without a change,
then with one model changed: by plain `dvc repro` with all stages in one pipeline and with one for each model, and by
`qntz repro -j 2`. What the stages themselves take is measured in the runs by `dvc repro`, by the shell that DVC starts
them with; `qntz repro -j` starts them warm, and has none.
`python -m benchmarks.fleet [--models 5,20,100] [--ways one,split,side] [--jobs 2]`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.engines import measured
from benchmarks.pipeline import project
from qntz.repro.ending import take_in_orphans

MODEL, KINDS = "digits", ("fp32", "fp16", "int8")
WAYS = {
    "one": ("dvc repro, one pipeline", ["dvc", "repro"]),
    "split": ("dvc repro, one for each", ["dvc", "repro"]),
    "side": ("qntz repro -j {jobs}", [sys.executable, "-m", "qntz.cli", "repro", "-j", "{jobs}"]),
}
SHELL = """#!{python}
import fcntl, os, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(["/bin/sh", *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open({record!r}, "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"{{used.ru_utime + used.ru_stime}} {{time.perf_counter() - start}}\\n")
sys.exit(code)
"""


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds of a run with all that it started, how many stages ran, and of the seconds those of the
    stages themselves, where they were measured."""

    cpu: float
    wall: float
    ran: int
    stages: tuple[float, float] | None

    def shown(self, every: int) -> list[str]:
        """The columns of the table. every: stages that there are."""
        told = [str(self.ran), f"{self.cpu:.1f} / {self.wall:.1f}"]
        if self.stages is None:
            return [*told, "", "", ""]
        beside = self.cpu - self.stages[0]
        return [*told, "{:.1f} / {:.1f}".format(*self.stages), f"{beside:.1f}", f"{beside / every:.4f}"]


def generated(folder: Path, count: int) -> None:
    """A project with so many models."""
    project(folder, MODEL)
    names = [f"m{index:03}" for index in range(count)]
    entries = {
        "models": {name: {"use": MODEL} for name in names},
        "engines": {f"{name}-{kind}": {"model": name, "quantize": {"use": kind}} for name in names for kind in KINDS},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))


def seconds_of_children() -> float:
    """The CPU seconds of all that has been started here, also of what its own parent did not wait for."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cost(command: list[str], folder: Path, by_shell: bool) -> Cost:
    """That of a command, which must succeed. by_shell: with one that takes down what each stage takes."""
    record = folder / ".dvc/tmp/stages.txt"
    record.parent.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    logs = folder / ".dvc/tmp/qntz-repro"
    shutil.rmtree(logs, ignore_errors=True)
    shell = folder / ".dvc/tmp/shell"
    shell.write_text(SHELL.format(python=sys.executable, record=str(record)))
    shell.chmod(0o755)
    before = seconds_of_children()
    run, said = measured(command, folder, **({"SHELL": str(shell)} if by_shell else {}))
    cpu = seconds_of_children() - before
    said += "".join(log.read_text() for log in logs.glob("*.log"))
    ran = len(re.findall(r"^Running stage '", said, re.MULTILINE))
    lines = [tuple(map(float, line.split())) for line in record.read_text().splitlines()] if record.exists() else []
    own = (sum(one for one, _ in lines), sum(one for _, one in lines)) if by_shell else None
    return Cost(cpu, run.wall, ran, own)


def emptied(folder: Path) -> None:
    for name in ("build", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for lock in (folder / "dvc.lock", *folder.glob("pipelines/*/dvc.lock")):
        lock.unlink(missing_ok=True)


def runs(folder: Path, command: list[str], count: int, by_shell: bool) -> dict[str, Cost]:
    """Cold, nothing changed, and one model changed."""
    params = folder / "params.yaml"
    kept = params.read_text()
    emptied(folder)
    found = {"cold": cost(command, folder, by_shell)}
    if found["cold"].ran < count * (6 + 3 * len(KINDS)):
        sys.exit(f"{found['cold'].ran} stages ran, which are too few")
    time.sleep(2.1)  # what is younger than two seconds is not remembered
    cost(command, folder, by_shell)
    found["nothing changed"] = cost(command, folder, by_shell)
    changed = kept.replace("use: int8", "use: int8\n      method: entropy", 1)
    if changed == kept:
        sys.exit("params.yaml is not as it was thought to be")
    params.write_text(changed)
    found["one model changed"] = cost(command, folder, by_shell)
    params.write_text(kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="5,20,100")
    parser.add_argument("--ways", default="split,side")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    console = Console(width=130)
    take_in_orphans()
    with tempfile.TemporaryDirectory() as temporary:
        for count in map(int, options.models.split(",")):
            table = Table(title=f"{count} models with {len(KINDS)} engines each: CPU / wall seconds")
            for head in ("", "run", "stages ran", "whole", "the stages' own", "beside", "a stage"):
                table.add_column(head, justify="left" if head in ("", "run") else "right")
            for way in options.ways.split(","):
                folder = Path(temporary).resolve() / f"{way}-{count}"
                folder.mkdir()
                generated(folder, count)
                name, command = WAYS[way]
                if way != "one":
                    measured([sys.executable, "-m", "qntz.cli", "pipelines", "--split"], folder)
                command = [part.format(jobs=options.jobs) for part in command]
                every = count * (6 + 3 * len(KINDS)) + 1
                for run, told in runs(folder, command, count, by_shell=way != "side").items():
                    named = name.format(jobs=options.jobs) if run == "cold" else ""
                    table.add_row(named, run, *told.shown(every))
                shutil.rmtree(folder)
            console.print(table)


if __name__ == "__main__":
    main()
