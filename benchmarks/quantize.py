"""Accuracy of int8 beside the peers', on small trained nets: easy, hard, and hard beyond folding (`benchmarks.nets`).

Everyone calibrates on the same 256 images, quantizes to Q/DQ, and is run under ONNX Runtime on the 360 test images.
SQNR is of the logits, beside the same net in fp32; agreement is of the classes. The peers are called as their users
call them, in environments of their own. `python -m benchmarks.quantize [--no-peers] [NET ...]`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import nets, peers
from qntz import ort
from qntz.builtin.thresholds import qntz_threshold_methods
from qntz.calibrate import collect
from qntz.config import QuantizeConfig
from qntz.export import export
from qntz.packed import Packed, packed, read_model
from qntz.quantize import quantize
from qntz.quantize.auto import Judge
from qntz.quantize.prepared import prepare
from qntz.quantize.sensitivity import Budget, costs, fewest_excluded
from qntz.simplify import simplify
from qntz.torchscript import capture

FOLDER = Path("build/bench/quantize")
METHODS = {method.name: method for method in qntz_threshold_methods()}
AIMS = {"conv easy": 35.0, "conv hard": 34.0, "vit easy": 37.5, "vit hard": 36.0}  # dB
SHIFTED_AIM = 37.5  # dB, what the transformer reaches without the shift
CALIBRATED, HELD_OUT = 256, 32
PARTS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in (*METHODS, "auto")},
    "mse, not rescaled": {"method": "mse", "rescale": False},
    "mse, biases as they are": {"method": "mse", "correct_biases": False},
    "mse, neither": {"method": "mse", "rescale": False, "correct_biases": False},
}


def made(names: list[str]) -> Iterator[tuple[str, Path]]:
    """Each net by name and as the pipeline would simplify it, trained where it was not yet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    images, _ = nets.digits("test")
    for name in nets.NETS:
        if not any(wanted.startswith(name) for wanted in names):
            continue
        weights = FOLDER / f"{name}.pt"
        if weights.exists():
            net = nets.NETS[name]()
            net.load_state_dict(torch.load(weights, weights_only=True))
        else:
            net = nets.trained(name)
            torch.save(net.state_dict(), weights)
        net.eval()
        for kind, make in nets.KINDS.items():
            label = f"{name} {kind}"
            other = copy.deepcopy(net)
            if label in names and make(name, other) is not None:
                yield label, simplified(other, images, FOLDER / f"{name}-{kind}.onnx")


def simplified(net: torch.nn.Module, images: np.ndarray, path: Path) -> Path:
    inputs = [{"image": images[:count]} for count in (2, 3)]
    captured = capture(net, inputs[0], inputs[1:], method="trace")
    onnx.save(onnx.load_from_string(export(captured, opset=17).data), path)
    done = simplify(path, inputs, [{"output": net(torch.from_numpy(one["image"])).detach().numpy()} for one in inputs])
    path.write_bytes(done.data)
    return path


def logits(model: Any, images: np.ndarray) -> np.ndarray:
    session = ort.session(model)
    return np.concatenate([next(iter(ort.run(session, {"image": part}).values())) for part in np.split(images, 6)])


def sqnr(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


def by_qntz(path: Path, calibrated: np.ndarray, held_out: Any) -> Iterator[tuple[str, np.ndarray, str]]:
    histograms = collect(path, ({"image": part} for part in np.split(calibrated, 32)), stride=7)
    for label, settings in PARTS.items():
        config = QuantizeConfig(precision="int8", **settings)
        done = quantize(path, histograms, None, config, methods=METHODS, held_out=held_out)
        yield f"qntz {label}", done.file, f"({done.method})" if label == "auto" else ""


def with_exclusions(path: Path, calibrated: np.ndarray, held_out: Any) -> tuple[str, Packed, str]:
    """What leaving layers in floating point gives where folding does not reach: the fewest for SHIFTED_AIM."""
    histograms = collect(path, ({"image": part} for part in np.split(calibrated, 32)), stride=7)
    judge = Judge(path, held_out, None)
    prepared = prepare(
        read_model(path), path, histograms, QuantizeConfig(precision="int8", method="max"), METHODS, (), None, {}
    )
    excluded, _ = fewest_excluded(prepared, judge, costs(prepared, judge, {}), Budget(sqnr_db=SHIFTED_AIM))
    graph = packed(prepared.graph({one.node for one in prepared.chosen} - set(excluded))[0], "rest.onnx")
    return f"qntz max, {len(excluded)} of {len(prepared.chosen)} left out", graph, f"for {SHIFTED_AIM:g} dB"


def by_peers(path: Path, data: Path) -> Iterator[tuple[str, Path, str]]:
    for peer, method in peers.RUNS:
        output = FOLDER / f"peer-{peer}-{method}.onnx"
        peers.run(peer, method, path, data, CALIBRATED, output)
        yield f"{peer} {method}", output, ""


def main() -> None:
    labels = [f"{name} {kind}" for name in nets.NETS for kind in nets.KINDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=labels, metavar="NET", help=f"{', '.join(labels)} (default: all)")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    train, _ = nets.digits("train")
    test, classes = nets.digits("test")
    chosen = train[:CALIBRATED]
    held_out = [({"image": train[CALIBRATED : CALIBRATED + HELD_OUT]}, None)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    data = FOLDER / "images.npy"
    np.save(data, chosen)
    table = Table(title="int8 of small trained nets beside fp32")
    for head in ("net", "who", "accuracy", "agreement", "SQNR, dB", ""):
        table.add_column(head, justify="left" if head in ("net", "who", "") else "right")
    for label, path in made(options.nets):
        wanted = logits(path, test)
        aim = f"aim {AIMS[label]}" if label in AIMS else ""
        table.add_row(label, "fp32", f"{accuracy(wanted, classes):.4f}", "", "", aim)
        beyond = [with_exclusions(path, chosen, held_out)] if label.endswith("shifted") else []
        rows = [*by_qntz(path, chosen, held_out), *beyond, *(() if options.no_peers else by_peers(path, data))]
        for who, model, note in rows:
            got = logits(model, test)
            alike = float((got.argmax(1) == wanted.argmax(1)).mean())
            table.add_row("", who, f"{accuracy(got, classes):.4f}", f"{alike:.4f}", f"{sqnr(got, wanted):.2f}", note)
        table.add_section()
    Console(width=100).print(table)


def accuracy(got: np.ndarray, classes: np.ndarray) -> float:
    return float((got.argmax(1) == classes).mean())


if __name__ == "__main__":
    main()
