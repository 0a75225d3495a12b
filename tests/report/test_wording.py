"""Figures in words: nothing is rounded into something better than it is."""

from __future__ import annotations

import math

import pytest

from qntz.report import wording


@pytest.mark.parametrize(
    ("say", "value", "expected"),
    [
        (wording.fraction, 0.97114, "0.9711"),
        (wording.fraction, 0.99997, "> 0.9999"),
        (wording.fraction, 1.0, "1.0000"),
        (wording.fraction, math.nan, "no number"),
        (wording.error, 1.25e-7, "1.2e-7"),
        (wording.error, 1e-4, "1e-4"),
        (wording.error, 0.0, "0"),
        (wording.error, math.inf, "unbounded"),
        (wording.error, math.nan, "unbounded"),
        (wording.decibel, 34.66, "34.7 dB"),
        (wording.decibel, -3.0, "-3.0 dB"),
        (wording.decibel, math.inf, "exact"),
        (wording.decibel, 200.0, "exact"),
        (wording.decibel, -200.0, "broken"),
        (wording.decibel, math.nan, "no number"),
        (wording.size, 1536, "1.5 KB"),
        (wording.size, 10 * 1024 * 1024, "10.0 MB"),
        (wording.count, 12345, "12,345"),
    ],
)
def test_a_figure_in_words(say, value, expected):
    assert say(value) == expected


@pytest.mark.parametrize("say", [wording.fraction, wording.error, wording.decibel, wording.size, wording.count])
def test_what_is_absent_was_not_measured(say):
    assert say(None) == "not measured"
