"""Capture by `auto` beside torch's own ways from a model to ONNX, over corpora of hazardous and of good models.

The plain ways are torch.onnx.export of a trace, of a script and of torch.export, each with the sizes dynamic that
differ between the example and the probes. Each result is run under ONNX Runtime on the example, the probes, and inputs
that no way was given, and is right, wrong (other numbers, or it refuses what eager takes) or refused (nothing was
exported). "best plain" is right where any plain way is: what one would have who could tell.
`python -m benchmarks.routes [--list] [FOLDER ...]`.
"""

from __future__ import annotations

import argparse
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from qntz.errors import QntzError
from qntz.export import export
from qntz.guard import guarded
from qntz.model import quiet
from qntz.torchscript import capture
from tests.torchscript.corpora import FOLDERS, Case, Inputs, case, files, names, tensors, wrong

SECONDS, MEMORY = 120.0, 8 << 30  # for one way
ANSWERS = ("right", "wrong", "refused")


def dynamic(one: Case) -> dict[str, dict[int, str]]:
    """The axes that differ between the inputs that are given; those of the same sizes have one name."""
    given, labels = [tensors(inputs) for inputs in (one.example, *one.probes)], {}
    found: dict[str, dict[int, str]] = {}
    for name, value in given[0].items():
        for axis in range(value.dim()):
            sizes = tuple(inputs[name].shape[axis] for inputs in given)
            if len(set(sizes)) > 1:
                found.setdefault(name, {})[axis] = labels.setdefault(sizes, f"size_{len(labels)}")
    return found


def of_torchscript(module: Any, one: Case, inputs: Inputs) -> bytes:
    """By the TorchScript exporter, every output size dynamic."""
    written = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        written,
        dynamo=False,
        opset_version=17,
        input_names=list(inputs),
        dynamic_axes=dynamic(one),
    )
    return written.getvalue()


def traced(one: Case) -> bytes:
    inputs = tensors(one.example)
    return of_torchscript(torch.jit.trace(one.model, tuple(inputs.values()), strict=False), one, inputs)


def scripted(one: Case) -> bytes:
    return of_torchscript(torch.jit.script(one.model), one, tensors(one.example))


def by_dynamo(one: Case) -> bytes:
    inputs, axes = tensors(one.example), dynamic(one)
    shapes = {name: dict.fromkeys(axes.get(name, ()), torch.export.Dim.DYNAMIC) for name in inputs}
    program = torch.export.export(one.model, (), inputs, dynamic_shapes=shapes)
    return torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()


def by_auto(one: Case) -> bytes:
    return export(capture(one.model, one.example, one.probes)).data


PLAIN: dict[str, Callable[[Case], bytes]] = {"trace": traced, "script": scripted, "dynamo": by_dynamo}


def answer(way: Callable[[Case], bytes], file: str, name: str) -> tuple[str, str]:
    """One of `ANSWERS`, and why or on how much; in a process of its own."""

    def work(loaded: Callable[[], None]) -> tuple[str, str]:
        for written in (1, 2):  # torch prints the graph of what it refuses, ONNX Runtime each input that it does
            os.dup2(os.open(os.devnull, os.O_WRONLY), written)
        torch.set_num_threads(1)
        one = case(file, name)
        one.model.eval()
        loaded()
        try:
            with torch.no_grad(), quiet():
                data = way(one)
        except Exception as error:
            return "refused", f"{type(error).__name__}: {error}"
        failed, compared = wrong(one, data)
        return ("wrong" if failed else "right"), f"off on {failed} of {compared}"

    try:
        return guarded(work, seconds=SECONDS, memory=MEMORY, what="the way")
    except QntzError as error:
        return "refused", str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=FOLDERS, help=f"of corpora (default: {', '.join(FOLDERS)})")
    parser.add_argument("--list", action="store_true", help="a line for each model that auto has not right")
    parser.add_argument("--auto", action="store_true", help="auto alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ways = ({} if options.auto else PLAIN) | {"auto": by_auto}
    rows = (*ways, *(() if options.auto else ("best plain",)))
    counts = {kind: {way: Counter[str]() for way in rows} for kind in ("hazards", "good")}
    for file in files(options.folders):
        kind = "good" if "/good_" in file else "hazards"
        for name in names(file):
            answers = {way: answer(make, file, name) for way, make in ways.items()}
            for way, (told, _) in answers.items():
                counts[kind][way][told] += 1
            if not options.auto:
                best = any(answers[way][0] == "right" for way in PLAIN)
                counts[kind]["best plain"]["right" if best else "refused"] += 1
            if options.list and answers["auto"][0] != "right":
                plain = " ".join(f"{way}={answers[way][0]}" for way in PLAIN if way in answers)
                print(f"{file}:{name} [{plain}] {': '.join(answers['auto'])}", flush=True)
    table = Table(title="From a model to ONNX, judged at other sizes and values")
    for head in ("models", "", *ANSWERS):
        table.add_column(head, justify="right" if head in ANSWERS else "left")
    for kind, by_way in counts.items():
        for way, found in by_way.items():
            table.add_row(kind, way, *(str(found[one]) for one in ANSWERS))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
