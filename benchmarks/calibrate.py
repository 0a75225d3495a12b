"""Calibration beside the peers' and beside plain inference of the same images, each in a process of its own.

The model is resnet50 at 224, the images are seeded, with the spectrum of photographs. The floor is ONNX Runtime in fp32
on the same images, by one or by eight at a time, whichever takes less CPU; each peer calibrates and quantizes as its
users call it, in an environment of its own under build/bench; qntz collects, and quantizes from the histograms. Times
are without imports, CPU seconds of all threads. SQNR is of the logits of 16 of the images, beside fp32's; the weights
are drawn by chance, so that it is lower than that of a trained net.

`python -m benchmarks.calibrate [--images N,N] [--no-peers]`
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.peers_of_calibrate import measured

FOLDER = Path("build/bench/calibrate")
NAME = "pixel_values"
AIM, AIM_WALL, AIM_MEMORY = 1.25, 1.3, 0.6
JUDGED = 16  # images that SQNR is measured on


def prepared(most: int) -> tuple[Path, Path]:
    """The simplified model, and the images float32 [most, 3, 224, 224] in a file."""
    import onnx
    import onnxsim

    from examples.hf.data import images
    from examples.hf.model import resnet50
    from qntz.export import export
    from qntz.torchscript import capture

    FOLDER.mkdir(parents=True, exist_ok=True)
    model, data = FOLDER / "resnet50.onnx", FOLDER / "images.npy"
    made = np.stack([sample["pixel_values"] for sample in images(most, seed=1)])
    np.save(data, made)
    captured = capture(resnet50(seed=0).eval(), {NAME: made[:2]}, [{NAME: made[:3]}], method="trace")
    simplified, is_right = onnxsim.simplify(onnx.load_from_string(export(captured, opset=17).data))
    assert is_right
    onnx.save(simplified, model)
    return model, data


def batches(data: Path, count: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """The first images, `size` at a time, read and not mapped: what is mapped counts as memory of the process."""
    with data.open("rb") as file:
        np.lib.format.read_magic(file)
        (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(file)
        for left in range(count, 0, -size):
            values = np.fromfile(file, dtype, min(size, left) * math.prod(shape))
            yield {NAME: values.reshape(-1, *shape)}


def inferred(model: Path, data: Path, count: int, at_a_time: int) -> None:
    from qntz import ort

    session = ort.session(model)
    for batch in batches(data, count, at_a_time):
        ort.run(session, batch)


def collected(model: Path, data: Path, count: int, stride: int, channels: bool = True) -> Any:
    from qntz.calibrate import collect

    return collect(model, batches(data, count, 8), stride=stride, channels=channels)


def quantized(model: Path, data: Path, count: int, stride: int) -> None:
    from qntz.builtin.thresholds import qntz_threshold_methods
    from qntz.config import QuantizeConfig
    from qntz.quantize import quantize

    methods = {method.name: method for method in qntz_threshold_methods()}
    histograms = collected(model, data, count, stride)
    quantize(model, histograms, FOLDER / f"by {stride}.onnx", QuantizeConfig(precision="int8"), methods=methods)


def sqnr_db(model: Path, data: Path, quantized: Path) -> float:
    from qntz import ort

    wanted, got = (
        np.concatenate([next(iter(ort.run(session, batch).values())) for batch in batches(data, JUDGED, 8)])
        for session in map(ort.session, (model, quantized))
    )
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


WORK = {
    "floor by 1": functools.partial(inferred, at_a_time=1),
    "floor by 8": functools.partial(inferred, at_a_time=8),
    "collect": functools.partial(collected, stride=7),
    "collect, no channels": functools.partial(collected, stride=7, channels=False),
    "collect and quantize": functools.partial(quantized, stride=7),
    "collect and quantize, stride 1": functools.partial(quantized, stride=1),
}


def measured_here(name: str, model: str, data: str, count: str) -> None:
    """Prints what one of WORK takes."""
    import onnxruntime  # noqa: F401  the imports are everybody's

    import qntz.calibrate
    import qntz.quantize  # noqa: F401

    measured(lambda: WORK[name](Path(model), Path(data), int(count)))


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        return measured_here(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="16,64,256", help="how many, by commas")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    counts = [int(one) for one in options.images.split(",")]
    model, data = prepared(max(counts))
    table = Table(
        title=f"Calibration of resnet50 over plain inference; aims: CPU {AIM}, wall {AIM_WALL}, {AIM_MEMORY} GB"
    )
    for head in ("images", "who", "CPU s", "over floor", "wall s", "over floor", "peak GB", "SQNR, dB"):
        table.add_column(head, justify="left" if head == "who" else "right")
    for count in counts:
        rows = {}
        for name in WORK:
            rows[name] = peers.told(
                [sys.executable, "-m", "benchmarks.calibrate", "--work", name, str(model), str(data), str(count)]
            )
        for peer, method in () if options.no_peers else peers.RUNS:
            rows[f"{peer} {method}"] = peers.run(peer, method, model, data, count, FOLDER / f"{peer} {method}.onnx")
        written = {"collect and quantize": "by 7", "collect and quantize, stride 1": "by 1"}
        floor = min((rows["floor by 1"], rows["floor by 8"]), key=lambda row: row["cpu"])
        for name, row in rows.items():
            ratios = (f"{row[key] / floor[key]:.2f}" for key in ("cpu", "wall"))
            cpu, wall = ratios
            peak = f"{row['peak'] / 2**10:.2f}"
            result = FOLDER / f"{written.get(name, name)}.onnx"
            quality = f"{sqnr_db(model, data, result):.2f}" if result.exists() else ""
            table.add_row(str(count), name, f"{row['cpu']:.2f}", cpu, f"{row['wall']:.2f}", wall, peak, quality)
        table.add_section()
    Console(width=110).print(table)
    return None


if __name__ == "__main__":
    main()
