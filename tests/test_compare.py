"""Errors against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qntz.compare import relative_error, require_parity, sqnr_db, worst_difference
from qntz.errors import ParityError


def test_relative_error_is_over_the_largest_magnitude() -> None:
    assert relative_error(np.array([1.0, -4.0]), np.array([1.5, -4.0])) == 0.125
    assert relative_error(np.array([0.0]), np.array([0.0])) == 0
    assert relative_error(np.array([1e-9]), np.array([0.0])) == math.inf
    assert relative_error(np.zeros((2, 1)), np.zeros((2,))) == math.inf
    assert relative_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_nan_and_infinity_must_stand_in_the_same_places() -> None:
    assert relative_error(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == 0
    assert relative_error(np.array([np.nan, 1.0]), np.array([0.0, 1.0])) == math.inf
    assert relative_error(np.array([np.inf, 2.0]), np.array([np.inf, 1.0])) == 1
    assert relative_error(np.array([-np.inf, 1.0]), np.array([np.inf, 1.0])) == math.inf


def test_integers_are_equal_or_not_and_dtypes_count() -> None:
    assert relative_error(np.array([50000, 120]), np.array([50000, 123])) == math.inf
    assert relative_error(np.array([2**53 + 1]), np.array([2**53])) == math.inf
    assert relative_error(np.array([True, False]), np.array([True, False])) == 0
    assert relative_error(np.float16([1.0]), np.float32([1.0])) == math.inf
    assert relative_error(np.array([1 + 5j]), np.array([1 - 3j])) == pytest.approx(8 / math.sqrt(10))


def test_an_output_is_held_against_its_largest_magnitude_on_any_probe() -> None:
    """On a probe where the output is rounding noise, noise is no error."""
    expected = [{"y": np.array([100.0])}, {"y": np.array([0.0])}]
    actual = [{"y": np.array([100.0])}, {"y": np.array([1e-6])}]
    assert worst_difference(actual, expected).error == pytest.approx(1e-8)


def test_a_tolerance_that_is_no_number_lets_nothing_through() -> None:
    with pytest.raises(ParityError):
        require_parity([{"y": np.array([1.1])}], [{"y": np.array([1.0])}], math.nan, "x")


def test_sqnr() -> None:
    signal = np.array([3.0, 4.0])
    assert sqnr_db(signal + np.array([0.3, 0.4]), signal) == pytest.approx(20)
    assert sqnr_db(signal, signal) == math.inf
    assert sqnr_db(np.array([1.0]), np.array([0.0])) == -math.inf


def test_the_refusal_names_output_probe_and_error() -> None:
    expected = [{"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(3), "b": np.full(3, 10.0)}]
    actual = [{"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(3), "b": np.array([10.0, 10.5, 10.0])}]
    worst = worst_difference(actual, expected)
    assert (worst.output, worst.probe, worst.error) == ("b", 1, 0.05)
    assert require_parity(actual, expected, 0.05, "x").error == 0.05
    with pytest.raises(ParityError) as error:
        require_parity(actual, expected, 0.049, "model.onnx")
    assert "model.onnx: differs from the eager model: output 'b' on probe 1 is off by 0.05" in str(error.value)
    del actual[0]["a"]
    with pytest.raises(ParityError, match="output 'a' on probe 0 is off by inf"):
        require_parity(actual, expected, 1, "model.onnx")
