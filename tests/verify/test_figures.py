"""Figures against values worked out by hand, and every refusal of the gate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qntz.config import ToleranceConfig
from qntz.errors import DataError, ParityError, PluginError
from qntz.figures import Figures, agreement, gate, measure, metrics_of, pooled_sqnr_db
from qntz.records import Arrays, Metric
from qntz.report.wording import fraction

TOLERANCE = ToleranceConfig(relative=0.01, metric_drop=0.25, sqnr_db=20.0, agreement=0.75)
ACCURACY = Metric(
    "accuracy",
    score=lambda outputs, targets: float((outputs["y"].argmax(-1) == targets).mean()),
    agree=lambda a, b: float((a["y"].argmax(-1) == b["y"].argmax(-1)).mean()),
)


def run_of(answers: Sequence[Arrays]):
    """A run that gives its answers one after the other."""
    remaining = iter(answers)
    return lambda inputs: next(remaining)


def y(*rows: Sequence[float]) -> Arrays:
    return {"y": np.array(rows, dtype=np.float32)}


def measured(outputs: Sequence[Arrays], golden: Sequence[Arrays]) -> Figures:
    return measure(run_of(outputs), [{}] * len(outputs), golden, (), [], None)


def test_on_probes_alone() -> None:
    golden = [y([3, 4]), {"y": np.array([[0, 10], [10, 5]], dtype=np.float32)}]
    outputs = [y([3, 4.5]), {"y": np.array([[0, 10], [10, 11]], dtype=np.float32)}]
    figures = measured(outputs, golden)
    assert (figures.score, figures.score_eager) == (None, None)
    assert figures.agreement == pytest.approx(2 / 3)  # the last row decides otherwise
    assert figures.worst.error == pytest.approx(6 / 10)
    assert (figures.worst.probe, figures.worst.output) == (1, "y")
    assert figures.sqnr_output == "y"
    assert figures.sqnr_db == pytest.approx(10 * math.log10((9 + 16 + 100 + 100 + 25) / (0.25 + 36)))


def test_on_test_data_with_a_metric() -> None:
    reference = [y([1, 0], [1, 0], [0, 1]), y([0, 1])]
    got = [y([1, 0], [0, 1], [0, 1]), y([0, 1])]
    batches = [({}, np.array([0, 0, 0])), ({}, np.array([1]))]
    probes = [y([2, 4])]
    figures = measure(run_of([y([2, 3]), *got]), [{}], probes, batches, reference, ACCURACY)
    assert figures.score_eager == 0.75  # eager decides 0 0 1 1, the targets are 0 0 0 1
    assert figures.score == 0.5  # the artifact decides 0 1 1 1
    assert figures.agreement == 0.75
    assert figures.worst.error == 0.25  # of the probe
    assert figures.sqnr_db == pytest.approx(10 * math.log10(4 / 2))  # of the test data


def test_the_noisiest_output_is_named() -> None:
    golden = [{"a": np.full((2, 3), 2.0), "b": np.full((2, 1), 2.0), "n": np.array([1, 2])}]
    outputs = [{"a": np.full((2, 3), 2.2), "b": np.full((2, 1), 1.0), "n": np.array([1, 2])}]
    figures = measured(outputs, golden)
    assert figures.sqnr_output == "b"
    assert figures.sqnr_db == pytest.approx(10 * math.log10(4))


def test_equal_outputs_have_no_noise() -> None:
    figures = measured([y([1, 2])], [y([1, 2])])
    assert figures.sqnr_db == math.inf
    gate(figures, "fp32", TOLERANCE, None, "a.onnx")
    gate(figures, "int8", TOLERANCE, None, "a.onnx")


def test_other_test_data_than_the_eager_models_are_refused() -> None:
    with pytest.raises(DataError, match="other test data than the eager model ran on: 1 batches now, 2 then"):
        measure(run_of([y([1, 2])] * 2), [{}], [y([1, 2])], [({}, None)], [y([1, 2])] * 2, None)


def test_a_metric_needs_targets() -> None:
    with pytest.raises(DataError, match="test data without a target: the metric 'accuracy' needs labelled samples"):
        measure(run_of([y([1, 2])] * 2), [{}], [y([1, 2])], [({}, None)], [y([1, 2])], ACCURACY)
    with pytest.raises(DataError, match="no test data: the metric 'accuracy' needs"):
        measure(run_of([y([1, 2])]), [{}], [y([1, 2])], [], [], ACCURACY)


def test_a_metric_needs_outputs_of_one_shape() -> None:
    reference = [y([1, 0]), y([1, 0, 2])]
    batches = [({}, np.array([0])), ({}, np.array([1]))]
    with pytest.raises(DataError, match=r"output 'y' has a shape that differs between samples.*\[\[2\], \[3\]\]"):
        measure(run_of([y([1, 0]), *reference]), [{}], [y([1, 0])], batches, reference, ACCURACY)


def test_an_output_that_the_metric_does_not_read_may_have_any_shape() -> None:
    reference = [{"y": np.array([[1.0, 0]]), "mask": np.zeros(3)}, {"y": np.array([[0.0, 1]]), "mask": np.zeros(4)}]
    batches = [({}, np.array([0])), ({}, np.array([0]))]
    figures = measure(run_of([reference[0], *reference]), [{}], [reference[0]], batches, reference, ACCURACY)
    assert (figures.score, figures.score_eager) == (0.5, 0.5)
    assert figures.scored == {"y"}


def boxes_and_scores(scale: float) -> Arrays:
    return {"boxes": np.array([[scale, 2.0]]), "y": np.array([[1.0, 0]]), "count": np.array(7)}


SCORES = Metric("scores", lambda outputs, targets: float(np.mean(outputs["y"].argmax(-1) == targets)), lambda a, b: 1.0)


def test_the_metric_judges_what_it_reads_and_no_other_output() -> None:
    good, bad, batches = boxes_and_scores(1.0), boxes_and_scores(-50.0), [({}, np.array([0]))]
    figures = measure(run_of([good, bad]), [{}], [good], batches, [good], SCORES)
    assert (figures.score, figures.scored) == (1.0, {"y"})
    with pytest.raises(ParityError, match="SQNR of output 'boxes' is"):
        gate(figures, "int8", TOLERANCE, SCORES, "a.onnx")
    gate(measure(run_of([good, good]), [{}], [good], batches, [good], SCORES), "int8", TOLERANCE, SCORES, "a.onnx")


def test_agreement_is_by_sample_whatever_an_output_holds() -> None:
    """One sample of a hundred agrees; the first output has a row for another thing than a sample."""
    first = {"extra": np.zeros((99, 1)), "y": np.zeros((1, 2))}
    rest = {"extra": np.zeros((1, 1)), "y": np.ones((99, 2))}
    metric = Metric("m", lambda outputs, targets: 0.0, lambda got, wanted: float(len(wanted["y"]) == 1))
    assert agreement([first, rest], [first, rest], metric, [1, 99]) == 0.01


@pytest.mark.parametrize(
    ("actual", "expected", "wanted"),
    [
        (np.array([[1.0, 2], [4, 3]]), np.array([[0.0, 9], [1, 2]]), 0.5),
        (np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), 1.0),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.75),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.zeros((2, 3)), np.zeros((2, 4)), 1.0),  # the argmax of each row is the first
        (np.zeros((3, 4)), np.zeros((2, 4)), 0.0),
        (np.array([[1.0], [2]]), np.array([[3.0], [4]]), None),
        (np.array([1.0, 2]), np.array([3.0, 4]), None),
    ],
)
def test_agreement_without_a_metric(actual: np.ndarray, expected: np.ndarray, wanted: float | None) -> None:
    assert agreement([{"y": actual}], [{"y": expected}], None) == wanted


def test_agreement_counts_samples_not_batches() -> None:
    expected = [y([1, 0], [1, 0], [1, 0]), y([0, 1])]
    actual = [y([1, 0], [1, 0], [0, 1]), y([0, 1])]
    assert agreement(actual, expected, ACCURACY, [len(e["y"]) for e in expected]) == 0.75
    assert agreement(actual, expected, None) == 0.75


def test_what_both_sides_mask_is_no_noise() -> None:
    expected = np.array([3.0, 4.0, -np.inf, np.nan, np.inf])
    assert pooled_sqnr_db([np.array([3.0, 4.5, -np.inf, np.nan, np.inf])], [expected]) == pytest.approx(20)
    assert pooled_sqnr_db([np.array([3.0, 4.0, -np.inf, 0.0, np.inf])], [expected]) == -math.inf
    assert pooled_sqnr_db([np.array([3.0, 4.0, -np.inf, np.nan, -np.inf])], [expected]) == -math.inf
    assert pooled_sqnr_db([None], [expected]) == -math.inf
    assert pooled_sqnr_db([expected[:2]], [expected]) == -math.inf


def refusal(figures: Figures, precision: str = "int8", metric: Metric | None = None, do: str = "") -> str:
    with pytest.raises(ParityError) as caught:
        gate(figures, precision, TOLERANCE, metric, "quantized.onnx", do)
    return str(caught.value)


def test_fp32_is_held_to_the_relative_error() -> None:
    golden = [y([1, 2]), y([4, 8])]
    gate(measured([y([1, 2]), y([4, 8.07])], golden), "fp32", TOLERANCE, None, "quantized.onnx")
    text = refusal(measured([y([1, 2]), y([4, 8.2])], golden), "fp32")
    assert text.startswith("quantized.onnx: differs from the eager model: output 'y' on probe 1 is off by 0.025 of its")
    assert "(tolerance 0.01)" in text


def test_sqnr_and_agreement_gate_without_a_metric() -> None:
    golden = [y([0, 10])]
    assert refusal(measured([y([0, 8])], golden)) == (
        "quantized.onnx: is too far from the eager model: SQNR of output 'y' is 13.98 dB (at least 20 wanted). Leave"
        " nodes in floating point (quantize.exclude), or choose another quantize.method or precision."
    )
    rows = [y([10.0, 10.1], [10, 0], [10, 0])]
    text = refusal(measured([y([10.1, 10.0], [10, 0], [10, 0])], rows), "fp16", do="Use bf16.")
    assert text.endswith("agreement is 0.6666 (at least 0.75 wanted). Use bf16.")
    gate(measured([y([0, 9.5])], golden), "int8", TOLERANCE, None, "quantized.onnx")


def test_one_wrong_decision_in_millions_is_not_agreement() -> None:
    count = 4_000_000
    wanted = np.zeros((count, 2), np.float32)
    wanted[:, 1] = 1
    got = wanted.copy()
    got[7] = [1, 0]
    figures = measured([{"y": got}], [{"y": wanted}])
    assert figures.agreement == 1 - 1 / count
    told = metrics_of(figures, None, {})["agreement"]
    assert told == 0.999999
    assert fraction(told) == "> 0.9999"
    strict = dataclasses.replace(TOLERANCE, agreement=1.0)
    with pytest.raises(ParityError, match=r"agreement is 0.9999 \(at least 1 wanted\)"):
        gate(figures, "int8", strict, None, "engine")
    labels = np.zeros(count, np.int64)
    figures = measured([{"y": got.argmax(-1)}], [{"y": labels + 1}])
    with pytest.raises(ParityError, match=r"0.9999 of output 'y' is equal \(at least 1 wanted\)"):
        gate(figures, "int8", strict, None, "engine")


@pytest.mark.parametrize(
    ("agreed", "told"),
    [(1.0, 1.0), (0.29, 0.29), (49 / 50 * (1 - 2**-53), 0.98), (2 / 3, 0.666666), (1 - 2e-7, 0.999999), (0.0, 0.0)],
)
def test_an_agreement_is_never_rounded_up(agreed: float, told: float) -> None:
    figures = dataclasses.replace(measured([y([0, 1])], [y([0, 1])]), agreement=agreed)
    assert metrics_of(figures, None, {})["agreement"] == told


def test_a_score_below_1_stays_there() -> None:
    figures = dataclasses.replace(with_metric(4), score_eager=1.0, score=1 - 2e-7)
    told = metrics_of(figures, ACCURACY, {})
    assert (told["accuracy_eager"], told["accuracy"]) == (1.0, 0.999999)
    figures = dataclasses.replace(figures, score_eager=76.1234567, score=353 / 360)
    told = metrics_of(figures, ACCURACY, {})
    assert (told["accuracy_eager"], told["accuracy"]) == (76.123457, 0.980556)


def with_metric(right: int) -> Figures:
    """Eager is right on 4 of 4 samples, the artifact on `right`; its SQNR is bad."""
    reference = [y(*[[0, 1]] * 4)]
    got = [y(*[[0, 1]] * right, *[[1, 0]] * (4 - right))]
    return measure(run_of([y([0, 9]), *got]), [{}], [y([0, 1])], [({}, np.ones(4))], reference, ACCURACY)


def test_the_metric_alone_gates_where_there_is_one() -> None:
    gate(with_metric(3), "int8", TOLERANCE, ACCURACY, "quantized.onnx")
    text = refusal(with_metric(2), metric=ACCURACY)
    assert "accuracy falls from 1 to 0.5, by 0.5 (at most 0.25 wanted)" in text


def judged_by(score: Any, agree: Any = ACCURACY.agree) -> Figures:
    """Figures of an artifact whose second output is another than the eager model's, by a metric of these functions."""
    metric = Metric("odd", score, agree)
    return measure(run_of([y([0, 1])] * 2), [{}], [y([0, 1])], [({}, np.ones(1))], [y([0, 2])], metric)


def test_a_score_that_is_nan_does_not_pass() -> None:
    figures = judged_by(lambda outputs, targets: math.nan if outputs["y"].max() == 1 else 0.5)
    metric = Metric("odd", ACCURACY.score, ACCURACY.agree)
    assert "odd falls from 0.5 to nan" in refusal(figures, metric=metric)
    told = metrics_of(figures, metric, {})
    assert (told["odd_eager"], told["odd"]) == (0.5, None)


def test_a_score_that_is_infinite_does_not_pass() -> None:
    metric = Metric("odd", ACCURACY.score, ACCURACY.agree)
    figures = judged_by(lambda outputs, targets: math.inf if outputs["y"].max() == 1 else 0.5)
    assert "odd falls from 0.5 to inf" in refusal(figures, metric=metric)


def test_a_broken_artifact_is_not_the_metrics_fault() -> None:
    def picky(outputs: Any, targets: Any) -> float:
        if np.isnan(outputs["y"]).any():
            raise ValueError("Input contains NaN")
        return 0.5

    metric = Metric("odd", picky, ACCURACY.agree)
    figures = measure(run_of([y([0, 1]), y([np.nan, 1])]), [{}], [y([0, 1])], [({}, np.ones(1))], [y([0, 1])], metric)
    assert "holds NaN in 1 of 2" in refusal(figures, metric=metric)


def raises(*arguments: Any) -> float:
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("score", "agree", "message"),
    [
        (lambda o, t: math.nan, ACCURACY.agree, "metric 'odd' gives nan for the eager model"),
        (raises, ACCURACY.agree, "score of metric 'odd' fails: KeyError: 'lost' (test_figures.py:"),
        (lambda o, t: [0.5] * 10_000, ACCURACY.agree, "score of metric 'odd' gives a list, no number"),
        (lambda o, t: 10**400, ACCURACY.agree, "score of metric 'odd' gives a int, no number"),
        (lambda o, t: 0.5, lambda a, b: math.nan, "agree of metric 'odd' gives nan. Return the fraction"),
        (lambda o, t: 0.5, lambda a, b: 12, "agree of metric 'odd' gives 12. Return the fraction"),
        (lambda o, t: None, ACCURACY.agree, "score of metric 'odd' gives a NoneType, no number"),
        (lambda o, t: 0.5, lambda a, b: np.ones((2, 3)), "agree of metric 'odd' gives an array of shape [2, 3], no"),
        (lambda o, t: 0.5, raises, "agree of metric 'odd' fails: KeyError: 'lost'"),
    ],
)
def test_a_metric_that_gives_no_number_is_named(score: Any, agree: Any, message: str) -> None:
    with pytest.raises(PluginError) as raised:
        judged_by(score, agree)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("got", "text"),
    [
        ({"y": np.array([[np.nan, 1.0]])}, "where the eager model does not: output 'y' on probe 0 holds NaN in 1"),
        ({"y": np.array([[1.0, np.inf]])}, "yields infinity where the eager model does not"),
        ({"y": np.zeros((1, 3))}, "output 'y' on probe 0 has shape [1, 3] instead of [1, 2]"),
    ],
)
def test_broken_outputs_are_refused_whatever_the_metric_says(got: Arrays, text: str) -> None:
    reference = [y([0, 1])]
    run = run_of([got, *reference])
    figures = measure(run, [{}], [y([1, 1])], [({}, np.ones(1))], reference, ACCURACY)
    assert figures.score == figures.score_eager == 1.0
    assert text in refusal(figures, metric=ACCURACY)


def test_an_output_that_is_missing_is_named() -> None:
    with pytest.raises(ParityError, match="no output 'y': it has '"):
        measure(run_of([{"z": np.zeros((1, 2))}]), [{}], [y([1, 1])], [], [], None)


def test_outputs_come_in_the_eager_models_order() -> None:
    golden = [{"a": np.array([[0.0, 1.0]]), "b": np.array([[1.0, 0.0]])}]
    figures = measure(run_of([dict(reversed(golden[0].items()))]), [{}], golden, [], [], None)
    assert list(figures.outputs[0]) == ["a", "b"]
    assert figures.agreement == 1.0


def test_what_no_metric_judges_is_held_to_sqnr_and_to_equal_elements() -> None:
    """The metric reads the first output; a second that is broken on the test data, and a third of integers, count too."""
    good = {"y": np.array([[0.0, 1.0]]), "z": np.array([[1.0, 2.0]]), "ids": np.array([[3, 4]])}
    for name, broken, message in (
        ("z", np.array([[np.nan, 2.0]]), "output 'z' on batch of test data 0 holds NaN"),
        ("z", np.array([[-7.0, -14.0]]), "SQNR of output 'z' is -18.06 dB"),  # noise 8 times the signal
        ("ids", np.array([[3, 0]]), "0.5000 of output 'ids' is equal"),
    ):
        run = run_of([good, {**good, name: broken}])
        figures = measure(run, [{}], [good], [({}, np.ones(1, int))], [good], ACCURACY)
        assert figures.score == 1.0
        assert message in refusal(figures, metric=ACCURACY)


def test_fp32_is_held_to_the_test_data_too() -> None:
    good, off = {"y": np.array([[0.0, 1.0]])}, {"y": np.array([[0.0, -1.0]])}
    figures = measure(run_of([good, off]), [{}], [good], [({}, np.ones(1, int))], [good], ACCURACY)
    with pytest.raises(ParityError, match="output 'y' on batch of test data 0 is off by 2 of its largest"):
        gate(figures, "fp32", ToleranceConfig(), ACCURACY, "x")
