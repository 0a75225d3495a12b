"""The shipped data sources, and each of their refusals."""

from __future__ import annotations

import numpy as np
import pytest

from qntz.builtin.data_sources import open_npz, open_python, qntz_data_sources
from qntz.errors import DataError

IMAGES = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "d.npz", image=IMAGES, target=np.array([4, 3, 2, 1, 0]))
    np.savez(tmp_path / "uneven.npz", image=IMAGES, target=np.arange(4))
    np.savez(tmp_path / "scalar.npz", image=IMAGES, target=np.array(3))
    np.savez(tmp_path / "pickled.npz", image=np.array([{"a": 1}, None], dtype=object))
    np.save(tmp_path / "plain.npy", IMAGES)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:100])
    return tmp_path


def test_the_hook_names_them():
    assert [source.name for source in qntz_data_sources()] == ["npz", "python"]


def test_npz_gives_samples_without_batch_dimension_in_order(folder):
    samples = list(open_npz({"file": "d.npz"}, folder))
    assert len(samples) == 5
    assert np.array_equal(samples[3]["image"], IMAGES[3])
    assert samples[3]["image"].dtype == np.float32
    assert [int(sample["target"]) for sample in samples] == [4, 3, 2, 1, 0]
    assert samples[0]["target"].shape == ()


def test_npz_takes_a_count_and_other_names(folder):
    options = {"file": "d.npz", "count": 2, "arrays": {"x": "image"}}
    samples = list(open_npz(options, folder))
    assert [list(sample) for sample in samples] == [["x"], ["x"]]
    assert np.array_equal(samples[1]["x"], IMAGES[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "source npz: no file is named. Add `file: data.npz`."),
        ({"fil": "d.npz"}, "source npz: no option 'fil'. Did you mean 'file'?"),
        (
            {"file": "gone.npz"},
            "gone.npz: the file is missing. Check `file`; it is relative to the project's root.",
        ),
        ({"file": "plain.npy"}, "plain.npy: is no .npz archive. Write it with numpy.savez."),
        ({"file": "cut.npz"}, "cut.npz: is no .npz archive. Write it with numpy.savez."),
        (
            {"file": "pickled.npz"},
            "pickled.npz: is no .npz archive of plain arrays: Object arrays cannot be loaded when allow_pickle=False."
            " Write plain arrays with numpy.savez.",
        ),
        (
            {"file": "uneven.npz"},
            "uneven.npz: the arrays have unequal numbers of samples: image 5, target 4.",
        ),
        (
            {"file": "scalar.npz"},
            "scalar.npz: the arrays have unequal numbers of samples: image 5, target no axis.",
        ),
        (
            {"file": "d.npz", "arrays": {"x": "imag"}},
            "d.npz: no array 'imag'. Did you mean 'image'?",
        ),
    ],
)
def test_npz_refuses(folder, options, message):
    with pytest.raises(DataError) as caught:
        list(open_npz(options, folder))
    assert str(caught.value) == message


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_samples.py").write_text(
        """
import numpy as np

def good(count, scale=1.0):
    for i in range(count):
        yield {"x": np.full(3, i * scale, np.float32), "target": np.int64(i)}

def broken():
    yield {"x": np.zeros(1)}
    raise KeyError("gone")

def lists():
    yield {"x": np.zeros(1)}
    yield {"x": [1, 2]}

def tuples():
    yield (1, 2)

number = 3
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("module")
def test_python_calls_the_function_with_the_other_keys(tmp_path):
    options = {"_target_": "my_samples.good", "count": 3, "scale": 0.5}
    samples = list(open_python(options, tmp_path))
    assert [sample["x"].tolist() for sample in samples] == [[0.0] * 3, [0.5] * 3, [1.0] * 3]
    assert [sample["target"].tolist() for sample in samples] == [0, 1, 2]


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "source python: no function is named. Add `_target_: package.module.function`."),
        (
            "no_such_module.f",
            "no_such_module.f: cannot be imported: ModuleNotFoundError: No module named 'no_such_module'."
            " Name a function that `python -c 'import ...'` finds from the project's root.",
        ),
        (
            "my_samples.god",
            "my_samples.god: cannot be imported: AttributeError: module 'my_samples' has no attribute 'god'."
            " Name a function that `python -c 'import ...'` finds from the project's root.",
        ),
        (
            "good",
            "good: cannot be imported: ValueError: Empty module name."
            " Name a function that `python -c 'import ...'` finds from the project's root.",
        ),
        ("my_samples.number", "my_samples.number: is a int, no function."),
        (
            "my_samples.good",
            "my_samples.good: fails: TypeError: good() missing 1 required positional argument: 'count'.",
        ),
        ("my_samples.broken", "my_samples.broken: fails after sample 0: KeyError: 'gone'."),
        (
            "my_samples.lists",
            "my_samples.lists, sample 1: x is a list, no NumPy array. Use numpy.asarray.",
        ),
        (
            "my_samples.tuples",
            "my_samples.tuples, sample 0: is a tuple, no dict of arrays. Yield {name: array}.",
        ),
    ],
)
def test_python_refuses(tmp_path, target, message):
    with pytest.raises(DataError) as caught:
        list(open_python({"_target_": target}, tmp_path))
    assert str(caught.value) == message
