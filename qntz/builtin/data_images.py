"""The data source `images`: a folder of image files, prepared as torchvision's transforms do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qntz.errors import DataError, did_you_mean, one_line
from qntz.hookspecs import hookimpl
from qntz.records import FILE, TARGET, Arrays, DataSource
from qntz.samples import spread

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEFAULTS: dict[str, Any] = {
    "folder": None,
    "count": None,
    "input": "image",
    "mode": "RGB",
    "resize": None,
    "crop": None,
    "interpolation": "bilinear",
    "scale": 255,
    "mean": None,
    "std": None,
    "layout": "chw",
    "labels": None,
}
WHERE = "source images"


@hookimpl
def qntz_data_sources() -> Iterator[DataSource]:
    yield DataSource("images", open_images)


def open_images(options: Mapping[str, Any], root: Path) -> Iterator[Arrays]:
    """Samples from the image files below a folder, in the order of their paths.

    Args:
        options: `folder`, relative to `root`; `count`, how many, spread evenly over all (none: all); `input`, the
            model's ("image"); `mode`, RGB or L (grey); `resize`, the shorter side in pixels, or [height, width];
            `crop`, of the middle, a side or [height, width]; `interpolation`, nearest, bilinear or bicubic; `scale`,
            what the values 0..255 are divided by (255); `mean` and `std`, a number or one a channel, that are then
            subtracted and divided by; `layout`, chw or hwc; `labels: folders`, where the class is the number of the
            image's folder among the sorted ones.
        root: the project's root.

    Yields:
        The image, float32 [channels, height, width] or [height, width, channels]; the class, int64 [], under "target";
        and the file's path under "file".

    Raises:
        DataError: no such folder, no images in it, an unknown option or value, or a file that is no image.
    """
    given = _options(options)
    folder = root / str(given["folder"])
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", where=str(given["folder"]), do="It is relative to the project's root."
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        do = f"Put some there: {', '.join(SUFFIXES)}."
        raise DataError("there are no images in the folder", where=str(given["folder"]), do=do)
    classes = sorted({path.parent for path in files})
    for index in spread(len(files), given["count"]):
        path = files[index]
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        sample = {given["input"]: _prepared(path, name, given), FILE: np.array(name)}
        if given["labels"] == "folders":
            sample[TARGET] = np.array(classes.index(path.parent), dtype=np.int64)
        yield sample


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    for key in options:
        if key not in DEFAULTS:
            raise DataError(f"no option {key!r}", where=WHERE, do=did_you_mean(key, list(DEFAULTS)))
    given = {**DEFAULTS, **options}
    if given["folder"] is None:
        raise DataError("no folder is named", where=WHERE, do="Add `folder: path`.")
    known = {
        "mode": ("RGB", "L"),
        "interpolation": ("nearest", "bilinear", "bicubic"),
        "layout": ("chw", "hwc"),
        "labels": (None, "folders"),
    }
    for key, values in known.items():
        if given[key] not in values:
            named = [str(value) for value in values if value is not None]
            raise DataError(f"{key} is {given[key]!r}", where=WHERE, do=f"Give {' or '.join(named)}.")
    for key in ("resize", "crop"):
        given[key] = _size(key, given[key])
    channels = len(given["mode"])
    for key in ("mean", "std"):
        value = np.asarray([] if given[key] is None else given[key], dtype=np.float32).reshape(-1)
        if value.size not in (0, 1, channels) or (key == "std" and not value.all()):
            do = f"Give a number, or {channels}" + (", none of them 0." if key == "std" else ".")
            raise DataError(f"{key} is {given[key]}", where=WHERE, do=do)
        given[key] = value
    if not isinstance(given["scale"], (int, float)) or not given["scale"]:
        raise DataError(f"scale is {given['scale']!r}", where=WHERE, do="Give a number that is not 0.")
    return given


def _size(key: str, value: Any) -> int | tuple[int, int] | None:
    sizes = [value] if isinstance(value, int) else value
    if value is None:
        return None
    whole = isinstance(sizes, Sequence) and all(isinstance(size, int) and size > 0 for size in sizes)
    if not whole or len(sizes) not in (1, 2):
        raise DataError(f"{key} is {value!r}", where=WHERE, do="Give pixels: a side, or [height, width].")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _prepared(path: Path, name: str, given: Mapping[str, Any]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("Pillow is not installed", where=WHERE, do="pip install pillow") from None
    try:
        with Image.open(path) as opened:
            image = _sized(opened.convert(given["mode"]), name, given)
    except DataError:
        raise
    except Exception as error:  # a damaged image fails in many ways
        raise DataError("is no image", where=name, why=one_line(error), do="Repair or remove it.") from error
    values = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1) / np.float32(given["scale"])
    if given["mean"].size:
        values = values - given["mean"]
    if given["std"].size:
        values = values / given["std"]
    return np.ascontiguousarray(values.transpose(2, 0, 1) if given["layout"] == "chw" else values)


def _sized(image: Image, name: str, given: Mapping[str, Any]) -> Image:
    from PIL import Image

    resize, crop = given["resize"], given["crop"]
    if resize is not None:
        if isinstance(resize, int):
            shorter = min(image.size)
            resize = (int(image.height * resize / shorter), int(image.width * resize / shorter))
        method = getattr(Image.Resampling, given["interpolation"].upper())
        image = image.resize((resize[1], resize[0]), method)
    if crop is not None:
        height, width = (crop, crop) if isinstance(crop, int) else crop
        if height > image.height or width > image.width:
            raise DataError(
                f"is {image.height} by {image.width}, smaller than the crop of {height} by {width}",
                where=name,
                do="Set resize.",
            )
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return image
