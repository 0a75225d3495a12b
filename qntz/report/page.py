"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qntz.bench import Timing
from qntz.config import ReportConfig
from qntz.records import Provided
from qntz.report import charts, tables, verdict
from qntz.report.gates import gates, page_table
from qntz.report.histogram_charts import activations
from qntz.report.latency import bench_tables, engines_table, latency_charts, throughput_chart
from qntz.report.run import EngineRun, Record, Run
from qntz.report.wording import NOT_MEASURED, count, error, size

WIDE, NARROW = 1160, 330
"""Each chart is drawn twice, and the style sheet shows the one that fits."""


def render_html(run: Run, rows: Sequence[Provided], config: ReportConfig) -> str:
    """The page of a model.

    Args:
        run: what `gather` read. rows: the `ReportRow` records of plugins. config: how many layers to list, and gates.

    Raises:
        ConfigError: as `gates` does.
    """
    return rendered("page.html", _view(run, rows, config))


def render_bench(model: str, timings: Sequence[Timing], told: Mapping[str, Any]) -> str:
    """The page of `qntz bench`.

    Args:
        timings: the first of each set of inputs is what the others are held against. told: what the JSON file has.
    """
    charts_of = latency_charts(timings, WIDE, NARROW)
    absent = tuple((tables.Cell(one["subject"]), tables.Cell(one["why"], "prose")) for one in told["not_run"])
    view = {
        "model": model,
        "tiles": [
            ("Machine", told["machine"]),
            ("Cores", str(told["cores"])),
            ("Inputs", told["inputs"]),
            *told["versions"].items(),
        ],
        "groups": list(zip(charts_of, bench_tables(timings), strict=True)),
        "throughput": throughput_chart(timings, WIDE, NARROW),
        "absent": tables.Table("What was not run, and why", ("Runtime", "Why"), absent),
    }
    return rendered("bench.html", view)


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """A template of this package with its style sheet in it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**view)


def _view(run: Run, rows: Sequence[Provided], config: ReportConfig) -> dict[str, Any]:
    asked = gates(run, config.gates)
    held = [gate.holds for gate in asked]
    return {
        "model": run.model,
        "verdict": verdict.verdict(run, held),
        "tiles": _tiles(run),
        "model_steps": verdict.model_steps(run),
        "engine_steps": [(engine.name, verdict.engine_steps(engine)) for engine in run.engines],
        "report_step": verdict.report_step(held),
        "engines": tables.engines(run),
        "gates": page_table(asked),
        "latency": engines_table(run),
        "timed_on": run.timed_on,
        "latency_charts": latency_charts(
            list(run.timings.values()), WIDE, NARROW, [engine.name for engine in run.engines]
        ),
        "layer_chart": _layer_chart(run),
        "error_chart": _error_chart(run),
        "worst_layers": [(engine.name, tables.worst_layers(engine, config.layers)) for engine in run.engines],
        "unfolded": len(run.engines) == 1,
        "activations": [
            activations(engine.name, f"seen-{place}", engine.activations, config.layers)
            for place, engine in enumerate(run.engines)
            if engine.activations
        ],
        "findings": tables.findings(run),
        "route": _route(run),
        "warnings": [str(warning) for warning in run.torchscript.get("warnings", ())],
        "parity": tables.parity(run),
        "rewrites": tables.rewrites(run),
        "folded": tables.folded(run),
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
    opset = run.export.get("opset")
    return [
        ("Route", str(run.torchscript.get("method", "not recorded"))),
        ("Why", str(run.torchscript.get("why", "not recorded"))),
        ("Probes", count(run.torchscript.get("probes"))),
        ("ONNX opset", "not recorded" if opset is None else str(opset)),
    ]


def _details(engine: EngineRun) -> tuple[str, list[str], list[tables.Table]]:
    shown = [tables.bindings(engine), tables.skipped(engine), tables.probes(engine), tables.facts(engine)]
    lost = [
        f"{name}{' in ' + one['module'] if one['module'] else ''}: {one['what']}"
        for name, one in engine.quantize.get("constants", {}).items()
    ]
    return engine.name, [*lost, *map(str, engine.quantize.get("notes", ()))], shown


def _layer_chart(run: Run) -> charts.Chart | None:
    if not any(engine.layers for engine in run.engines):
        return None
    series = [
        charts.Series(
            engine.name,
            tuple(charts.Point(layer.index, layer.sqnr_db, layer.tensor) for layer in engine.layers),
        )
        for engine in run.engines
    ]
    title = "SQNR of each layer"

    def drawn(key: str, width: int) -> str:
        return charts.line_chart(
            series, key=key, width=width, title=title, x_label="layer, in the order of the graph", y_label="SQNR, dB"
        )

    legend = tuple((line.name, *charts.style_of(place)) for place, line in enumerate(series) if line.points)
    unmeasured = [line.name for line in series if not line.points]
    note = f"Layers {NOT_MEASURED}: {', '.join(unmeasured)}." if unmeasured else ""
    return charts.Chart(title, drawn("layers-wide", WIDE), drawn("layers-narrow", NARROW), legend, note)


def _error_chart(run: Run) -> charts.Chart:
    bars = [
        charts.Bar(stage, *_worst(record))
        for stage, record in (("torchscript", run.torchscript), ("export", run.export), ("simplify", run.simplify))
    ]
    for place, engine in enumerate(run.engines):
        value = engine.figure("worst_rel_error")
        note = "" if value is not None and math.isfinite(value) else error(value)
        value = None if note else value
        kind, _ = charts.style_of(place)
        bars.append(charts.Bar(engine.name, value, note=note, kind=kind, hollow=not engine.was_run))
    title = "Worst relative error after each stage"

    def drawn(key: str, width: int) -> str:
        return charts.error_chart(
            bars, key=key, width=width, title=title, x_label="|artifact - eager| / largest |eager|, logarithmic"
        )

    return charts.Chart(title, drawn("errors-wide", WIDE), drawn("errors-narrow", NARROW))


def _worst(record: Record) -> tuple[float | None, float | None, str]:
    """The error, its limit, and what is said where there is no error."""
    found = record.get("parity") or {}
    if found.get("error") is not None:
        return found["error"], record.get("tolerance"), ""
    return None, record.get("tolerance"), error(math.inf if "error" in found else None)
