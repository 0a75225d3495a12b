"""The shipped data sources, and each of their refusals."""

from __future__ import annotations

import numpy as np
import pytest

from qntz.builtin.data_images import open_images
from qntz.builtin.data_sources import open_dataset, open_npy, open_npz, open_python, qntz_data_sources
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
    assert [source.name for source in qntz_data_sources()] == ["npz", "npy", "python", "dataset"]


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
    assert [list(sample) for sample in samples] == [["file", "x"], ["file", "x"]]
    assert str(samples[0]["file"]) == "d.npz"
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


# .npy files


def test_npy_gives_samples_of_one_file_each_or_along_the_first_axis(folder):
    np.save(folder / "t.npy", np.array([4, 3, 2, 1, 0]))
    samples = list(open_npy({"files": {"image": "plain.npy", "target": "t.npy"}, "count": 3}, folder))
    assert [int(sample["target"]) for sample in samples] == [4, 3, 2]
    np.testing.assert_array_equal(samples[2]["image"], IMAGES[2])
    assert str(samples[0]["file"]) == "plain.npy, t.npy"
    (folder / "each" / "b").mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        np.save(folder / "each" / "b" / f"{number}.npy", image)
    np.savez(folder / "each" / "a.npz", image=IMAGES[0] + 100, target=np.array(7))
    each = list(open_npy({"folder": "each", "input": "image"}, folder))
    assert [str(sample["file"]) for sample in each] == ["each/a.npz", *(f"each/b/{n}.npy" for n in range(5))]
    assert int(each[0]["target"]) == 7
    np.testing.assert_array_equal(each[5]["image"], IMAGES[4])
    some = open_npy({"folder": "each", "input": "image", "count": 3}, folder)
    assert [str(sample["file"]) for sample in some] == ["each/a.npz", "each/b/1.npy", "each/b/3.npy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "source npy: takes either files or a folder. Add `files: {input: data.npy}`."),
        ({"files": "plain.npy"}, "source npy: files is no mapping. Write `files: {input: data.npy}`."),
        ({"flies": 1}, "source npy: no option 'flies'. Did you mean 'files'?"),
        ({"files": {"x": "gone.npy"}}, "gone.npy: the file is missing. It is relative to the project's root."),
        ({"files": {"x": "d.npz"}}, "d.npz: is an .npz archive. Use `source: npz`."),
        ({"folder": "nowhere"}, "nowhere: there is no such folder. It is relative to the project's root."),
        ({"folder": "empty"}, "empty: there are no .npy or .npz files in the folder."),
        ({"folder": "one"}, "one/x.npy: of which input is it? Add `input: name`."),
    ],
)
def test_npy_refusals(folder, options, message):
    (folder / "empty").mkdir()
    (folder / "one").mkdir()
    np.save(folder / "one" / "x.npy", IMAGES)
    with pytest.raises(DataError) as caught:
        list(open_npy(options, folder))
    assert str(caught.value) == message


def test_npy_files_that_are_cut_or_unequal_are_refused(folder):
    (folder / "cut.npy").write_bytes((folder / "plain.npy").read_bytes()[:90])
    np.save(folder / "short.npy", IMAGES[:2])
    with pytest.raises(DataError, match=r"^cut\.npy: is no \.npy file of a plain array: "):
        list(open_npy({"files": {"x": "cut.npy"}}, folder))
    with pytest.raises(DataError, match=r"unequal numbers of samples: plain\.npy 5, short\.npy 2\.$"):
        list(open_npy({"files": {"x": "plain.npy", "y": "short.npy"}}, folder))


# datasets


def tuples(count=5):
    import torch
    from torch.utils.data import TensorDataset

    return TensorDataset(torch.from_numpy(IMAGES)[:count], torch.arange(count), torch.zeros(count, 2))


class Endless:
    def __iter__(self):
        import torch

        while True:
            yield {"image": torch.ones(2), "target": 3}


class Broken:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise OSError("disk on fire")


class Nothing:
    pass


def words():
    return [{"image": "word"}]


HERE = "tests.calibrate.test_data_sources"


def test_a_dataset_gives_its_items_by_name_spread_evenly():
    options = {"_target_": f"{HERE}.tuples", "names": ["image", "target", None], "count": 2, "count_": 5}
    options.pop("count_")
    samples = list(open_dataset(options, None))
    assert [list(sample) for sample in samples] == [["image", "target"]] * 2
    assert [int(sample["target"]) for sample in samples] == [0, 2]
    np.testing.assert_array_equal(samples[1]["image"], IMAGES[2])
    endless = open_dataset({"_target_": f"{HERE}.Endless", "count": 4}, None)
    first = next(iter(endless))
    assert (first["image"].shape, int(first["target"])) == ((2,), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "source dataset: no dataset is named. Add `_target_: package.module.Dataset`."),
        (
            {"_target_": f"{HERE}.tuples"},
            f"{HERE}.tuples, sample 0: holds 3 things. Name each: `names: [image, target]`.",
        ),
        (
            {"_target_": f"{HERE}.tuples", "names": ["image", "target"]},
            f"{HERE}.tuples, sample 0: holds 3 things. Name each: `names: [image, target]`.",
        ),
        (
            {"_target_": f"{HERE}.tuples", "sise": 3},
            f"{HERE}.tuples: cannot be made: TypeError: tuples() got an unexpected keyword argument 'sise'.",
        ),
        ({"_target_": f"{HERE}.Broken"}, f"{HERE}.Broken: fails at item 0: OSError: disk on fire."),
        ({"_target_": f"{HERE}.IMAGES"}, f"{HERE}.IMAGES: is a ndarray, no function."),
        ({"_target_": f"{HERE}.words"}, f"{HERE}.words, sample 0: image is a str, no NumPy array. Use numpy.asarray."),
        ({"_target_": f"{HERE}.Nothing"}, f"{HERE}.Nothing: is a Nothing, no dataset."),
        (
            {"_target_": "builtins.object"},
            "builtins.object: is refused: what comes with Python makes neither models nor samples."
            " Name a class or a function of your project, or of a library.",
        ),
    ],
)
def test_dataset_refusals(options, message):
    with pytest.raises(DataError) as caught:
        list(open_dataset(options, None))
    assert str(caught.value) == message


# images


@pytest.fixture
def pictures(tmp_path):
    """cats/0.png 8 by 6, a ramp of red; dogs/0.png and dogs/1.jpg; a text file."""
    from PIL import Image

    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    ramp = np.zeros((8, 6, 3), np.uint8)
    ramp[..., 0] = np.arange(8)[:, None] * 10 + np.arange(6)
    Image.fromarray(ramp).save(tmp_path / "photos/cats/0.png")
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "photos/dogs/0.png")
    Image.fromarray(np.full((9, 9, 3), 255, np.uint8)).save(tmp_path / "photos/dogs/1.jpg")
    (tmp_path / "photos/notes.txt").write_text("no image")
    return tmp_path


def test_images_are_read_in_order_with_their_folders_as_classes(pictures):
    samples = list(open_images({"folder": "photos", "labels": "folders"}, pictures))
    assert [str(sample["file"]) for sample in samples] == [
        "photos/cats/0.png",
        "photos/dogs/0.png",
        "photos/dogs/1.jpg",
    ]
    assert [int(sample["target"]) for sample in samples] == [0, 1, 1]
    first, second = samples[0]["image"], samples[1]["image"]
    assert (first.dtype, first.shape, second.shape) == (np.float32, (3, 8, 6), (3, 4, 4))
    np.testing.assert_array_equal(first[0] * 255, np.arange(8)[:, None] * 10 + np.arange(6))
    np.testing.assert_array_equal(first[1:], 0)
    np.testing.assert_array_equal(second, np.float32(0.2))  # grey, in three channels


def test_images_are_prepared_as_configured(pictures):
    options = {"folder": "photos", "count": 1, "input": "x", "crop": [4, 2], "mean": [10, 0, 0], "std": 2, "scale": 1}
    (sample,) = open_images({**options, "layout": "hwc"}, pictures)
    wanted = (np.arange(2, 6)[:, None] * 10 + np.arange(2, 4) - 10) / 2  # the middle of 8 by 6
    np.testing.assert_array_equal(sample["x"][..., 0], wanted)
    assert sample["x"].shape == (4, 2, 3)
    (halved,) = open_images({"folder": "photos", "count": 1, "resize": 3, "mode": "L"}, pictures)
    assert halved["image"].shape == (1, 4, 3)  # the shorter side, 6, becomes 3
    (exact,) = open_images({"folder": "photos", "count": 1, "resize": [2, 5], "interpolation": "nearest"}, pictures)
    assert exact["image"].shape == (3, 2, 5)
    some = open_images({"folder": "photos", "count": 2}, pictures)
    assert [str(sample["file"]) for sample in some] == ["photos/cats/0.png", "photos/dogs/0.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": None}, "source images: no folder is named. Add `folder: path`."),
        ({"foldre": "x"}, "source images: no option 'foldre'. Did you mean 'folder'?"),
        ({"folder": "gone"}, "gone: there is no such folder. It is relative to the project's root."),
        ({"mode": "CMYK"}, "source images: mode is 'CMYK'. Give RGB or L."),
        ({"labels": "names"}, "source images: labels is 'names'. Give folders."),
        ({"resize": 0}, "source images: resize is 0. Give pixels: a side, or [height, width]."),
        ({"crop": [1, 2, 3]}, "source images: crop is [1, 2, 3]. Give pixels: a side, or [height, width]."),
        ({"crop": 7}, "photos/cats/0.png: is 8 by 6, smaller than the crop of 7 by 7. Set resize."),
        ({"mean": [1, 2]}, "source images: mean is [1, 2]. Give a number, or 3."),
        ({"std": 0}, "source images: std is 0. Give a number, or 3, none of them 0."),
        ({"scale": 0}, "source images: scale is 0. Give a number that is not 0."),
    ],
)
def test_image_refusals(pictures, options, message):
    with pytest.raises(DataError) as caught:
        list(open_images({"folder": "photos", **options}, pictures))
    assert str(caught.value) == message


def test_a_folder_without_images_and_a_damaged_image_are_refused(pictures):
    (pictures / "empty").mkdir()
    with pytest.raises(DataError, match=r"^empty: there are no images in the folder\. Put some there: "):
        list(open_images({"folder": "empty"}, pictures))
    file = pictures / "photos/cats/0.png"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"^photos/cats/0\.png: is no image: .* Repair or remove it\.$"):
        list(open_images({"folder": "photos"}, pictures))
