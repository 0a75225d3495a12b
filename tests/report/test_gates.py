"""Gates: bounds by engine, beside what was measured."""

from __future__ import annotations

import io

import pytest

from qntz.config import GateConfig, ReportConfig, build
from qntz.errors import ConfigError, ParityError
from qntz.report import gather
from qntz.report.gates import gates, require, table
from tests.report.conftest import engine_records, model_records


@pytest.fixture
def run(paths):
    """digits-int8 of 92,160 bytes, accuracy 0.9733 eager and 0.9711, 33.25 dB; digits-fp32 of 184,320 bytes."""
    model_records(paths)
    engine_records(paths.engine("digits-int8"))
    engine_records(paths.engine("digits-fp32"), engine={"bytes": 184320}, metrics={"engine_run": "yes"})
    return gather(paths, ["digits-fp32", "digits-int8"])


@pytest.mark.parametrize(
    ("asked", "holds", "measured"),
    [
        ({"metric_drop": 0.0023}, True, 0.0022),
        ({"metric_drop": 0.0021}, False, 0.0022),
        ({"sqnr_db": 33.25}, True, 33.25),
        ({"sqnr_db": 33.26}, False, 33.25),
        ({"agreement": 0.9999}, True, 0.99997),
        ({"agreement": 1.0}, False, 0.99997),
        ({"bytes": 92160}, True, 92160),
        ({"bytes": 92159}, False, 92160),
        ({"baseline": "digits-fp32", "bytes_ratio": 0.5}, True, 0.5),
        ({"baseline": "digits-fp32", "bytes_ratio": 0.49}, False, 0.5),
    ],
)
def test_a_bound_is_held_against_what_was_measured(run, asked, holds, measured):
    (one,) = gates(run, {"digits-int8": GateConfig(**asked)})
    assert (one.holds, one.measured) == (holds, pytest.approx(measured))
    if holds:
        require([one])
        return
    with pytest.raises(ParityError, match="^report.gates: 1 of 1 gates do not hold: digits-int8: "):
        require([one])


def test_a_gate_of_200_db_asks_for_no_difference_at_all(paths):
    model_records(paths)
    for name, sqnr_db in (("exact", 200.0), ("near", 199.999)):
        engine_records(paths.engine(name), metrics={"sqnr_db": sqnr_db})
    found = gates(gather(paths, ["exact", "near"]), {"*": GateConfig(sqnr_db=200)})
    assert [(one.engine, one.holds) for one in found] == [("exact", True), ("near", False)]


def test_what_was_not_measured_never_holds(run):
    found = gates(run, {"*": GateConfig(sqnr_db=0, metric_drop=1)})
    assert [(one.engine, one.holds, one.measured is None) for one in found] == [
        ("digits-fp32", False, True),
        ("digits-fp32", False, True),
        ("digits-int8", True, False),
        ("digits-int8", True, False),
    ]
    with pytest.raises(ParityError) as caught:
        require(found)
    assert str(caught.value) == (
        "report.gates: 2 of 4 gates do not hold: digits-fp32: drop of accuracy not measured, wanted at most 1;"
        " digits-fp32: SQNR, dB not measured, wanted at least 0. Change the engine, or what is asked of it."
    )


def test_an_engine_that_did_not_run_is_judged_by_its_graph_and_told_so(paths):
    model_records(paths)
    idle = {"engine_run": "no: no CUDA GPU", "sqnr_db": 40.0, "accuracy": 0.9, "accuracy_eager": 0.9}
    engine_records(paths.engine("digits-int8"), metrics=idle)
    found = gates(gather(paths, ["digits-int8"]), {"*": GateConfig(sqnr_db=35, metric_drop=0, run=True)})
    assert [(one.asked, one.holds) for one in found] == [
        ("run", False),
        ("drop of accuracy of its graph", True),
        ("SQNR of its graph, dB", True),
    ]


def test_a_baseline_is_not_held_against_itself(run):
    found = gates(run, {"*": GateConfig(baseline="digits-fp32", bytes_ratio=0.6)})
    assert [one.engine for one in found] == ["digits-int8"]
    found = gates(run, {"*": GateConfig(baseline="digits-fp32", bytes_ratio=0.6, sqnr_db=10)})
    assert [(one.engine, "bytes" in one.asked) for one in found] == [
        ("digits-fp32", False),
        ("digits-int8", False),
        ("digits-int8", True),
    ]
    with pytest.raises(ConfigError, match="report.gates.digits-fp32: asks nothing of the engines that it matches"):
        gates(run, {"digits-fp32": GateConfig(baseline="digits-fp32", bytes_ratio=0.6)})


def test_the_table(run):
    from rich.console import Console

    text = io.StringIO()
    Console(width=120, file=text).print(table(gates(run, {"*int8": GateConfig(sqnr_db=35, bytes=100_000)})))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert lines == [
        "gates",
        "engine of wanted measured",
        "digits-int8 SQNR, dB at least 35 33.25 FAILED",
        "digits-int8 bytes at most 100,000 92,160 holds",
    ]


def test_refusals(run):
    with pytest.raises(
        ConfigError, match="^report.gates.digits-in8: matches no engine of the model. Did you mean 'digits-int8'"
    ):
        gates(run, {"digits-in8": GateConfig(sqnr_db=1)})
    with pytest.raises(
        ConfigError, match="^report.gates.*.baseline: no engine 'digits-fp3' of the model. Did you mean"
    ):
        gates(run, {"*": GateConfig(baseline="digits-fp3", bytes_ratio=1)})
    for given, message in (
        ({"sqnr": 1}, "report.gates.e: unknown key 'sqnr'. Did you mean 'sqnr_db'?"),
        ({"bytes": -1}, "report.gates.e.bytes: -1 is too small"),
        ({}, "report.gates.e: asks nothing."),
        (
            {"sqnr_db": 200.5},
            "report.gates.e.sqnr_db: 200.5 dB are never reached: metrics.json ends at 200 dB, which stands for no"
            " difference. Give 200 or less.",
        ),
        ({"agreement": 99}, "report.gates.e.agreement: 99.0 is no fraction"),
        ({"bytes_ratio": 0.5}, "report.gates.e.baseline: a baseline and a ratio to it go together."),
    ):
        with pytest.raises(ConfigError) as caught:
            build(ReportConfig, {"gates": {"e": given}}, "report")
        assert message in str(caught.value)
