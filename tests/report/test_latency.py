"""What was timed, as the report and the page of `qntz bench` have it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qntz.artifacts import ModelPaths
from qntz.bench import Timing
from qntz.config import GateConfig, ReportConfig
from qntz.errors import ConfigError
from qntz.report import gather, render_html
from qntz.report.gates import gates
from qntz.report.latency import latency_charts, throughput_chart
from qntz.report.page import render_bench
from qntz.report.wording import milliseconds
from tests.report.conftest import engine_records, model_records

EAGER = Timing("eager", "batch 1", 1, 50, 4.0, 5.0, 9.0, 250.0, cpu_ms=8.0, memory=100 << 20, rounds=(4.0, 4.0, 8.0))
ENGINE = Timing("int8", "batch 1", 1, 90, 2.0, 2.5, 40.0, 500.0, sqnr_db=41.0, rounds=(2.0, 1.0, 6.0))
LARGER = (
    Timing("eager", "batch 10", 10, 50, 40.0, 50.0, 90.0, 250.0, rounds=(40.0,)),
    Timing("int8", "batch 10", 10, 90, 10.0, 12.0, 20.0, 1000.0, rounds=(10.0,)),
)
TOLD = {
    "machine": "a CPU", "cores": 2, "inputs": "test data", "versions": {"torch": "2.13.0"},
    "not_run": [{"subject": "int8 (tensorrt_rtx)", "why": "no CUDA GPU on this machine"}],
}  # fmt: skip


def shapes(drawing: str, kind: str) -> list[dict[str, str]]:
    return [one.attrib for one in ElementTree.fromstring(drawing).iter() if one.tag.endswith(kind)]


def test_a_bar_is_as_long_as_its_median() -> None:
    (chart,) = latency_charts([EAGER, ENGINE], 1000, 330)
    for drawing in (chart.wide, chart.narrow):
        slow, quick = (float(bar["width"]) for bar in shapes(drawing, "rect"))
        assert slow / quick == pytest.approx(2, rel=0.01)
        assert int(ElementTree.fromstring(drawing).attrib["width"]) in (1000, 330)
    assert "4 ms, p99 9 ms" in chart.wide
    assert "2 ms, p99 40 ms" in chart.wide  # it lies beyond the edge
    across = [float(line["x2"]) for line in shapes(chart.wide, "line")]
    assert max(across) < 1000 - 100


def test_an_engine_has_one_colour_on_the_page() -> None:
    (chart,) = latency_charts([EAGER, ENGINE], 1000, 330, ["other", "int8", "eager"])
    assert [bar["class"] for bar in shapes(chart.wide, "rect")] == ["bar s2", "bar s1"]


def test_throughput_is_drawn_over_the_batch_sizes() -> None:
    assert throughput_chart([EAGER, ENGINE], 1000, 330) is None
    chart = throughput_chart([EAGER, ENGINE, *LARGER], 1000, 330)
    eager, int8 = (
        [tuple(map(float, p.split(","))) for p in line["points"].split()] for line in shapes(chart.wide, "polyline")
    )
    assert eager[0][1] == eager[1][1]  # 250 samples/s at both
    per_decade = 300 - 44 - 14  # from 100 to 1000 samples/s, over the chart's height
    assert int8[0][1] - int8[1][1] == pytest.approx(0.30103 * per_decade, abs=0.2)  # twice as many
    assert [name for name, _, _ in chart.legend] == ["eager", "int8"]


def test_the_page_of_a_benchmark_needs_nothing_else() -> None:
    page = render_bench("net", [EAGER, ENGINE, *LARGER], TOLD)
    assert "0.50 (0.25 to 0.75)" in page  # rounds of 2/4, 1/4 and 6/8
    assert "41.0 dB" in page
    assert "no CUDA GPU on this machine" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|src=", page)


def prepared(tmp_path: Path):
    paths = ModelPaths(tmp_path, "net")
    model_records(paths)
    for name in ("fp32", "int8"):
        engine_records(paths.engine(name))
    return gather(paths, ["fp32", "int8"])


def test_the_report_tells_what_was_timed_and_what_not(tmp_path: Path) -> None:
    import dataclasses

    run = dataclasses.replace(
        prepared(tmp_path), timings={"int8": ENGINE}, not_timed={"fp32": "no CUDA GPU on this machine"}
    )
    page = render_html(run, [], ReportConfig())
    section = page[page.index("<h2>Latency</h2>") :]
    section = section[: section.index("</section>")]
    assert "2 ms" in section
    assert "no CUDA GPU on this machine" in section
    assert run.as_dict()["engines"]["int8"]["latency"]["p99_ms"] == 40.0
    assert run.as_dict()["engines"]["fp32"]["latency"] == {}


def test_a_gate_on_latency(tmp_path: Path) -> None:
    import dataclasses

    run = prepared(tmp_path)
    timed = dataclasses.replace(
        run,
        timings={
            "fp32": dataclasses.replace(EAGER, subject="fp32"),
            "int8": dataclasses.replace(ENGINE, subject="int8"),
        },
    )
    for bound, holds in ((0.51, True), (0.49, False)):
        (gate,) = gates(timed, {"int8": GateConfig(baseline="fp32", latency_ratio=bound)})
        assert (gate.measured, gate.holds, gate.asked) == (0.5, holds, "latency over fp32")
    (gate,) = gates(run, {"int8": GateConfig(baseline="fp32", latency_ratio=9.0)})
    assert (gate.measured, gate.holds) == (None, False)


def test_a_gate_on_latency_needs_its_measurement() -> None:
    with pytest.raises(ConfigError, match="gates.int8.latency_ratio: no engine is timed"):
        ReportConfig(latency_seconds=0, gates={"int8": GateConfig(baseline="fp32", latency_ratio=1.0)})
    with pytest.raises(ConfigError, match="a baseline and a ratio to it go together"):
        GateConfig(latency_ratio=1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.39163, "0.392 ms"),
        (12.5, "12.5 ms"),
        (999.4, "999 ms"),
        (999.5, "1 s"),
        (999.6, "1 s"),
        (1234.0, "1.23 s"),
        (999_400.0, "999 s"),
        (1_234_000.0, "1,234 s"),
    ],
)
def test_times_in_words(value: float, text: str) -> None:
    assert milliseconds(value) == text
