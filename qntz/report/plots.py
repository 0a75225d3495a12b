"""The layers of all engines of a model as CSV, for DVC plots."""

from __future__ import annotations

import csv
import io
import math

from qntz.report.run import Run

COLUMNS = ("engine", "index", "layer", "op", "sqnr_db")


def plots_csv(run: Run) -> str:
    """SQNR by engine and layer; columns engine, index (position in the simplified graph), layer (the tensor), op,
    sqnr_db. A layer without a finite SQNR (equal, or not measured) is left out: a chart has no place for it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for engine in run.engines:
        for layer in engine.layers:
            if layer.sqnr_db is not None and math.isfinite(layer.sqnr_db):
                writer.writerow((engine.name, layer.index, layer.tensor, layer.op, f"{layer.sqnr_db:.4f}"))
    return text.getvalue()
