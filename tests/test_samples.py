"""Samples held against the model's inputs, and batches of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qntz.config import DimConfig, InputConfig
from qntz.errors import DataError, PluginError
from qntz.records import DataSource
from qntz.samples import HeldOut, batch_size, batches, checked, open_samples

INPUTS = {
    "rows": InputConfig(shape=["batch", "length", 3]),
    "mask": InputConfig(dtype="bool", shape=["batch", "length"]),
}
DIMS = {"batch": DimConfig(1, 4, 6), "length": DimConfig(2, 3, 5)}


def sample(length: int = 4, value: float = 0.5, **more) -> dict:
    return {"rows": np.full((length, 3), value, np.float32), "mask": np.ones(length, bool), **more}


def opened(samples: list, **data) -> list:
    source = DataSource("list", lambda options, root: iter(samples))
    return list(open_samples({"source": "list", **data}, {"list": source}, INPUTS, DIMS, Path(), "data.test"))


def test_the_source_gets_its_keys_and_the_root():
    seen = []
    source = DataSource("s", lambda options, root: seen.append((options, root)) or iter([sample()]))
    list(open_samples({"source": "s", "file": "x"}, {"s": source}, INPUTS, DIMS, Path("top"), "w"))
    assert seen == [({"file": "x"}, Path("top"))]


def test_count_limits_what_is_read():
    assert len(opened([sample(), sample(), sample()], count=2)) == 2
    assert len(opened([sample(), sample(), sample()])) == 3


@pytest.mark.parametrize(
    ("samples", "data", "message"),
    [
        ([], {}, "data.test: no samples. Point it at data; qntz never calibrates on random numbers."),
        ([sample()], {"count": 3}, "data.test: 1 samples where 3 are asked for. Set count: 1, or add data."),
        ([sample(), {"row": 1}], {}, "data.test, sample 1: no input 'rows'. Did you mean 'row'?"),
        ([sample(value=np.nan)], {}, "data.test, sample 0: rows holds NaN. Repair or remove the sample."),
        ([sample(value=np.inf)], {}, "data.test, sample 0: rows holds infinity. Repair or remove the sample."),
        (
            [sample(length=6)],
            {},
            "data.test, sample 0: rows has shape [6, 3], the model takes ['length', 3]: length goes from 2 to 5"
            " (model.dims).",
        ),
        ([[1.0]], {}, "data.test, sample 0: is a list, no dict of arrays. Yield {name: array}."),
        ([{"rows": [1.0]}], {}, "data.test, sample 0: rows is a list, no NumPy array. Use numpy.asarray."),
        (
            [sample(mask=np.ones(3, bool))],
            {},
            "data.test, sample 0: mask has shape [3], the model takes ['length']: length is 4 elsewhere in the sample.",
        ),
        (
            [sample(mask=np.ones(4, np.float32))],
            {},
            "data.test, sample 0: mask is float32, the model takes bool.",
        ),
        (
            [sample(rows=np.ones((1, 4, 3), np.float32))],
            {},
            "data.test, sample 0: rows has shape [1, 4, 3], the model takes ['length', 3] a sample"
            " (without its first dimension).",
        ),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_by_number(samples, data, message):
    with pytest.raises(DataError) as caught:
        opened(samples, **data)
    assert str(caught.value) == message


def test_a_source_that_ends_the_program_is_refused_all_the_same() -> None:
    def leaves(options, root):
        yield sample()
        sys.exit(0)

    samples = open_samples({"source": "list"}, {"list": DataSource("list", leaves)}, INPUTS, DIMS, Path(), "data.test")
    with pytest.raises(PluginError, match=r"data.test, sample 1: .* it ended the program \(exit code 0\)"):
        list(samples)


def test_a_source_that_fails_is_named() -> None:
    def broken(options, root):
        yield sample()
        yield sample(value=options["volume"])

    source = DataSource("list", broken)
    samples = open_samples({"source": "list", "volum": 1}, {"list": source}, INPUTS, DIMS, Path(), "data.test")
    with pytest.raises(PluginError) as caught:
        list(samples)
    assert str(caught.value).startswith(
        "data.test, sample 1: data source 'list' fails: KeyError: 'volume' (test_samples.py:"
    )


def test_an_unknown_source_is_refused():
    with pytest.raises(DataError) as caught:
        list(open_samples({"source": "nzp"}, {"npz": None, "python": None}, INPUTS, DIMS, Path(), "data.test"))
    assert str(caught.value) == "data.test: no data source 'nzp'. Did you mean 'npz'?"


def test_batches_keep_order_and_break_at_another_shape():
    samples = [sample(length, i, target=np.array(i)) for i, length in enumerate([4, 4, 4, 2, 2, 4])]
    made = list(batches([checked(s, INPUTS, DIMS, "") for s in samples], INPUTS, 2))
    assert [b["rows"].shape for b, _ in made] == [(2, 4, 3), (1, 4, 3), (2, 2, 3), (1, 4, 3)]
    assert [t.tolist() for _, t in made] == [[0, 1], [2], [3, 4], [5]]
    assert made[1][0]["rows"][0, 0, 0] == 2.0


def test_batches_without_targets_have_none():
    assert [t for _, t in batches([sample(), sample()], INPUTS, 8)] == [None]


def test_the_batch_is_cut_to_what_the_model_takes():
    assert [batch_size(wanted, INPUTS, DIMS) for wanted in (1, 4, 32)] == [(1, 1), (4, 1), (6, 1)]
    dims = {"batch": DimConfig(3, 4, 6)}
    assert batch_size(1, {"x": InputConfig(shape=["batch", 3])}, dims) == (3, 3)
    assert batch_size(32, {"x": InputConfig(shape=[2, 3])}, {}) == (2, 2)


def test_a_rest_that_makes_no_batch_is_refused() -> None:
    samples = [{"x": np.zeros(3, np.float32)} for _ in range(5)]
    inputs = {"x": InputConfig(shape=[2, 3])}
    with pytest.raises(DataError, match="1 samples are left, and the model takes 2 or more at a time"):
        list(batches(samples, inputs, 2, 2))
    assert [len(b["x"]) for b, _ in batches(samples[:4], inputs, 2, 2)] == [2, 2]


def test_targets_on_some_samples_only_are_refused() -> None:
    samples = [{"x": np.zeros(3, np.float32), "target": np.int64(1)}, {"x": np.zeros(3, np.float32)}]
    with pytest.raises(DataError, match="1 of 2 samples have no 'target'"):
        list(batches(samples, {"x": InputConfig(shape=["n", 3])}, 2))


def test_the_file_of_a_sample_is_named():
    bad = sample(value=np.nan, file=np.array("photos/7.png"))
    with pytest.raises(DataError) as caught:
        opened([sample(), bad])
    assert str(caught.value) == ("data.test, sample 1 (photos/7.png): rows holds NaN. Repair or remove the sample.")


def numbered(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full(3, number, np.float32), "target": np.asarray(number % 10)} for number in range(count)]


@pytest.mark.parametrize(("count", "wanted", "held"), [(40, 8, 8), (40, 16, 10), (3, 8, 0), (9, 0, 0)])
def test_the_same_samples_are_held_out_whatever_their_order(count: int, wanted: int, held: int) -> None:
    found = set()
    for seed in range(3):
        samples = numbered(count)
        np.random.default_rng(seed).shuffle(samples)
        parts = HeldOut(samples, wanted)
        left = [int(sample["x"][0]) for sample in parts]
        out = [int(sample["x"][0]) for sample in parts.samples]
        assert sorted(left + out) == list(range(count))
        found.add(tuple(out))
    assert len(found) == 1
    assert len(next(iter(found))) == held


def test_what_is_held_out_is_a_multiple_of_what_a_model_takes():
    for wanted, least, held in ((16, 32, 0), (16, 8, 16), (15, 4, 12), (64, 32, 32)):
        parts = HeldOut(numbered(128), wanted, least)
        assert (len(list(parts)), len(parts.samples)) == (128 - held, held)


def test_equal_samples_are_held_out_too() -> None:
    parts = HeldOut([{"x": np.zeros(2)} for _ in range(12)], 2)
    assert (len(list(parts)), len(parts.samples)) == (10, 2)
