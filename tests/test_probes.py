"""Probes: sizes, values, and the same ones for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qntz.artifacts import write_npz
from qntz.config import DimConfig, InputConfig, ProbesConfig
from qntz.errors import DataError
from qntz.probes import LARGEST, data_probes, make_probes, probes_for, read_probes

INPUTS = {
    "rows": InputConfig("float32", ["batch", "length", 8], [0, 1]),
    "ids": InputConfig("int64", ["batch", "length"], [3, 9]),
    "mask": InputConfig("bool", ["batch", "length"]),
}
DIMS = {"batch": DimConfig(1, 8, 64), "length": DimConfig(4, 8, 16)}


def test_the_example_has_distinct_sizes_of_at_least_two() -> None:
    rows = make_probes(INPUTS, DIMS, 4, 0)[0]["rows"]
    assert rows.shape[0] >= 2
    assert rows.shape[0] != rows.shape[1]


def test_sizes_values_and_types_are_within_the_specification() -> None:
    probes = make_probes(INPUTS, DIMS, 12, 5)
    assert {p["rows"].shape[0] for p in probes} >= {1, 64}
    assert {p["rows"].shape[1] for p in probes} >= {4, 16}
    for probe in probes:
        assert probe["ids"].shape == probe["mask"].shape == probe["rows"].shape[:2]
        assert (probe["rows"].dtype, probe["ids"].dtype, probe["mask"].dtype) == (np.float32, np.int64, np.bool_)
        assert probe["rows"].min() >= 0
        assert probe["rows"].max() <= 1
        assert probe["ids"].min() >= 3
        assert probe["ids"].max() <= 9
    everything = np.concatenate([p["ids"].ravel() for p in probes])
    assert set(everything) == set(range(3, 10))  # both ends of the range occur
    assert any(not p["mask"].any() for p in probes)
    assert any(p["mask"].all() for p in probes)


def test_unbounded_floats_have_both_signs_and_large_values() -> None:
    probes = make_probes({"x": InputConfig("float32", ["batch", 50])}, DIMS, 8, 0)
    assert min(p["x"].min() for p in probes) < -10
    assert max(p["x"].max() for p in probes) > 10


def test_the_same_seed_gives_the_same_probes() -> None:
    a, b, c = (make_probes(INPUTS, DIMS, 6, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(x[n], y[n]) for x, y in zip(a, b, strict=True) for n in INPUTS)
    assert not all(np.array_equal(x["rows"], y["rows"]) for x, y in zip(a, c, strict=True))


def test_large_inputs_stay_within_reach() -> None:
    dims = {"batch": DimConfig(1, 16, 4096)}
    probes = make_probes({"x": InputConfig("float32", ["batch", 3, 224, 224])}, dims, 6, 0)
    assert max(p["x"].size for p in probes) <= LARGEST
    assert max(p["x"].shape[0] for p in probes) > 1


def test_the_largest_inputs_still_show_a_frozen_batch() -> None:
    inputs = {"x": InputConfig("float32", ["batch", 3, 640, 640])}
    batches = [p["x"].shape[0] for p in make_probes(inputs, {"batch": DimConfig(1, 4, 16)}, 4, 0)]
    assert batches[0] == 2
    assert set(batches) == {1, 2}
    samples = ({"x": np.zeros((3, 640, 640), np.float32)} for _ in range(9))
    assert [len(p["x"]) for p in data_probes(samples, inputs, {"batch": DimConfig(1, 4, 16)}, 3)] == [1, 2, 2]


def test_probes_of_one_size_are_refused(tmp_path: Path) -> None:
    inputs, dims = {"x": InputConfig("float32", ["batch", 2])}, {"batch": DimConfig(1, 2, 3)}
    write_npz(tmp_path / "p.npz", {f"{i}/x": np.zeros((2, 2), np.float32) for i in range(2)})
    with pytest.raises(DataError, match="dimension 'batch' is 2 on every probe"):
        probes_for(ProbesConfig(file="p.npz"), inputs, dims, tmp_path)
    sizes = [
        p["x"].shape[0] for p in probes_for(ProbesConfig(count=2), inputs, {"batch": DimConfig(2, 2, 3)}, tmp_path)
    ]
    assert sizes == [2, 3]


def test_probes_of_real_samples() -> None:
    inputs = {"x": InputConfig("float32", ["batch", 2])}
    samples = [{"x": np.full(2, i, np.float32), "target": np.int64(0)} for i in range(7)]
    probes = data_probes(samples, inputs, {"batch": DimConfig(1, 2, 3)}, 4)
    assert [p["x"][:, 0].tolist() for p in probes] == [
        [0],
        [1, 2],
        [3, 4, 5],
    ]  # the fourth would need three, one is left
    fixed = data_probes(samples, {"x": InputConfig("float32", [2, 2])}, {}, 2)
    assert [p["x"].shape for p in fixed] == [(2, 2), (2, 2)]


def test_probes_from_a_file(tmp_path: Path) -> None:
    inputs = {"x": InputConfig("float32", ["batch", 2])}
    dims = {"batch": DimConfig(1, 2, 3)}
    write_npz(tmp_path / "p.npz", {"0/x": np.zeros((1, 2), np.float32), "1/x": np.ones((3, 2), np.float32)})
    assert [p["x"].shape for p in read_probes(tmp_path / "p.npz", inputs, dims)] == [(1, 2), (3, 2)]
    write_npz(tmp_path / "q.npz", {"0/x": np.zeros((1, 3), np.float32), "1/x": np.ones((3, 2), np.float32)})
    with pytest.raises(DataError, match="probe 0, row 0: x has shape"):
        read_probes(tmp_path / "q.npz", inputs, dims)
    write_npz(tmp_path / "r.npz", {"0/x": np.zeros((1, 2), np.float32)})
    with pytest.raises(DataError, match="1 probes"):
        read_probes(tmp_path / "r.npz", inputs, dims)


def test_what_an_engine_is_built_for_is_among_the_sizes() -> None:
    inputs = {"x": InputConfig(shape=["batch", "length"])}
    dims = {"batch": DimConfig(3, 5, 9), "length": DimConfig(1, 7, 20)}
    sizes = [probe["x"].shape for probe in make_probes(inputs, dims, 8, 0)]
    assert (5, 7) in sizes
    assert (9, 20) in sizes
    assert {size[0] for size in sizes} >= {3, 5, 9}
    assert {size[1] for size in sizes} >= {1, 7, 20}
