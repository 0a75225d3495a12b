"""Threshold methods against brute force over the raw values, and the entropy method against a plain one."""

from __future__ import annotations

import numpy as np
import pytest

from qntz.builtin.thresholds import (
    divergences,
    largest,
    least_divergence,
    least_squared_error,
    linear_bins,
    percentile_of,
    qntz_threshold_methods,
)
from qntz.errors import QuantizeError
from qntz.histograms import histogram_of

RNG = np.random.default_rng(5)
SAMPLES = {
    "normal": RNG.normal(0, 2, 60_000).astype(np.float32),
    "rectified": np.maximum(RNG.normal(0.3, 1, 60_000), 0).astype(np.float32),
    "heavy tail": RNG.standard_t(3, 60_000).astype(np.float32),
    "outliers": np.concatenate([RNG.normal(0, 1, 60_000), [90.0, -120.0]]).astype(np.float32),
    "uniform": RNG.uniform(-1, 1, 60_000).astype(np.float32),
    "grid": (RNG.integers(0, 17, 5000) / 16).astype(np.float32),
}
every_sample = pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES.keys())


def int8_error(values: np.ndarray, amax: float) -> float:
    scale = amax / 127
    exact = values.astype(np.float64)
    return float(np.square(exact - np.clip(np.rint(exact / scale), -127, 127) * scale).mean())


def test_the_hook_names_them():
    assert [method.name for method in qntz_threshold_methods()] == ["max", "percentile", "mse", "entropy"]


@every_sample
def test_max_is_the_largest_magnitude(values):
    assert largest(histogram_of(values)) == float(np.abs(values).max())


@every_sample
@pytest.mark.parametrize("percentile", [50, 99, 99.99])
def test_percentile_is_numpys_within_a_bin(values, percentile):
    expected = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    assert percentile_of(histogram_of(values), percentile) == pytest.approx(expected, rel=2**-7)


def test_percentile_100_is_exact():
    assert percentile_of(histogram_of(SAMPLES["outliers"]), 100) == 120.0


@pytest.mark.parametrize("percentile", [0, -1, 100.1, "99"])
def test_percentile_refuses_what_is_none(percentile):
    with pytest.raises(QuantizeError) as caught:
        percentile_of(histogram_of(SAMPLES["normal"]), percentile)
    assert str(caught.value) == f"quantize.options.percentile: {percentile!r} is no percentage. Give 0..100."


@every_sample
def test_mse_is_the_minimum_of_a_brute_force_over_the_raw_values(values):
    histogram = histogram_of(values)
    candidates = histogram.amax * np.arange(1, 1001) / 1000
    least = min(int8_error(values, amax) for amax in candidates)
    # A bin does not tell which of its values were taken: where they are few, rounding is known less well.
    slack = 1.15 if values is SAMPLES["grid"] else 1.02
    assert int8_error(values, least_squared_error(histogram)) <= slack * least


def test_mse_clips_where_outliers_cost_more_than_they_are_worth():
    # Between the outliers 90 and 120 the error is (amax / 127)^2 / 12 + (120 - amax)^2 / 60002, least at 91.6.
    assert least_squared_error(histogram_of(SAMPLES["outliers"])) == pytest.approx(91.6, rel=0.02)
    assert least_squared_error(histogram_of(SAMPLES["uniform"])) == pytest.approx(1, rel=0.02)


def plain_divergences(bins: list[float], levels: int) -> list[float]:
    """Migacz's slides 38 and 39, step by step."""
    answers = []
    for kept in range(levels, len(bins) + 1):
        reference = list(bins[:kept])
        outliers = sum(bins[kept:])
        reference[-1] += outliers
        candidate = [0.0] * kept
        for level in range(levels):
            members = [k for k in range(kept) if k * levels // kept == level and bins[k] > 0]
            for k in members:
                candidate[k] = sum(bins[m] for m in members) / len(members)
        total, kept_total = sum(reference), sum(candidate)
        filled = sum(b > 0 for b in bins[:kept])
        answer = 0.0
        for p, q in zip(reference, candidate, strict=True):
            if p > 0:
                answer += p / total * np.log((p / total) / (q / kept_total)) if q > 0 else np.inf
        answers.append(np.inf if outliers > 0 and filled < levels else answer)
    return answers


@pytest.mark.parametrize("levels", [4, 7])
def test_divergences_are_those_of_a_plain_implementation(levels):
    for bins in (
        RNG.integers(1, 50, 40).astype(float),
        RNG.integers(0, 3, 40).astype(float) + np.eye(40)[3],
        np.sort(RNG.exponential(1, 40))[::-1].copy(),
        np.array([0.0] * 5 + [3.0] + [0.0] * 33 + [1.0]),
    ):
        expected = plain_divergences(list(bins), levels)
        assert divergences(bins, levels) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)


@every_sample
def test_the_bins_are_those_of_numpy_but_for_what_a_log_bin_blurs(values):
    histogram = histogram_of(values)
    expected = np.histogram(np.abs(values), bins=2048, range=(0, histogram.amax))[0]
    got = linear_bins(histogram, 2048)
    assert got.sum() == pytest.approx(len(values))
    # A value moves by at most the width of its log bin, 2 ** -7 of it: the running totals agree that far apart.
    edges = np.arange(2049)
    totals, wanted = np.concatenate([[0], np.cumsum(got)]), np.concatenate([[0], np.cumsum(expected)])
    below = np.interp(edges * (1 - 2**-7) - 1, edges, wanted)
    above = np.interp(edges * (1 + 2**-7) + 1, edges, wanted)
    assert np.all(totals >= below - 1e-6)
    assert np.all(totals <= above + 1e-6)


def test_entropy_on_raw_values_is_that_of_the_plain_method():
    """The whole method on few values, with NumPy's histogram of the raw values as the other route."""
    values = SAMPLES["outliers"]
    bins = np.histogram(np.abs(values), bins=2048, range=(0, 120.0))[0].astype(float)
    bins[0] = bins[1]
    kept = 128 + int(np.argmin(divergences(bins, 128)))
    expected = 120.0 * kept / 2048
    assert least_divergence(histogram_of(values)) == pytest.approx(expected, rel=0.05)


def test_entropy_clips_nothing_of_few_distinct_values():
    """The trivial zero: one filled bin that takes all the clipped mass equals its only level."""
    assert least_divergence(histogram_of(SAMPLES["grid"])) == 1.0


@pytest.mark.parametrize("method", list(qntz_threshold_methods()), ids=lambda method: method.name)
def test_edge_cases(method):
    assert method.threshold(histogram_of(np.zeros(7, np.float32))) == 0.0
    constant = method.threshold(histogram_of(np.full(7, -3.0, np.float32)))
    assert constant == pytest.approx(3, rel=0.01)
    single = method.threshold(histogram_of(np.array([1e-30], np.float32)))
    assert single == pytest.approx(1e-30, rel=0.01)
    huge = np.array([3e38, -3.4e38, 1.0], np.float32)
    assert 1 < method.threshold(histogram_of(huge)) <= 3.5e38


@every_sample
@pytest.mark.parametrize("method", list(qntz_threshold_methods()), ids=lambda method: method.name)
def test_a_threshold_scales_with_the_data_and_ignores_sign_and_order(method, values):
    amax = method.threshold(histogram_of(values))
    assert 0 < amax <= np.abs(values).max()
    assert method.threshold(histogram_of(values * 8)) == pytest.approx(8 * amax, rel=1e-9)
    assert method.threshold(histogram_of(-values[::-1])) == amax
