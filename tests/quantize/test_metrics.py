"""The shipped metrics on scores small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qntz.builtin.metrics import accuracy, qntz_metrics, same_class, top5
from qntz.errors import DataError

SCORES = np.array([[0.1, 0.9, 0.3], [0.8, 0.1, 0.1], [0.2, 0.3, 0.4], [0.6, 0.5, 0.4]], np.float32)


def test_the_hook_names_them():
    assert [metric.name for metric in qntz_metrics()] == ["accuracy", "top5"]


def test_accuracy_is_of_the_first_output():
    outputs = {"logits": SCORES, "other": -SCORES}
    assert accuracy(outputs, np.array([1, 0, 0, 0])) == 0.75
    assert accuracy(outputs, np.array([1, 0, 2, 0], np.uint8)) == 1.0


def test_accuracy_takes_a_class_a_position():
    scores = np.stack([SCORES, SCORES[::-1]])
    assert accuracy({"y": scores}, np.array([[1, 0, 2, 0], [0, 2, 0, 2]])) == 7 / 8


def test_top5_takes_the_five_best():
    scores = np.tile(np.arange(8, dtype=np.float32), (3, 1))
    assert top5({"y": scores}, np.array([7, 3, 2])) == pytest.approx(2 / 3)
    assert top5({"y": np.zeros((2, 8), np.float32)}, np.array([0, 1])) == 0.0


def test_agreement_counts_equal_decisions():
    other = SCORES.copy()
    other[1] = [0.1, 0.8, 0.2]
    assert same_class({"a": SCORES}, {"a": other}) == 0.75
    assert same_class({"a": SCORES}, {"a": 2 * SCORES + 1}) == 1.0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([1.0, 0, 0, 0]), "target: targets are float64, not class indices. Give integers."),
        (np.array([[1], [0], [0], [0]]), "target: targets have shape [4, 1]: output 'y' has [4, 3]."),
        (np.array([1, 0, 3, 0]), "target: targets range from 0 to 3: output 'y' has 3 classes."),
        (np.array([1, 0, -1, 0]), "target: targets range from -1 to 1: output 'y' has 3 classes."),
    ],
)
@pytest.mark.parametrize("score", [accuracy, top5])
def test_targets_that_do_not_fit_are_refused(score, targets, message):
    with pytest.raises(DataError) as caught:
        score({"y": SCORES}, targets)
    assert str(caught.value) == message
