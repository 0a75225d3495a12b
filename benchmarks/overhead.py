"""What a `dvc repro` costs in which nothing changed: seconds of compose, of DVC, and of both, as the set grows.

The models are copies of one small model, each with two engines, whose artifacts and entries of dvc.lock are copied too:
building a hundred would take hours and change nothing of this. `dvc repro` itself then says that nothing is left to do.
`python -m benchmarks.overhead [--models 1,10,30,100] [--runs N]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.engines import measured
from benchmarks.pipeline import project

MODEL, KINDS = "digits", ("fp16", "int8")
COMPOSE = "import gc, pathlib, stages.compose as s; gc.disable(); raise SystemExit(s.main())"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def entries(names: list[str]) -> dict[str, Any]:
    return {
        "models": {name: {"use": MODEL} for name in names},
        "engines": {f"{name}-{kind}": {"model": name, "quantize": {"use": kind}} for name in names for kind in KINDS},
    }


def built(folder: Path) -> None:
    """A project with one model, built."""
    project(folder, MODEL)
    (folder / "params.yaml").write_text(yaml.safe_dump(entries(["m0"])))
    measured(["dvc", "repro"], folder)


def multiplied(one: Path, folder: Path, count: int) -> None:
    """A copy of a built project with so many models, all of them up to date."""
    shutil.copytree(one, folder, symlinks=True)
    names = [f"m{index}" for index in range(count)]
    (folder / "params.yaml").write_text(yaml.dump(entries(names), Dumper=_Dumper, sort_keys=False))
    measured([sys.executable, "-m", "stages.compose"], folder)
    for name in names[1:]:
        shutil.copytree(one / "build/models/m0", folder / "build/models" / name)
        for path in sorted((folder / "build/models" / name).rglob("m0-*")):
            path.rename(path.with_name(path.name.replace("m0-", f"{name}-")))
        for path in (one / "build/reports").iterdir():
            shutil.copy(path, folder / "build/reports" / path.name.replace("m0", name))
    lock = yaml.load((one / "dvc.lock").read_text(), Loader=_Loader)
    stages = {"compose": lock["stages"]["compose"]}
    for name in names:
        for stage, told in lock["stages"].items():
            if stage != "compose":
                text = json.dumps({stage: told}).replace("m0", name)
                stages |= _with_folders(json.loads(text), folder)
    lock["stages"] = stages
    (folder / "dvc.lock").write_text(yaml.dump(lock, Dumper=_Dumper, sort_keys=False))


def _with_folders(stage: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A stage of dvc.lock, with the digest of each folder whose files have other names now, as DVC digests it."""
    for told in stage.values():
        for entry in told.get("deps", ()):
            if entry["md5"].endswith(".dir"):
                base = folder / entry["path"]
                files = sorted((p for p in base.rglob("*") if p.is_file()), key=lambda p: p.relative_to(base).parts)
                listed = [
                    {"md5": hashlib.md5(p.read_bytes()).hexdigest(), "relpath": p.relative_to(base).as_posix()}
                    for p in files
                ]
                entry["md5"] = hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
    return stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="1,10,30,100")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    table = Table(title=f"nothing changed: CPU / wall seconds, medians of {options.runs} runs")
    for head in ("models", "engines", "stages", "compose, cold", "compose", "dvc repro", "of it compose"):
        table.add_column(head, justify="right")
    with tempfile.TemporaryDirectory() as temporary:
        one = Path(temporary).resolve() / "one"
        one.mkdir()
        built(one)
        for count in map(int, options.models.split(",")):
            folder = Path(temporary).resolve() / str(count)
            multiplied(one, folder, count)
            shutil.rmtree(folder / "build/memo")
            cold, _ = measured([sys.executable, "-c", COMPOSE], folder)
            time.sleep(2.1)  # what is younger than two seconds is not remembered
            measured([sys.executable, "-c", COMPOSE], folder)
            composed = [measured([sys.executable, "-c", COMPOSE], folder)[0] for _ in range(options.runs)]
            measured(["dvc", "repro"], folder)  # DVC remembers the digests of the copied files
            whole = []
            for _ in range(options.runs):
                cost, said = measured(["dvc", "repro"], folder)
                ran = set(re.findall(r"^Running stage '(.+)':$", said, re.MULTILINE))
                if ran != {"compose"}:
                    sys.exit(f"a stage ran that should not: {sorted(ran)[:5]}")
                whole.append(cost)
            stages = len(yaml.load((folder / "dvc.lock").read_text(), Loader=_Loader)["stages"])
            cells = [str(count), str(2 * count), str(stages), f"{cold.cpu:.2f} / {cold.wall:.2f}"]
            for costs in (composed, whole):
                cells.append(
                    " / ".join(f"{statistics.median(getattr(c, k) for c in costs):.2f}" for k in ("cpu", "wall"))
                )
            share = statistics.median(c.cpu for c in composed) / statistics.median(c.cpu for c in whole)
            table.add_row(*cells, f"{share:.0%}")
            shutil.rmtree(folder)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
