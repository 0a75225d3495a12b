"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz.config import ReportConfig
from qntz.records import Provided
from qntz.report import charts, tables, verdict
from qntz.report.figures import NOT_MEASURED, count, size
from qntz.report.plots import layer_index
from qntz.report.run import Run

WIDE, NARROW = 1040, 330
"""Each chart is drawn twice, and the style sheet shows the one that fits."""
OPEN_ENGINES = 3
"""Up to so many engines their worst layers are unfolded."""


@dataclass(frozen=True)
class Chart:
    """A chart in both widths, with the legend: name, class and dashes of each line."""

    title: str
    wide: str
    narrow: str
    legend: tuple[tuple[str, str, str], ...] = ()
    note: str = ""


def render_html(run: Run, rows: Sequence[Provided], config: ReportConfig) -> str:
    """The page of a model.

    Args:
        run: what `gather` read. rows: the `ReportRow` records of plugins. config: how many layers to list.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(**_view(run, rows, config))


def _view(run: Run, rows: Sequence[Provided], config: ReportConfig) -> dict[str, Any]:
    return {
        "model": run.model,
        "verdict": verdict.verdict(run),
        "tiles": _tiles(run),
        "model_steps": verdict.model_steps(run),
        "engine_steps": [(engine.name, verdict.engine_steps(engine)) for engine in run.engines],
        "engines": tables.engines(run),
        "layer_chart": _layer_chart(run),
        "error_chart": _error_chart(run),
        "worst_layers": [(engine.name, tables.worst_layers(run, engine, config.layers)) for engine in run.engines],
        "unfolded": len(run.engines) <= OPEN_ENGINES,
        "findings": tables.findings(run),
        "route": _route(run),
        "parity": tables.parity(run),
        "rewrites": tables.rewrites(run),
        "operators": tables.operators(run),
        "details": [_details(engine) for engine in run.engines],
        "plugin_sections": tables.plugin_rows(rows),
        "materials": tables.materials(run),
    }


def _tiles(run: Run) -> list[tuple[str, str]]:
    ran = sum(1 for engine in run.engines if engine.was_run)
    sizes = [engine.plan_bytes for engine in run.engines if engine.plan_bytes is not None]
    return [
        ("Engines run here", f"{ran} of {len(run.engines)}"),
        ("Parameters", count(run.torchscript.get("parameters"))),
        ("ONNX nodes", count(run.simplify.get("nodes_after"))),
        ("ONNX size", size(run.simplify.get("bytes_after"))),
        ("Smallest engine", size(min(sizes, default=None))),
    ]


def _route(run: Run) -> list[tuple[str, str]]:
    opset, ir = run.export.get("opset"), run.export.get("ir_version")
    return [
        ("Route", str(run.torchscript.get("method", "not recorded"))),
        ("Why", str(run.torchscript.get("why", "not recorded"))),
        ("Probes", count(run.torchscript.get("probes"))),
        ("ONNX opset", "not recorded" if opset is None else str(opset)),
        ("ONNX IR version", "not recorded" if ir is None else str(ir)),
    ]


def _details(engine: Any) -> tuple[str, list[str], list[tables.Table]]:
    shown = [tables.bindings(engine), tables.skipped(engine), tables.probes(engine), tables.facts(engine)]
    return engine.name, [str(note) for note in engine.quantize.get("notes", ())], shown


def _layer_chart(run: Run) -> Chart | None:
    index = layer_index(run)
    if not index:
        return None
    series = [
        charts.Series(
            engine.name,
            tuple(charts.Point(index[layer.tensor], layer.sqnr_db, layer.tensor) for layer in engine.layers),
        )
        for engine in run.engines
    ]
    title = "SQNR of each layer"

    def drawn(key: str, width: int) -> str:
        return charts.line_chart(
            series, key=key, width=width, title=title, x_label="layer, in the order of the graph", y_label="SQNR, dB"
        )

    legend = tuple((line.name, *charts.style_of(place)) for place, line in enumerate(series))
    unmeasured = [line.name for line in series if not line.points]
    note = f"Layers {NOT_MEASURED}: {', '.join(unmeasured)}." if unmeasured else ""
    return Chart(title, drawn("layers-wide", WIDE), drawn("layers-narrow", NARROW), legend, note)


def _error_chart(run: Run) -> Chart:
    bars = [
        charts.Bar(stage, *_worst(record))
        for stage, record in (("torchscript", run.torchscript), ("export", run.export), ("simplify", run.simplify))
    ]
    for engine in run.engines:
        value = engine.figure("worst_rel_error")
        bars.append(charts.Bar(engine.name, value, note="" if value is not None else NOT_MEASURED, hollow=not engine.was_run))
    title = "Worst relative error after each stage"

    def drawn(key: str, width: int) -> str:
        return charts.error_chart(
            bars, key=key, width=width, title=title, x_label="|artifact - eager| / largest |eager|, logarithmic"
        )

    return Chart(title, drawn("errors-wide", WIDE), drawn("errors-narrow", NARROW))


def _worst(record: Any) -> tuple[float | None, float | None, str]:
    """The error, its limit, and what is said where there is no error."""
    found = record.get("parity") or {}
    if found.get("error") is not None:
        return found["error"], record.get("tolerance"), ""
    return None, record.get("tolerance"), "infinite" if "error" in found else NOT_MEASURED
