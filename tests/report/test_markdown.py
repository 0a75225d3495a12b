"""The comparison as Markdown, read by a parser of GitHub's dialect; and what changed since a revision."""

from __future__ import annotations

import dataclasses
import json

import pytest
from markdown_it import MarkdownIt

from qntz.artifacts import ModelPaths, write_bytes, write_json
from qntz.bench import Timing
from qntz.config import GateConfig
from qntz.errors import ArtifactError
from qntz.report import gather
from qntz.report.changes import Change, Changes, changes_by_model, sentences
from qntz.report.code_quality import code_quality
from qntz.report.gates import gates
from qntz.report.markdown import code, escaped, markdown_table, prose, render_markdown
from qntz.report.tables import Cell, Table
from qntz.report.timed import timings_json, with_timings
from tests.report.conftest import engine_records, model_records

TIMING = Timing("digits-int8", "image 8x8", 8, 90, 2.5, 3.0, 9.0, 400.0, rounds=(2.0, 2.5, 3.0))


def tokens(markdown: str) -> list:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)


def tables_of(markdown: str) -> list[list[list[str]]]:
    """The tables, each as rows of texts as a reader sees them, the heads first."""
    found: list[list[list[str]]] = []
    for token in tokens(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 3:
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def finding(severity: str, **more: object) -> dict[str, object]:
    found = {"slug": "numpy-in-forward", "severity": severity, "path": "a_b/net.py", "line": 5, "message": "a|b"}
    return {**found, "evidence": "observed run", "chain": [], **more}


@pytest.fixture
def paths(paths: ModelPaths) -> ModelPaths:
    """digits with two engines: int8, which ran, 33.25 dB and 90 KB; and fp16, which did not."""
    model_records(paths)
    write_json(paths.verdict, {})
    engine_records(paths.engine("digits-int8"))
    idle = {"engine_run": "no: no GPU [here]", "sqnr_db": 60.0, "accuracy": 0.97, "accuracy_eager": 0.9733}
    engine_records(paths.engine("digits-fp16"), metrics=idle, engine={"backend": "tensorrt", "precision": "fp16"})
    return paths


NAMES = ["digits-fp16", "digits-int8"]


def test_the_engines_stand_in_one_table(paths: ModelPaths) -> None:
    run = dataclasses.replace(gather(paths, NAMES), timings={"digits-int8": TIMING}, timed_on="a CPU")
    shown = render_markdown(run)
    (engines,) = tables_of(shown)
    assert engines == [
        ["Engine", "Precision", "Backend", "accuracy, eager", "accuracy", "Agreement", "SQNR", "Size", "Latency", "Run"],
        ["digits-fp16", "fp16", "tensorrt", "0.9733", "0.9700", "-", "60.0\u00a0dB", "-", "-", "○ no"],
        ["digits-int8", "int8", "tensorrt_rtx", "0.9733", "0.9711", ">\u00a00.9999", "33.2\u00a0dB", "90.0\u00a0KB", "2.5\u00a0ms", "✓ yes"],
    ]  # fmt: skip
    assert shown.startswith("## digits\n\n**! All 2 engines were built. 1 of them was run on this machine.**")
    assert "Not run: digits-fp16: no GPU \\[here\\]." in shown
    assert "Latency: the median on a CPU." in shown


def test_a_column_in_which_nothing_was_measured_is_left_out(paths: ModelPaths) -> None:
    (engines,) = tables_of(render_markdown(gather(paths, ["digits-int8"])))
    assert "Latency" not in engines[0]
    assert [len(row) for row in engines] == [9, 9]


def test_gates_that_fail_come_before_all_else_and_those_that_hold_are_folded(paths: ModelPaths) -> None:
    run = gather(paths, NAMES)
    shown = render_markdown(run, gates(run, {"*": GateConfig(sqnr_db=40), "*int8": GateConfig(bytes=100_000)}))
    failed, engines, held = tables_of(shown)
    assert failed[1:] == [["digits-int8", "SQNR, dB", "at\u00a0least\u00a040", "33.25", "✕ FAILED"]]
    assert engines[0][0] == "Engine"
    assert [row[:2] for row in held[1:]] == [["digits-fp16", "SQNR of its graph, dB"], ["digits-int8", "bytes"]]
    assert "<details><summary>2 gates that hold</summary>\n\n|" in shown
    assert "**✕ Not fit to ship: 1 of 3 gates failed.**" in shown


def test_findings_stand_by_severity_and_notes_alone_are_folded(paths: ModelPaths) -> None:
    found = [finding("note"), finding("warning"), finding("error", message="`x` <b> [1](2) *a* @all $y$ ~z~ \\ &amp;")]
    model_records(paths, check={"findings": found})
    shown = render_markdown(gather(paths, NAMES))
    assert "### Findings of the check: 1 error, 1 warning, 1 note" in shown
    rows = tables_of(shown)[-1][1:]
    assert [row[0] for row in rows] == ["✕ error", "! warning", "• note"]
    assert rows[0][3] == "`x` <b> [1](2) *a* @\u200ball $y$ ~z~ \\ &amp;"
    assert rows[1][1:] == ["numpy-in-forward", "a_b/net.py:5", "a|b"]
    model_records(paths, check={"findings": [finding("note")] * 3})
    assert "<details><summary>Findings of the check: 3 notes</summary>" in render_markdown(gather(paths, NAMES))
    model_records(paths, check={"findings": []})
    assert "The check found nothing." in render_markdown(gather(paths, NAMES))


def test_many_findings_are_cut_and_told_so(paths: ModelPaths) -> None:
    model_records(paths, check={"findings": [finding("warning")] * 1000})
    rows = tables_of(render_markdown(gather(paths, NAMES)))[-1][1:]
    assert (len(rows), rows[-1][3]) == (51, "950 more in build/models/digits/check.json")


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "`a|b`",
        "a``b`c",
        "*x* _y_ __z__",
        "<script>",
        "[a](b)",
        "![a](b)",
        "#1 ~2~ $3$ &lt;",
        "\\",
        "a\nb",
        "| |",
    ],
)
def test_what_is_written_is_what_is_read(text: str) -> None:
    table = Table("", ("a|b", "c"), ((Cell(text), Cell(text, "code")),))
    ((heads, row),) = tables_of(markdown_table(table))
    assert heads == ["a|b", "c"]
    assert row == [" ".join(text.split())] * 2
    assert code("") == escaped("") == ""


def test_commands_in_our_own_sentences_are_code() -> None:
    assert prose("a_b: run `dvc push a_b`, *then* go") == "a\\_b: run `dvc push a_b`, \\*then\\* go"


def test_a_model_is_told_as_far_as_it_is_built(paths: ModelPaths) -> None:
    paths.engine("digits-fp16").metrics.unlink()
    with pytest.raises(ArtifactError, match=r"metrics.json: is missing. Run `dvc repro`."):
        gather(paths, NAMES)
    run = gather(paths, NAMES, allow_missing=True)
    assert (run.missing, [one.name for one in run.engines]) == ({"digits-fp16": "verify"}, ["digits-int8"])
    shown = render_markdown(run, gates(run, {"*fp16": GateConfig(sqnr_db=99), "*": GateConfig(bytes=1)}))
    assert "**✕ 1 engine not built: digits-fp16.**" in shown
    assert tables_of(shown)[0][1][:2] == ["digits-int8", "bytes"]
    assert tables_of(shown)[1][-1][-1] == "✕ not built: stopped at verify"
    baseline = GateConfig(baseline="digits-fp16", bytes_ratio=0.1)
    assert gates(run, {"*int8": baseline}) == []  # there is nothing to hold it against
    paths.torchscript_json.unlink()
    model_records(paths, check={"findings": [finding("error")]})
    paths.verdict.unlink()
    shown = render_markdown(gather(paths, NAMES, allow_missing=True))
    assert shown.startswith("## digits\n\n**✕ Not built: it stopped at check.**\n")
    assert "### Findings of the check: 1 error" in shown


def test_what_is_damaged_is_refused_also_where_some_may_be_missing(paths: ModelPaths) -> None:
    write_bytes(paths.engine("digits-fp16").metrics, b"{")
    with pytest.raises(ArtifactError, match="is damaged"):
        gather(paths, NAMES, allow_missing=True)


FILE = "build/models/digits/engines/{}/metrics.json".format


def test_changes_are_sorted_into_new_gone_changed_and_unknown() -> None:
    told = {
        FILE("same"): {"sqnr_db": {"old": 40.0, "new": 40.0}},
        FILE("better"): {"sqnr_db": {"old": 40.0, "new": 42.5}, "agreement": {"old": None, "new": 1.0}},
        FILE("added"): {"sqnr_db": {"old": None, "new": 1.0}},
        FILE("dropped"): {"sqnr_db": {"old": 1.0, "new": None}},
        FILE("lost"): {"sqnr_db": {"old": None, "new": 1.0}},
        FILE("early"): {"sqnr_db": {"old": None, "new": 1.0}},
        FILE("stopped"): {"sqnr_db": {"old": 1.0, "new": None}},
        "train/metrics.json": {"loss": {"old": 1.0, "new": 2.0}},
        "build/models/other/engines/o/metrics.json": {"sqnr_db": {"old": 1.0, "new": None}},
    }
    engines = {"digits": ["same", "better", "added", "lost", "early", "stopped"]}
    unread = {FILE("lost"): True, FILE("early"): False, FILE("older"): False}
    found = changes_by_model("main", engines, told, unread)
    assert set(found) == {"digits", "other"}
    assert found["digits"] == Changes(
        "main",
        changed=(Change("better", "agreement", None, 1.0), Change("better", "sqnr_db", 40.0, 42.5)),
        new=("added",), gone=("dropped", "older"), unknown=("lost",), unbuilt=("early",),
    )  # fmt: skip
    assert list(sentences(found["digits"])) == [
        "New: added.",
        "Gone: dropped, older.",
        "Not compared: early: not in the dvc.lock of main.",
        "Not compared: lost: the metrics are neither in DVC's cache nor in its remote; run `dvc push` where they were"
        " built, then `dvc fetch --all-branches` here.",
    ]


def test_a_change_has_its_sign_and_says_whether_it_is_for_the_better(paths: ModelPaths) -> None:
    changed = tuple(
        Change("digits-int8", *values)
        for values in (
            ("accuracy", 0.97, 0.96), ("accuracy_eager", 0.97, 0.98), ("engine_kb", 100.0, 150.0), ("onnx_kb", 20.0, 10.0),
            ("sqnr_db", 30.0, 33.25), ("sqnr_db", 200.0, 33.25), ("worst_rel_error", 0.02, 0.021),
            ("agreement", None, 0.9), ("engine_run", "no: no GPU", "yes"),
        )
    )  # fmt: skip
    shown = render_markdown(gather(paths, NAMES), changes=Changes("a|b", changed))
    assert "### Against `a\\|b`" in shown
    rows = [[cell.replace("\u00a0", " ") for cell in row[1:]] for row in tables_of(shown)[-1]]
    assert rows == [
        ["Figure", "a|b", "Now", "Change"],
        ["accuracy", "0.9700", "0.9600", "! -0.01"],
        ["accuracy, eager", "0.9700", "0.9800", "✓ +0.01"],
        ["Engine size", "100.0 KB", "150.0 KB", "! +50.0 KB (+50.0%)"],
        ["ONNX size", "20.0 KB", "10.0 KB", "✓ -10.0 KB (-50.0%)"],
        ["SQNR", "30.0 dB", "33.2 dB", "✓ +3.25 dB"],
        ["SQNR", "exact", "33.2 dB", ""],
        ["Worst rel. error", "2e-2", "2.1e-2", "! +0.001"],
        ["Agreement", "not measured", "0.9000", ""],
        ["Run", "no: no GPU", "yes", ""],
    ]
    assert "No figure differs." in render_markdown(gather(paths, NAMES), changes=Changes("main"))


def test_timings_are_of_the_engine_that_was_timed(paths: ModelPaths) -> None:
    engine_records(paths.engine("digits-int8"), engine={"plan_sha256": "ab"})
    run = gather(paths, NAMES)
    assert with_timings(run, paths.timings) is run  # there is no report yet
    timed = dataclasses.replace(
        run, timings={"digits-int8": TIMING}, not_timed={"digits-fp16": "no GPU"}, timed_on="a CPU"
    )
    write_bytes(paths.timings, timings_json(timed))
    assert with_timings(run, paths.timings) == timed
    engine_records(paths.engine("digits-int8"), engine={"plan_sha256": "cd"})
    again = with_timings(gather(paths, NAMES), paths.timings)
    assert (again.timings, again.not_timed["digits-int8"]) == ({}, "built again since it was timed")


@pytest.mark.parametrize("broken", ["[]", "{}", '{"timings": [], "not_timed": {}, "timed_on": ""}'])
def test_damaged_timings_are_refused(paths: ModelPaths, broken: str) -> None:
    write_bytes(paths.timings, broken.encode())
    with pytest.raises(ArtifactError, match=r"digits.json: is damaged: .* Run `dvc repro -f report@digits`."):
        with_timings(gather(paths, NAMES), paths.timings)


def test_code_quality_names_the_place_and_tells_models_apart() -> None:
    place = {"artifactLocation": {"uri": "a%20b/net.py"}, "region": {"startLine": 5}}
    result = {
        "ruleId": "QZ002", "level": "error", "message": {"text": "numpy.sin reads"},
        "locations": [{"physicalLocation": place}], "partialFingerprints": {"qntz/v1": "ab"},
        "properties": {"slug": "numpy-in-forward"},
    }  # fmt: skip
    nowhere = {**result, "level": "note", "locations": [{"physicalLocation": {"artifactLocation": {"uri": ""}}}]}
    sarif = {"runs": [{"results": [result, nowhere]}]}
    one, other = code_quality("digits", sarif)
    assert {key: one[key] for key in ("description", "check_name", "severity", "location")} == {
        "description": "digits: numpy.sin reads",
        "check_name": "QZ002 numpy-in-forward",
        "severity": "major",
        "location": {"path": "a b/net.py", "lines": {"begin": 5}},
    }
    assert (other["severity"], other["location"]) == ("info", {"path": "params.yaml", "lines": {"begin": 1}})
    assert one["fingerprint"] != next(code_quality("rows", sarif))["fingerprint"]
    assert json.loads(json.dumps([one, other])) == [one, other]
