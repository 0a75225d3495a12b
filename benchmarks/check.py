"""The rule check beside one eager forward and beside torch.export.draft_export, in one process.

The static part is what is read and compiled without running the model: the reached source, the flow of values through
it, and what torch.jit.script refuses; the rest are runs and traces. An eager forward is the mean of those on the inputs
that the check has. Times are CPU seconds of all threads, the
least of the runs; `python -m benchmarks.check [--runs N] [MODEL ...]`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from qntz.check import check_model
from qntz.check.flow import flows
from qntz.check.index import SourceIndex, own_packages
from qntz.check.observe import Observer
from qntz.check.scripted import refusals
from qntz.check.source import Sources
from qntz.config import granted
from qntz.hydra_compose import compose_entry
from qntz.model import in_order, load_model
from qntz.plugins import load
from qntz.probes import probes_for

ROOT = Path(__file__).parent.parent
MODELS = ("digits", "resnet50", "bert_base")
AIM = "ten eager forwards and two seconds"


def configured(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A model of conf/ with its example and probes."""
    composed = compose_entry(ROOT / "conf", {"model": name}, [], {})
    config = granted("check", {**composed, "inputs": {}})
    model = config.model
    module = load_model(model.factory, model.weights, model.torchscript or model.program, ROOT, model.trusted)
    probes = probes_for(config.model.probes, config.model.inputs, config.model.dims, ROOT)
    order = in_order(module, list(config.model.inputs))
    example, *further = [{name: torch.from_numpy(probe[name]) for name in order} for probe in probes]
    return module, example, further


def seconds(work: Callable[[], Any], runs: int) -> tuple[float, float]:
    """The least CPU seconds and the least wall seconds of several runs."""
    cpu, wall = [], []
    for _ in range(runs):
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        work()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        wall.append(time.perf_counter() - started)
    return min(cpu), min(wall)


def measured(name: str, runs: int) -> list[str]:
    module, example, probes = configured(name)
    inputs = tuple(example.values())
    rules = list(load(ROOT, "check").records("qntz_rules").values())

    def forward() -> None:
        with torch.no_grad():
            for given in (example, *probes):
                module(*given.values())

    def static() -> None:
        refusals(module, index, everything=False)
        flows(index, observer.log.marks())

    def draft() -> None:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            torch.export.draft_export(module, inputs)

    forward()
    eager, _ = seconds(forward, max(runs, 3))
    eager /= len(probes) + 1
    index = SourceIndex(module, Sources(ROOT), own_packages(module))
    observer = Observer(module, [example, *probes], index)
    observer.observe()
    reading, _ = seconds(static, runs)
    whole, wall = seconds(lambda: check_model(module, example, probes, source_root=ROOT, rules=rules), runs)
    try:
        drafted = f"{seconds(draft, runs)[0]:.2f}"
    except Exception as error:  # it refuses some models: that is its answer
        drafted = type(error).__name__
    return [
        name,
        str(len(probes) + 1),
        f"{eager:.3f}",
        f"{reading:.2f}",
        f"{whole:.2f}",
        f"{wall:.2f}",
        drafted,
        f"{whole / eager:.1f}",
        f"{max(whole - 2, 0) / eager:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table = Table(title=f"The rule check, CPU seconds; aim: at most {AIM}")
    heads = (
        "model",
        "inputs",
        "eager forward",
        "static",
        "whole",
        "whole, wall",
        "draft_export",
        "ratio",
        "beyond 2 s",
    )
    for head in heads:
        table.add_column(head, justify="left" if head == "model" else "right")
    for name in options.models:
        table.add_row(*measured(name, options.runs))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
