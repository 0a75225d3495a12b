"""Activation histograms: the counts against a brute force over the values' bytes, and what merging and files keep."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest

from qntz.artifacts import npz_bytes, read_npz, write_npz
from qntz.errors import ArtifactError
from qntz.histograms import (
    BINS,
    CHANNEL_BINS,
    Channels,
    Histogram,
    Sums,
    arrays_of,
    channel_bins,
    histogram_of,
    histograms_from,
)

VALUES = np.random.default_rng(0).normal(0, 3, (7, 5, 11)).astype(np.float32)


def same(a: Histogram, b: Histogram) -> bool:
    return np.array_equal(a.counts, b.counts) and (a.minimum, a.maximum) == (b.minimum, b.maximum)


def test_counts_are_those_of_the_upper_two_bytes():
    expected = Counter(int.from_bytes(struct.pack(">f", value)[:2], "big") for value in VALUES.reshape(-1))
    seen = histogram_of(VALUES)
    assert {int(b): int(seen.counts[b]) for b in np.flatnonzero(seen.counts)} == dict(expected)
    assert seen.counts.sum() == 7 * 5 * 11
    assert (seen.minimum, seen.maximum) == (float(VALUES.min()), float(VALUES.max()))


def test_a_stride_counts_every_nth_element_and_keeps_the_exact_range():
    seen = histogram_of(VALUES, stride=3)
    assert same(histogram_of(VALUES.reshape(-1)[::3]), Histogram(seen.counts, *_range(VALUES.reshape(-1)[::3])))
    assert (seen.minimum, seen.maximum) == _range(VALUES)


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def test_a_transposed_view_counts_like_its_copy():
    assert same(histogram_of(VALUES.transpose(2, 0, 1)), histogram_of(VALUES))


def test_merging_is_associative_and_equals_one_pass():
    a, b, c = (histogram_of(part) for part in (VALUES[:2], VALUES[2:3], VALUES[3:]))
    assert same(a.merged(b).merged(c), a.merged(b.merged(c)))
    assert same(c.merged(a).merged(b), histogram_of(VALUES))


def test_magnitudes_join_both_signs_and_stay_within_a_bin():
    magnitude, count = histogram_of(np.array([0.0, -0.0, -2.0, 2.0, 2.001, 5.0], np.float32)).magnitudes()
    assert count.tolist() == [2, 3, 1]  # 2.001 shares the bin of 2, which is 1/64 wide
    assert magnitude[1] == pytest.approx(2 + 1 / 128, abs=1e-6)
    assert magnitude[-1] == 5.0  # the middle of its bin lies above the largest value, so that is taken
    values = np.sort(np.abs(VALUES.reshape(-1)))
    middles, counts = histogram_of(VALUES).magnitudes()
    assert np.all(np.abs(np.repeat(middles, counts) - values) <= values * 2**-7)


def test_a_file_gives_back_the_same_histograms_and_bytes(tmp_path):
    histograms = {"b/é": histogram_of(VALUES), "a": histogram_of(-VALUES[:2], stride=2)}
    write_npz(tmp_path / "h.npz", arrays_of(histograms))
    back = histograms_from(read_npz(tmp_path / "h.npz"), "h.npz")
    assert list(back) == ["a", "b/é"]
    assert all(same(back[name], histograms[name]) for name in histograms)
    assert npz_bytes(arrays_of(back)) == (tmp_path / "h.npz").read_bytes()
    assert npz_bytes(arrays_of(dict(reversed(histograms.items())))) == (tmp_path / "h.npz").read_bytes()


def test_no_histograms_are_valid(tmp_path):
    write_npz(tmp_path / "h.npz", arrays_of({}))
    assert histograms_from(read_npz(tmp_path / "h.npz"), "h.npz") == {}


def test_a_file_without_histograms_is_refused():
    arrays = arrays_of({"a": histogram_of(VALUES)})
    del arrays["counts/00000"]
    with pytest.raises(ArtifactError, match=r"^h\.npz: holds no histograms: no array 'counts/00000'\.$"):
        histograms_from(arrays, "h.npz")


def channels_of(values: np.ndarray) -> Channels:
    """values: [C, n]."""
    counts = np.stack([np.bincount(channel_bins(row), minlength=CHANNEL_BINS) for row in values])
    return Channels(counts, np.abs(values).max(1))


def test_channels_divided_by_powers_of_two_are_those_of_the_divided_values() -> None:
    random = np.random.default_rng(5)
    values = (random.normal(size=(6, 500)) * np.exp2(random.integers(-6, 9, (6, 1)))).astype(np.float32)
    exponents = np.array([-3, 0, 5, 2, -1, 7])
    scaled = (values * np.exp2(-exponents[:, None])).astype(np.float32)
    got, wanted = channels_of(values).divided(exponents, signed=True), histogram_of(scaled)
    assert (got.minimum, got.maximum) == (-wanted.amax, wanted.amax)
    assert channels_of(np.abs(values)).divided(exponents, signed=False).minimum == 0

    def coarse(counts: np.ndarray) -> np.ndarray:
        return (counts[: BINS // 2] + counts[BINS // 2 :]).reshape(-1, 16).sum(1)

    np.testing.assert_array_equal(coarse(got.counts), coarse(wanted.counts))
    cumulated = np.cumsum(got.counts[: BINS // 2]) - np.cumsum(wanted.counts[: BINS // 2] + wanted.counts[BINS // 2 :])
    assert np.abs(cumulated).max() < 0.06 * values.size  # spread evenly within a bin of an eighth


def test_channels_of_halves_merge_and_come_back_from_the_file() -> None:
    values = np.random.default_rng(5).normal(size=(4, 90)).astype(np.float32)
    whole = channels_of(values)
    both = channels_of(values[:, :30]).merged(channels_of(values[:, 30:]))
    for one, other in (
        (whole, both),
        (whole, histograms_from(arrays_of({"x": with_channels(whole)}), "h")["x"].channels),
    ):
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_array_equal(one.amax, other.amax)


def with_channels(channels: Channels) -> Histogram:
    return Histogram(np.zeros(BINS, dtype=np.int64), -1.0, 1.0, channels)


def test_sums_that_outgrow_their_numbers_are_none_in_whatever_order() -> None:
    """2 ** 62 is what a sum stays below."""
    large = Sums.of(np.float64([1e30, 2.0]), np.array([4, 4]))
    assert large.within(2.0**60 - 1e6) is not None
    assert large.within(2.0**60) is None
    part = Histogram(np.zeros(BINS, np.int64), -1.0, 2.0**60, None, Sums.of(np.float64([2.0**60]), np.array([1])))
    whole = part
    for _ in range(4):
        whole = whole.merged(part)
    assert whole.sums is None
    assert part.merged(part).sums.means.tolist() == [2.0**60]
