"""The layers of all engines of a model on one axis, and their CSV for DVC plots."""

from __future__ import annotations

import csv
import io
import math

from qntz.report.run import Run

COLUMNS = ("engine", "index", "layer", "op", "sqnr_db")


def layer_index(run: Run) -> dict[str, int]:
    """A number for each compared tensor, from 0, in the order of the graph. Engines may have measured different
    tensors: one that the longest list lacks comes right after its predecessor in its own list."""
    order: list[str] = []
    for engine in sorted(run.engines, key=lambda engine: -len(engine.layers)):
        place = 0
        for layer in engine.layers:
            if layer.tensor in order:
                place = order.index(layer.tensor) + 1
            else:
                order.insert(place, layer.tensor)
                place += 1
    return {tensor: index for index, tensor in enumerate(order)}


def plots_csv(run: Run) -> str:
    """SQNR by engine and layer; columns engine, index, layer (the tensor), op, sqnr_db. A layer without a finite SQNR
    (not measured, or equal) is left out, as a chart has no place for it."""
    index = layer_index(run)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for engine in run.engines:
        for layer in engine.layers:
            if layer.sqnr_db is not None and math.isfinite(layer.sqnr_db):
                writer.writerow((engine.name, index[layer.tensor], layer.tensor, layer.op, f"{layer.sqnr_db:.4f}"))
    return text.getvalue()
