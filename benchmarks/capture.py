"""Capture by `auto` and export beside a bare torch.onnx.export of the same model, in one process: as torch calls it
today, by torch.export, and as it did before (dynamo=False), by the trace that `auto` begins with.

The architectures are those of the rule check's test, of small configurations, where what does not depend on the model's
size shows most; or, with --full, of those that their papers have, with random weights. Each is then run under ONNX
Runtime at other batch sizes and, where the model takes them, other lengths or sizes than it was captured with, and
compared with eager. Times are CPU seconds of all threads and child processes, the least of the runs.
`python -m benchmarks.capture [--full] [--runs N] [NAME ...]`.
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
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qntz import ort
from qntz.export import export
from qntz.model import call, named_outputs
from qntz.torchscript import capture
from tests.check.test_architectures import ARCHITECTURES, Inputs, built, ids, image

AIM = 2.5
TOLERANCE = 1e-3  # of an output's largest magnitude


Architecture = tuple[Callable[[], torch.nn.Module], Inputs, list[Inputs]]
DETR = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}


def full() -> dict[str, Architecture]:
    """The architectures in the sizes of transformers' default configurations, but for the images of two."""
    import transformers

    def detr() -> torch.nn.Module:
        backbone = transformers.ResNetConfig(out_features=["stage4"])
        return built("DetrModel", "DetrConfig", backbone_config=backbone, **DETR)

    images: list[Inputs] = [image(2, 224), image(3, 224)]
    other: list[Inputs] = [image(2, 224), image(3, 256)]
    texts: list[Inputs] = [ids(2, 64), ids(3, 96)]
    made: dict[str, tuple[Callable[[], torch.nn.Module], list[Inputs]]] = {
        "resnet": (lambda: built("ResNetModel", "ResNetConfig"), other),
        "vit": (lambda: built("ViTModel", "ViTConfig"), images),
        "convnext": (lambda: built("ConvNextModel", "ConvNextConfig"), other),
        "swin": (lambda: built("SwinModel", "SwinConfig"), images),
        "swin of any size": (lambda: built("SwinModel", "SwinConfig"), other),
        "mobilenet_v2": (lambda: built("MobileNetV2Model", "MobileNetV2Config"), other),
        "segformer": (lambda: built("SegformerModel", "SegformerConfig"), other),
        "clip": (lambda: built("CLIPVisionModel", "CLIPVisionConfig"), images),
        "bert": (lambda: built("BertModel", "BertConfig"), texts),
        "distilbert": (lambda: built("DistilBertModel", "DistilBertConfig"), texts),
        "gpt2": (lambda: built("GPT2Model", "GPT2Config", use_cache=False), texts),
        "t5 encoder": (lambda: built("T5EncoderModel", "T5Config"), texts),
        "detr": (detr, other),
        "yolos": (lambda: built("YolosModel", "YolosConfig", image_size=[224, 224]), images),
    }
    return {name: (make, given[0], given[1:]) for name, (make, given) in made.items()}


def seconds(work: Callable[[], Any], runs: int) -> tuple[float, float]:
    """The least CPU seconds, with those of child processes, and the least wall seconds."""
    cpu, wall = [], []
    for _ in range(runs):
        before, started = _spent(), time.perf_counter()
        work()
        cpu.append(_spent() - before)
        wall.append(time.perf_counter() - started)
    return min(cpu), min(wall)


def _spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def others(example: Inputs, probes: list[Inputs]) -> list[Inputs]:
    """Other batches of the example's sizes, and of each probe's."""
    return [
        {name: torch.cat([value, value.flip(0)])[:count] for name, value in given.items()}
        for given in (example, *probes)
        for count in (1, 4)
    ]


def is_right(data: bytes, model: torch.nn.Module, inputs: Inputs) -> bool:
    arrays = {name: value.numpy() for name, value in inputs.items()}
    wanted = {name: value.numpy() for name, value in named_outputs(call(model, arrays, list(arrays))).items()}
    got = ort.run_all(data, [arrays])[0]
    return all(
        got[name].shape == one.shape and np.abs(got[name] - one).max() <= TOLERANCE * max(np.abs(one).max(), 1e-6)
        for name, one in wanted.items()
    )


def measured(name: str, architecture: Architecture, runs: int) -> list[str]:
    make, example, probes = architecture
    torch.manual_seed(0)
    model = make()
    axes = {
        key: {
            axis: f"{key}_{axis}"
            for axis in range(value.dim())
            if any(p[key].shape[axis] != value.shape[axis] for p in probes)
        }
        for key, value in example.items()
    }

    dynamic = {key: dict.fromkeys(names, torch.export.Dim.DYNAMIC) for key, names in axes.items()}

    def bare() -> None:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            torch.onnx.export(model, (), io.BytesIO(), kwargs=example, dynamic_shapes=dynamic)

    def by_trace() -> None:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            names = {"input_names": list(example), "dynamic_axes": axes, "opset_version": 17}
            torch.onnx.export(model, tuple(example.values()), io.BytesIO(), dynamo=False, **names)

    made: list[Any] = []

    def ours() -> None:
        captured = capture(model, example, probes)
        made[:] = [captured, export(captured).data]

    beside = [_peers(name, peer, runs) for peer in (bare, by_trace)]
    whole, wall = seconds(ours, runs)
    captured, data = made
    judged = [is_right(data, model, inputs) for inputs in others(example, probes)]
    right = f"{sum(judged)} of {len(judged)}"
    times = [f"{one:.2f}" for one in (*beside, whole, wall)]
    return [name, captured.method, right, *times, *(f"{whole / one:.2f}" for one in beside)]


def _peers(name: str, peer: Callable[[], None], runs: int) -> float:
    """The CPU seconds of a peer; not a number where it refuses the model, which is its answer."""
    try:
        peer()
        return seconds(peer, runs)[0]
    except Exception as error:
        print(f"{name}: torch.onnx.export {peer.__name__}: {type(error).__name__}")
        return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="in the sizes of the default configurations")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table = Table(title=f"Capture by auto and export, CPU seconds; aim: at most {AIM} times a bare export")
    heads = ("bare", "bare, trace", "auto", "auto, wall", "auto / bare", "auto / trace")
    for head in ("model", "route", "right", *heads):
        table.add_column(head, justify="left" if head in ("model", "route") else "right")
    architectures = full() if options.full else ARCHITECTURES
    for name in options.names:
        table.add_row(*measured(name, architectures[name], options.runs))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
