"""The page: what it says, and what it never says."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qntz.artifacts import ModelPaths
from qntz.config import GateConfig, ReportConfig
from qntz.records import Provided, ReportRow
from qntz.report import gather, render_html
from tests.report.conftest import engine_records, model_records
from tests.report.reading import Page

Writer = Callable[..., ModelPaths]
ENGINES = "Engines and their figures"
IDLE = {"sqnr_db": 33.25, "worst_rel_error": 0.021, "engine_run": "no: no CUDA GPU on this machine"}


def page(paths: ModelPaths, *engines: str, rows: list[Provided] | None = None, layers: int = 20) -> Page:
    return Page(render_html(gather(paths, engines), rows or [], ReportConfig(layers=layers)))


def test_the_engine_table_holds_the_measured_figures(one_engine: Writer):
    table = page(one_engine(), "digits-int8").tables[ENGINES]
    assert dict(zip(table[0], table[1], strict=True)) == {
        "Engine": "digits-int8",
        "Precision": "int8",
        "Run here": "✓ yes",
        "accuracy, eager": "0.9733",
        "accuracy": "0.9711",
        "Agreement": "> 0.9999",
        "Worst rel. error": "2.1e-2",
        "SQNR": "33.2 dB",
        "Figures of": "engine",
        "Engine size": "90.0 KB",
        "ONNX size": "22.0 KB",
        "Backend": "tensorrt_rtx 1.7.1",
        "Target": "sm89",
    }


def test_the_pipeline_tells_what_became_of_each_stage(one_engine: Writer):
    boxes = page(one_engine(), "digits-int8").boxes
    assert boxes == [
        ("step passed", "check ✓ nothing found"),
        ("step passed", "torchscript ✓ off by 1.2e-7 limit 1e-4, trace"),
        ("step passed", "export ✓ off by 2.5e-7 limit 1e-4, opset 17"),
        ("step passed", "simplify ✓ equal limit 1e-4, 6 to 3 nodes"),
        ("step done", "calibrate • histograms kept"),
        ("step done", "quantize • int8, mse 22.0 KB"),
        ("step done", "engine • built tensorrt_rtx 1.7.1, 90.0 KB"),
        ("step passed", "verify ✓ run SQNR 33.2 dB"),
        ("step done", "report • this page no gates"),
    ]


def test_an_engine_that_was_not_run_never_looks_passed(one_engine: Writer):
    shown = page(one_engine(metrics=IDLE), "digits-int8")
    assert shown.boxes[-2] == ("step skipped", "verify ○ not run graph only: SQNR 33.2 dB")
    assert shown.column(ENGINES, "Run here") == ["○ no: no CUDA GPU on this machine"]
    assert shown.column(ENGINES, "Figures of") == ["ONNX graph"]
    assert "○ The engine was built, but not run on this machine." in shown.text
    assert ("header", {"class": "skipped"}) in shown.tags
    assert [tag["class"] for tag_name, tag in shown.tags if tag_name == "rect"].count("bar s0 hollow") == 2


@pytest.mark.parametrize(
    ("ran", "state", "headline"),
    [
        ([True, True], "passed", "✓ All 2 engines were built, run and compared with the eager model."),
        ([True, False], "warned", "! All 2 engines were built. 1 of them was run on this machine."),
        ([False, False], "skipped", "○ All 2 engines were built. None of them was run on this machine."),
        ([True], "passed", "✓ The engine was built, run and compared with the eager model."),
        ([], "skipped", "○ Captured and exported; no engine is configured."),
    ],
)
def test_the_verdict_in_plain_words(paths: ModelPaths, ran, state, headline):
    model_records(paths)
    names = [f"e{place}" for place in range(len(ran))]
    for name, was_run in zip(names, ran, strict=True):
        engine_records(paths.engine(name), **({} if was_run else {"metrics": IDLE}))
    shown = page(paths, *names)
    assert headline in shown.text
    assert ("header", {"class": state}) in shown.tags
    assert ("is not verified" in shown.text) == (False in ran)


def test_an_artifact_beyond_its_tolerance_or_a_finding_of_error_level_fails_the_verdict(one_engine: Writer):
    finding = {
        "slug": "multi-device", "code": "QZ001", "severity": "error", "path": "model.py", "line": 7,
        "message": "The model lives on two devices.", "evidence": "live object", "chain": ["Net.forward", "Stem.forward"],
    }  # fmt: skip
    worse = {"parity": {"error": 2e-3, "output": "logits", "probe": 1, "shape": [3, 10]}, "tolerance": 1e-4}
    shown = page(one_engine({"check": {"findings": [finding]}, "export": worse}), "digits-int8")
    assert "✕ Not fit to ship: check and export failed." in shown.text
    assert shown.boxes[0] == ("step failed", "check ✕ errors found 1 error")
    assert shown.boxes[2] == ("step failed", "export ✕ off by 2e-3 limit 1e-4")
    assert shown.tables["Findings of the check"][1] == [
        "✕ error", "QZ001 multi-device", "model.py:7", "The model lives on two devices.", "live object",
        "Net.forward → Stem.forward",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "box", "headline", "rows"),
    [
        (
            {"sqnr_db": 30, "metric_drop": 0.01},
            ("step passed", "report ✓ all 2 gates hold"),
            "✓ The engine was built, run and compared with the eager model.",
            [
                ["drop of accuracy", "at most 0.01", "0.0022", "✓ holds"],
                ["SQNR, dB", "at least 30", "33.25", "✓ holds"],
            ],
        ),
        (
            {"sqnr_db": 35, "metric_drop": 0.01},
            ("step failed", "report ✕ 1 of 2 gates failed"),
            "✕ Not fit to ship: 1 of 2 gates failed.",
            [
                ["drop of accuracy", "at most 0.01", "0.0022", "✓ holds"],
                ["SQNR, dB", "at least 35", "33.25", "✕ FAILED"],
            ],
        ),
        (
            {"bytes": 90_000},
            ("step failed", "report ✕ 1 of 1 gate failed"),
            "✕ Not fit to ship: 1 of 1 gate failed.",
            [["bytes", "at most 90,000", "92,160", "✕ FAILED"]],
        ),
    ],
)
def test_gates_stand_in_the_page_and_decide_the_verdict(one_engine: Writer, asked, box, headline, rows):
    config = ReportConfig(gates={"*": GateConfig(**asked)})
    shown = Page(render_html(gather(one_engine(), ["digits-int8"]), [], config))
    assert shown.tables["Gates"] == [
        ["Engine", "Of", "Wanted", "Measured", "Holds"],
        *(["digits-int8", *row] for row in rows),
    ]
    assert shown.boxes[-1] == box
    assert headline in shown.text
    assert [kind for *_, kind in shown.kinds["Gates"][1:]] == ["failed" if "✕" in row[-1] else "passed" for row in rows]


def test_without_gates_there_is_no_table_of_them(one_engine: Writer):
    assert "Gates" not in page(one_engine(), "digits-int8").tables


def test_warnings_alone_are_no_failure(one_engine: Writer):
    findings = [
        {"slug": "a", "severity": "warning"},
        {"slug": "b", "severity": "warning"},
        {"slug": "c", "severity": "note"},
    ]
    shown = page(one_engine({"check": {"findings": findings}}), "digits-int8")
    assert shown.boxes[0] == ("step warned", "check ! warnings 2 warnings, 1 note")
    assert "✓ The engine was built" in shown.text


def test_what_nobody_measured_is_said_so(one_engine: Writer):
    bare = {stage: {} for stage in ("check", "torchscript", "export", "simplify")}
    paths = one_engine(bare, metrics={}, engine={}, quantize={}, layers="index,layer,tensor,op,sqnr_db\n")
    shown = page(paths, "digits-int8")
    for head in (
        "metric, eager",
        "metric",
        "Agreement",
        "Worst rel. error",
        "SQNR",
        "Engine size",
        "ONNX size",
    ):
        assert shown.column(ENGINES, head) == ["not measured"]
    assert shown.column(ENGINES, "Backend") == ["not recorded"]
    assert [kind for kind, _ in shown.boxes] == ["step skipped"] * 5 + ["step done"] * 2 + ["step skipped", "step done"]
    assert shown.column("Difference from the eager model after each stage", "Worst rel. error") == ["not measured"] * 3
    for words in ("Parameters not measured", "Layers: not measured.", "Findings: not measured."):
        assert words in shown.text
    assert "✓" not in re.sub("✓ within its tolerance, or run", "", shown.text)  # but for the key


def test_an_error_without_bounds_is_a_failure_and_no_gap(one_engine: Writer):
    infinite = {"parity": {"error": None, "output": "logits", "probe": 0, "shape": [2, 9]}, "tolerance": 1e-4}
    shown = page(
        one_engine({"simplify": infinite}, metrics={"worst_rel_error": None, "engine_run": "yes"}), "digits-int8"
    )
    assert shown.column("Difference from the eager model after each stage", "Worst rel. error")[2] == "unbounded"
    assert shown.boxes[3] == ("step failed", "simplify ✕ differs in shape, NaN or infinity")
    assert shown.column(ENGINES, "Worst rel. error") == ["unbounded"]


def test_rewrites_stand_with_their_proof(one_engine: Writer):
    assert page(one_engine(), "digits-int8").tables["Rewrites and their proof"][1:] == [
        [
            "hard-gelu",
            "module, torchscript",
            "plugins/gelu.py",
            "✓ 2 times",
            "blocks.0.act, blocks.1.act",
            "3.5e-4",
            "1e-3",
        ],
        [
            "no-lstm",
            "module, torchscript",
            "plugins/lstm.py",
            "○ did not fire",
            "no submodule matches",
            "nothing to prove",
            "",
        ],
        ["aten::nan_to_num", "symbolic, export", "plugins/nan.py", "✓ 2 times", "", "2.5e-7", "1e-4"],
        [
            "drop-cast",
            "pass, simplify",
            "acme",
            "○ did not fire",
            "the graph has nothing that it matches",
            "nothing to prove",
            "",
        ],
    ]


def test_operators_before_and_after(one_engine: Writer):
    assert page(one_engine(), "digits-int8").tables["Operators before and after"] == [
        ["Operator", "Exported", "Simplified", "digits-int8"],
        ["all nodes", "6", "3", "11"],
        ["Conv", "2", "2", "2"],
        ["DequantizeLinear", "0", "0", "4"],
        ["Gemm", "1", "1", "1"],
        ["Identity", "3", "0", "0"],
        ["QuantizeLinear", "0", "0", "4"],
    ]


def test_the_worst_layers_come_first_and_equal_ones_not_at_all(one_engine: Writer):
    rows = [(0, "a", "inf"), (1, "b", "30"), (2, "c", "12.5"), (3, "d", ""), (4, "e", "-inf"), (5, "f", "20")]
    layers = "index,layer,tensor,op,sqnr_db\n" + "".join(f"{i},{n},{n}_0,Conv,{s}\n" for i, n, s in rows)
    shown = page(one_engine(layers=layers), "digits-int8", layers=3)
    assert shown.tables["digits-int8: 3 of the 4 layers that differ, the worst first"][1:] == [
        ["4", "broken", "Conv", "e_0", "e"],
        ["2", "12.5 dB", "Conv", "c_0", "c"],
        ["5", "20.0 dB", "Conv", "f_0", "f"],
    ]


def test_layers_that_all_are_equal_are_no_worst_layers(one_engine: Writer):
    layers = "index,layer,tensor,op,sqnr_db\n0,a,a_0,Conv,inf\n"
    assert "Every layer equals the unquantized one." in page(one_engine(layers=layers), "digits-int8").text


def test_an_engine_in_detail(one_engine: Writer):
    shown = page(one_engine(), "digits-int8")
    assert shown.tables["digits-int8: nodes left in floating point"][1:] == [["/stem/Add", "its axis is dynamic"]]
    assert shown.tables["digits-int8: inputs and outputs (?: known at run time)"][1:] == [
        ["image", "input", "float32", "1 x 8", "8 x 8", "64 x 8"],
        ["logits", "output", "float32", "1 x 10", "? x 10", "64 x 10"],
    ]
    assert shown.tables["digits-int8: outputs on the probes"][1:] == [
        ["0", "logits", "2x10", "2.1e-2", "33.2 dB"],
        ["1", "logits", "3x10", "1.9e-2", "not measured"],
    ]
    assert "two tensors were never above zero" in shown.text
    assert "mask in head: 1 of 4 values clipped to 65504" in shown.text


def test_plugins_add_their_rows_by_section(one_engine: Writer):
    rows = [
        Provided(ReportRow("Deployment", "fits", "yes"), "plugins/device.py"),
        Provided(ReportRow("Cost", "per day", "3 EUR"), "acme"),
        Provided(ReportRow("Deployment", "<i>slot</i>", "4"), "acme"),
    ]
    shown = page(one_engine(), "digits-int8", rows=rows)
    assert shown.tables["Deployment"][1:] == [["fits", "yes", "plugins/device.py"], ["<i>slot</i>", "4", "acme"]]
    assert shown.tables["Cost"][1:] == [["per day", "3 EUR", "acme"]]


def test_the_bill_of_materials_has_the_digests(one_engine: Writer):
    rows = page(one_engine(), "digits-int8").tables["Bill of materials"][1:]
    assert rows[1] == ["engines/digits-int8/model.engine", "0.0 KB", hashlib.sha256(b"plan").hexdigest()]


def test_nothing_that_a_model_names_becomes_markup(one_engine: Writer):
    evil = "<script>alert(1)</script>"
    layers = f'index,layer,tensor,op,sqnr_db\n0,{evil},"{evil}&",{evil},3\n'
    finding = {"slug": evil, "severity": "note", "path": evil, "message": evil, "chain": [evil]}
    paths = one_engine(
        {"check": {"findings": [finding]}},
        layers=layers,
        metrics={"engine_run": f"no: {evil}"},
        quantize={"notes": [evil]},
    )
    html = render_html(gather(paths, ["digits-int8"]), [Provided(ReportRow(evil, evil, evil), evil)], ReportConfig())
    shown = Page(html)
    assert "script" not in {name for name, _ in shown.tags}
    assert shown.column("digits-int8: 1 of the 1 layer that differ, the worst first", "Tensor") == [f"{evil}&"]
    assert shown.tables[evil][1:] == [[evil, evil, evil]]


def test_the_page_asks_for_nothing_from_elsewhere(one_engine: Writer):
    html = render_html(gather(one_engine(), ["digits-int8"]), [], ReportConfig())
    shown = Page(html)
    assert {name for name, _ in shown.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    given = {attribute for _, attributes in shown.tags for attribute in attributes}
    assert given.isdisjoint({"src", "href", "xlink:href", "srcset", "action", "style"})
    assert not [name for name in given if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", html)
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    assert ("meta", policy) in shown.tags


def test_ids_are_unique_and_every_chart_has_a_title_and_a_description(one_engine: Writer):
    shown = Page(render_html(gather(one_engine(), ["digits-int8"]), [], ReportConfig()))
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) == 8
    for name, attributes in shown.tags:
        if name == "svg" and attributes.get("role") == "img":
            assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from qntz.artifacts import ModelPaths; from qntz.config import ReportConfig\n"
        "from qntz.report import gather, render_html\n"
        "run = gather(ModelPaths(Path(sys.argv[1]), 'digits'), ['digits-int8', 'digits-fp16'])\n"
        "sys.stdout.buffer.write(render_html(run, [], ReportConfig()).encode())\n"
    )
    pages = []
    for seed in ("1", "2"):
        paths = ModelPaths(tmp_path / f"in {seed}", "digits")
        model_records(paths)
        for name in ("digits-int8", "digits-fp16"):
            engine_records(paths.engine(name))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        done = subprocess.run(
            [sys.executable, "-c", script, paths.root], env=environment, capture_output=True, check=True
        )
        pages.append(done.stdout)
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


def test_a_large_model_with_twelve_engines_stays_small(paths: ModelPaths):
    model_records(paths)
    layers = "index,layer,tensor,op,sqnr_db\n" + "".join(f"{i},n{i},t{i},Conv,{20 + i % 17}\n" for i in range(300))
    names = [f"engine-{place}" for place in range(12)]
    for name in names:
        engine_records(paths.engine(name), layers=layers)
    html = render_html(gather(paths, names), [], ReportConfig())
    assert len(html) < 400_000
    shown = Page(html)
    assert len([1 for name, tag in shown.tags if name == "polyline"]) == 24  # 12 lines, wide and narrow
    assert ("details", {}) in shown.tags
    assert ("details", {"open": None}) not in shown.tags
