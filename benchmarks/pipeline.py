"""A cold `dvc repro` of one engine beside one plain process that does the same steps, checks and comparisons.

The plain process runs the same functions in a row, without DVC and without starting anything: what it saves is DVC
itself and the imports that every stage repeats. Both start from an empty build/ and an empty cache, in turn, after one
warm-up of the file cache; `python -m benchmarks.pipeline [--runs N] [MODEL ...]`.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
MODEL_STAGES = ("check", "torchscript", "export", "simplify", "calibrate")
ENGINE_STAGES = ("quantize", "engine", "verify")
PLAIN = f"""
import importlib, pathlib, sys
from qntz.compose import compose
from stages import entry
compose(pathlib.Path.cwd())
model, engine = sys.argv[1:]
for stage in {MODEL_STAGES} + {ENGINE_STAGES} + ("report",):
    job = entry.job_of(stage, engine if stage in {ENGINE_STAGES} else model)
    importlib.import_module(f"stages.{{stage}}").work(job)
"""


@dataclass(frozen=True)
class Cost:
    cpu: float
    wall: float


def project(folder: Path, model: str) -> None:
    """The repository's sources with one engine in int8, in a git repository of its own."""
    for name in ("conf", "stages", "plugins", "examples", "qntz", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    # without labelled data the gate is SQNR and agreement, which mean nothing where the weights are noise
    tolerance = "" if model == "digits" else ", tolerance: {sqnr_db: 0, agreement: 0}"
    both = f"quantize: {{use: int8{tolerance}}}, verify: {{{tolerance.removeprefix(', ')}}}"
    (folder / "params.yaml").write_text(f"models: {{{model}: {{}}}}\nengines: {{engine: {{model: {model}, {both}}}}}\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def measured(command: list[str], folder: Path) -> Cost:
    """CPU and wall seconds of a command and all that it starts, from an empty build/ and an empty cache."""
    for name in ("build", ".dvc/cache", ".dvc/tmp", "dvc.lock"):
        path = folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True) if not path.is_dir() else None
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)[:80]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["digits", "resnet50"])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    table = Table(title=f"int8 engine, cold, median of {arguments.runs} runs in turn")
    for column in ("model", "", "CPU s", "wall s", "CPU ratio", "wall ratio"):
        table.add_column(column, justify="left" if column in ("model", "") else "right")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            project(folder, model)
            commands = {
                "dvc repro": ["dvc", "repro"],
                "one process": [sys.executable, "-c", PLAIN, model, "engine"],
            }
            costs: dict[str, list[Cost]] = {name: [] for name in commands}
            measured(commands["one process"], folder)  # warm-up
            for _ in range(arguments.runs):
                for name, command in commands.items():
                    costs[name].append(measured(command, folder))
        cpu = {name: statistics.median(c.cpu for c in given) for name, given in costs.items()}
        wall = {name: statistics.median(c.wall for c in given) for name, given in costs.items()}
        pairs = list(zip(*costs.values(), strict=True))
        ratios = [f"{statistics.median(getattr(a, k) / getattr(b, k) for a, b in pairs):.2f}" for k in ("cpu", "wall")]
        for name in commands:
            shown = ratios if name == "dvc repro" else ["", ""]
            table.add_row(model, name, f"{cpu[name]:.1f}", f"{wall[name]:.1f}", *shown)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
