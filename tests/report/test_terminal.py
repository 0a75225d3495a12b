"""The table for the terminal."""

from __future__ import annotations

import dataclasses
import io

from qntz.artifacts import ModelPaths
from qntz.bench import Timing
from qntz.report import gather, terminal_summary
from qntz.report.changes import Change, Changes
from qntz.report.run import Run
from qntz.report.terminal import changes_summary, findings_lines
from tests.report.conftest import engine_records, model_records


def printed(paths: ModelPaths, engines: list[str], **changed: object) -> list[str]:
    return shown(terminal_summary(dataclasses.replace(gather(paths, engines), **changed)))


def shown(table: object) -> list[str]:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_row_for_each_engine_and_the_reasons_below(paths: ModelPaths):
    model_records(paths)
    engine_records(paths.engine("digits-int8"))
    idle = {"engine_run": "no: no CUDA GPU [here]"}
    for name in ("digits-fp16", "digits-fp32"):
        engine_records(paths.engine(name), metrics=idle, engine={"backend": "tensorrt", "precision": name[-4:]})
    lines = printed(paths, ["digits-int8", "digits-fp16", "digits-fp32"])
    assert lines[0] == "digits"
    assert " ".join(lines[1].split()) == "engine precision backend accuracy eager accuracy agreement SQNR size run"
    assert " ".join(lines[2].split()) == "digits-int8 int8 tensorrt_rtx 0.9733 0.9711 > 0.9999 33.2 dB 90.0 KB yes"
    assert " ".join(lines[3].split()) == "digits-fp16 fp16 tensorrt - - - - - NOT RUN"
    assert lines[5] == "Not run: digits-fp16, digits-fp32: no CUDA GPU [here]"
    assert len(lines) == 6


def test_the_latency_of_those_that_were_timed(paths: ModelPaths):
    model_records(paths)
    for name in ("digits-int8", "digits-fp16"):
        engine_records(paths.engine(name))
    timings = {"digits-int8": Timing("digits-int8", "image 8x8", 8, 90, 2.5, 3.0, 9.0, 400.0)}
    lines = printed(paths, ["digits-int8", "digits-fp16"], timings=timings, timed_on="a CPU")
    assert " ".join(lines[1].split()).endswith("SQNR size latency run")
    assert " ".join(lines[2].split()).endswith("90.0 KB 2.5 ms yes")
    assert " ".join(lines[3].split()).endswith("90.0 KB - yes")
    assert lines[4:] == ["Latency: the median on a CPU"]


def test_a_narrow_terminal_has_the_figures_that_tell_engines_apart(paths: ModelPaths):
    model_records(paths)
    engine_records(paths.engine("digits-int8"))
    lines = shown(terminal_summary(gather(paths, ["digits-int8"]), 80))
    assert [line.split() for line in lines[1:]] == [
        ["engine", "precision", "accuracy", "SQNR", "size", "run"],
        ["digits-int8", "int8", "0.9711", "33.2", "dB", "90.0", "KB", "yes"],
    ]


def test_findings_and_changes():
    found = {
        "slug": "acme",
        "severity": "error",
        "path": "net.py",
        "line": 5,
        "message": "[red]",
        "evidence": "",
        "chain": [],
    }
    run = Run("digits", {"findings": [found, {**found, "severity": "note", "path": ""}]}, {}, {}, {}, ())
    assert list(findings_lines(run)) == ["✕ error  net.py:5 acme: [red]", "• note  acme: [red]"]
    changes = Changes("Main", (Change("digits-int8", "sqnr_db", 30.0, 33.25),))
    assert [" ".join(line.split()) for line in shown(changes_summary(changes))] == [
        "against Main",
        "engine figure Main now change",
        "digits-int8 SQNR 30.0 dB 33.2 dB ✓ +3.25 dB",
    ]
