"""Engines of the pipeline beside those of a bare builder script, on the same graph and with the same options.

Two things are compared, in turn, and told as medians. The builder: our backend's `build`, its look at the graph
included, beside the calls that a script makes, both from where TensorRT and ONNX are loaded. The process:
`python -m stages.engine`, as dvc.yaml starts it, beside the whole script; a stage imports ONNX and the plugins besides,
and digests what it reads and writes.
`python -m benchmarks.engines [--runs N] [MODEL ...]`; the default is every model of conf/model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import ROOT, project

PRECISIONS = ("fp32", "fp16", "int8")
MODELS = ("digits", "rows", "early_exit", "resnet50", "vit_base", "bert_base")
TRAINED = ("digits", "rows", "early_exit")
BARE = str(Path(__file__).parent / "engines_bare.py")
OURS = """
import json, sys, time
from qntz.config import tensor_specs
from qntz.engine import choose_backend
from qntz.progress import Silent
from stages.entry import job_of
job = job_of("engine", sys.argv[1])
config, model = job.config.engine, job.config.model
backend = choose_backend(config.backend, job.plugins.records("qntz_backends"))
backend.version()
specs = tensor_specs(model.inputs, model.dims, config.profiles_of(model.dims))
cpu, wall = time.process_time(), time.perf_counter()
backend.build(job.paths.quantized, specs, config, Silent())
print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))
"""


@dataclass(frozen=True)
class Run:
    """Seconds of a builder, or of a process and all that it starts."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Compared:
    """Of one engine: bytes and runs, ours and the bare ones."""

    bytes: tuple[int, int]
    builder: tuple[list[Run], list[Run]]
    process: tuple[list[Run], list[Run]]


def prepared(folder: Path, model: str) -> dict[str, Path]:
    """A project whose engines of the model are made up to quantized.onnx; their folders by name."""
    project(folder, model)
    own = yaml.safe_load((ROOT / "params.yaml").read_text())["models"].get(model) or {}
    # weights drawn by chance hold no figure
    loose = {} if model in TRAINED else {"tolerance": {"sqnr_db": 0, "agreement": 0}}
    engines = {f"{model}-{kind}": {"model": model, "quantize": {"use": kind, **loose}} for kind in PRECISIONS}
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": {model: own}, "engines": engines}))
    done = run(["dvc", "repro", *(f"quantize@{name}" for name in engines)], folder)
    if done.returncode:
        sys.exit(f"{model} is not prepared:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {name: folder / "build/models" / model / "engines" / name for name in engines}


def run(command: list[str], folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **extra}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def measured(command: list[str], folder: Path, **extra: str) -> tuple[Run, str]:
    """What a command and all that it starts took, and what it printed; ends the program where it fails.

    Args:
        extra: set in its environment.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = run(command, folder, **extra)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:80]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Run(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall), done.stdout


def settings_of(record: dict[str, Any]) -> str:
    """What the bare script is given: the shape ranges of dynamic inputs, and the capabilities, of an engine.json."""
    dynamic = [one for one in record["inputs"] if one["min"] != one["max"]]
    inputs = [[one["name"], one["min"], one["opt"], one["max"]] for one in dynamic]
    return json.dumps({"inputs": inputs, "capabilities": record["options"]["compute_capabilities"]})


def compared(folder: Path, name: str, files: Path, runs: int) -> Compared | None:
    """Both builds in turn, after one of each that warms the file cache; None where ours is refused, whose words,
    with the table of nodes, are printed."""
    stage, plan = [sys.executable, "-m", "stages.engine", name], folder / "bare.engine"
    first = run(stage, folder)
    if first.returncode:
        print(first.stderr.rstrip())
        return None
    record = json.loads((files / "engine.json").read_text())
    bare = [sys.executable, BARE, str(files / "quantized.onnx"), str(plan), settings_of(record)]
    ours = [sys.executable, "-c", OURS, name]
    measured(bare, folder)
    builder: tuple[list[Run], list[Run]] = ([], [])
    process: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(runs):
        process[0].append(measured(stage, folder)[0])
        whole, told = measured(bare, folder)
        process[1].append(whole)
        builder[1].append(Run(**json.loads(told.splitlines()[-1])))
        builder[0].append(Run(**json.loads(measured(ours, folder)[1].splitlines()[-1])))
    return Compared(((files / "model.engine").stat().st_size, plan.stat().st_size), builder, process)


def row(one: Compared) -> list[str]:
    """bytes with their ratio, then of builder and process CPU and wall seconds with theirs: the medians."""
    ours, bare = one.bytes
    cells = [f"{ours:,}", f"{bare:,}", f"{ours / bare:.3f}"]
    for mine, theirs in (one.builder, one.process):
        for kind in ("cpu", "wall"):
            a, b = (statistics.median(getattr(run, kind) for run in given) for given in (mine, theirs))
            cells.append(f"{a:.2f} / {b:.2f} = {a / b:.2f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    table = Table(
        title=f"engines beside a bare script's: ours / bare = ratio, medians of {arguments.runs} runs in turn"
    )
    heads = ("engine", "bytes", "bare", "ratio", "builder CPU s", "builder wall s", "process CPU s", "process wall s")
    for head in heads:
        table.add_column(head, justify="left" if head == "engine" else "right", no_wrap=True)
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary).resolve()
            for name, files in prepared(folder, model).items():
                one = compared(folder, name, files, arguments.runs)
                table.add_row(name, *(["refused"] if one is None else row(one)))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
