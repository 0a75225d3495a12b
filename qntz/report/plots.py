"""The layers of all engines of a model as CSV, for DVC plots."""

from __future__ import annotations

import csv
import io
import math

from qntz.report.run import Run

COLUMNS = ("engine", "index", "layer", "op", "sqnr_db", "state")


def plots_csv(run: Run) -> str:
    """SQNR by engine and layer; columns engine, index (position in the simplified graph), layer (the tensor), op,
    sqnr_db, and state: "measured", or with an empty sqnr_db "exact" or "broken". A layer that was not measured is left
    out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for engine in run.engines:
        for layer in engine.layers:
            if layer.sqnr_db is not None:
                finite = math.isfinite(layer.sqnr_db)
                state = "measured" if finite else "exact" if layer.sqnr_db > 0 else "broken"
                figure = f"{layer.sqnr_db:.4f}" if finite else ""
                writer.writerow((engine.name, layer.index, layer.tensor, layer.op, figure, state))
    return text.getvalue()
