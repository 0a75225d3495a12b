"""The sizes that are timed, and what stands in them."""

from __future__ import annotations

import numpy as np
import pytest

from qntz.bench.inputs import made, named, sizes_of
from qntz.config import DimConfig, InputConfig, ModelConfig
from qntz.errors import UsageError

INPUTS = {
    "x": InputConfig(shape=["batch", 3, "width"]),
    "mask": InputConfig(dtype="int64", shape=["batch", 2], range=[0, 5]),
}
DIMS = {"batch": DimConfig(1, 4, 16), "width": DimConfig(5, 6, 9)}
MODEL = ModelConfig(factory={"_target_": "net.Net"}, inputs=INPUTS, dims=DIMS)


def test_by_itself_the_profile_is_timed() -> None:
    assert sizes_of(MODEL, (), {}) == [{"batch": size, "width": 6} for size in (1, 4, 16)]
    assert named({"batch": 4, "width": 6}) == "batch 4, width 6"


def test_sizes_that_are_asked_for() -> None:
    assert sizes_of(MODEL, (8, 2), {"width": 9}) == [{"batch": 8, "width": 9}, {"batch": 2, "width": 9}]
    assert sizes_of(MODEL, (), {"batch": 3}) == [{"batch": 3, "width": 6}]


@pytest.mark.parametrize(
    ("batches", "given", "text"),
    [
        ((17,), {}, "--batch: batch 17: the model takes 1 to 16."),
        ((), {"width": 4}, "--size: width 4: the model takes 5 to 9."),
        ((8,), {"batch": 4}, "--size: batch has sizes already: --batch gives them. Leave one out."),
        ((), {"widht": 6}, "--size: no dimension 'widht'. Did you mean 'width'?"),
    ],
)
def test_sizes_that_the_model_does_not_take(batches: tuple[int, ...], given: dict[str, int], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        sizes_of(MODEL, batches, given)
    assert str(caught.value) == text


def test_a_model_of_one_size_has_no_batches() -> None:
    fixed = ModelConfig(factory={"_target_": "net.Net"}, inputs={"x": InputConfig(shape=[2, 3])})
    assert sizes_of(fixed, (), {}) == [{}]
    with pytest.raises(UsageError, match="--batch: the model has one batch size"):
        sizes_of(fixed, (4,), {})


def sample(value: int, width: int = 6) -> dict[str, np.ndarray]:
    return {"x": np.full((3, width), value, np.float32), "mask": np.array([value, value], np.int64)}


def test_samples_stand_in_turn() -> None:
    inputs, kind = made(INPUTS, {"batch": 5, "width": 6}, [sample(1), sample(2)])
    assert kind == "test data"
    assert inputs["x"].shape == (5, 3, 6)
    np.testing.assert_array_equal(inputs["x"][:, 0, 0], [1, 2, 1, 2, 1])
    np.testing.assert_array_equal(inputs["mask"][:, 0], [1, 2, 1, 2, 1])


@pytest.mark.parametrize("samples", [[], [sample(1, width=5)]])
def test_where_no_sample_fits_they_are_drawn(samples: list[dict[str, np.ndarray]]) -> None:
    inputs, kind = made(INPUTS, {"batch": 5, "width": 6}, samples)
    assert kind == "drawn"
    assert {name: array.shape for name, array in inputs.items()} == {"x": (5, 3, 6), "mask": (5, 2)}
    assert inputs["mask"].min() >= 0
    assert inputs["mask"].max() <= 5
    again, _ = made(INPUTS, {"batch": 5, "width": 6}, samples)
    np.testing.assert_array_equal(inputs["x"], again["x"])
