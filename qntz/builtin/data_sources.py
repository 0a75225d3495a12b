"""The shipped data sources but images: arrays in files, a Python function that yields samples, and a Dataset."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qntz.artifacts import read_npz
from qntz.callables import TARGET, resolved
from qntz.errors import ArtifactError, DataError, did_you_mean, one_line
from qntz.hookspecs import hookimpl
from qntz.records import FILE, Arrays, DataSource
from qntz.samples import spread


@hookimpl
def qntz_data_sources() -> Iterator[DataSource]:
    yield DataSource("npz", open_npz)
    yield DataSource("npy", open_npy)
    yield DataSource("python", open_python)
    yield DataSource("dataset", open_dataset)


def open_npz(options: Mapping[str, Any], root: Path) -> Iterator[Arrays]:
    """Samples from an .npz archive, in its order.

    Args:
        options: `file`, the archive, relative to `root`; `count`, the number of samples (none: all); `arrays`, the
            archive's names by those of the model's inputs and "target" (none: all arrays under their own names).
            Each array has the samples along its first axis.
        root: the project's root.

    Raises:
        DataError: no such file, no archive of plain arrays, an unknown option or array, or arrays of unequal length.
    """
    for key in options:
        if key not in ("file", "count", "arrays"):
            raise DataError(f"no option {key!r}", where="source npz", do=did_you_mean(key, ("file", "count", "arrays")))
    if "file" not in options:
        raise DataError("no file is named", where="source npz", do="Add `file: data.npz`.")
    file = str(options["file"])
    arrays = _read(root / file, file)
    wanted = options.get("arrays") or {name: name for name in arrays}
    for key in wanted.values():
        if key not in arrays:
            raise DataError(f"no array {key!r}", where=file, do=did_you_mean(key, arrays))
    columns = {name: arrays[key] for name, key in wanted.items()}
    lengths = {name: len(array) if array.ndim else None for name, array in columns.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {'no axis' if n is None else n}" for name, n in lengths.items())
        raise DataError("the arrays have unequal numbers of samples", where=file, why=told)
    for i in range(next(iter(lengths.values()), 0))[: options.get("count")]:
        yield {FILE: np.array(file), **{name: np.asarray(column[i]) for name, column in columns.items()}}


def open_npy(options: Mapping[str, Any], root: Path) -> Iterator[Arrays]:
    """Samples from .npy files: from one that has them all along its first axis, or from a folder with one in each.

    Args:
        options: `files`, paths by the names of the model's inputs and "target", relative to `root`, which are mapped
            into memory; or `folder`, whose files are a sample each in the order of their paths, .npz by the names of
            their arrays, .npy of the input that `input` names; `count`, the number of samples (none: all; of a folder
            they are spread evenly).
        root: the project's root.

    Raises:
        DataError: no such file or folder, nothing in it, a file that is no plain array, an unknown option, or files of
            unequal length.
    """
    known = ("files", "folder", "input", "count")
    for key in options:
        if key not in known:
            raise DataError(f"no option {key!r}", where="source npy", do=did_you_mean(key, known))
    if ("files" in options) == ("folder" in options):
        raise DataError("takes either files or a folder", where="source npy", do="Add `files: {input: data.npy}`.")
    if "folder" in options:
        yield from _one_a_file(options, root)
        return
    files = options["files"]
    if not isinstance(files, Mapping) or not files:
        raise DataError("files is no mapping", where="source npy", do="Write `files: {input: data.npy}`.")
    columns = {str(name): _array(root / str(file), str(file)) for name, file in files.items()}
    lengths = {str(files[name]): len(array) if array.ndim else None for name, array in columns.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {'no axis' if n is None else n}" for name, n in lengths.items())
        raise DataError("the files have unequal numbers of samples", where="source npy", why=told)
    names = ", ".join(map(str, files.values()))
    for i in range(next(iter(lengths.values())) or 0)[: options.get("count")]:
        yield {FILE: np.array(names), **{name: np.asarray(column[i]) for name, column in columns.items()}}


def _one_a_file(options: Mapping[str, Any], root: Path) -> Iterator[Arrays]:
    folder = root / str(options["folder"])
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", where=str(options["folder"]), do="It is relative to the project's root."
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".npy", ".npz"))
    if not paths:
        raise DataError("there are no .npy or .npz files in the folder", where=str(options["folder"]))
    for index in spread(len(paths), options.get("count")):
        path = paths[index]
        file = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        if path.suffix == ".npz":
            yield {FILE: np.array(file), **_read(path, file)}
        elif "input" in options:
            yield {str(options["input"]): np.asarray(_array(path, file)), FILE: np.array(file)}
        else:
            raise DataError("of which input is it?", where=file, do="Add `input: name`.")


def _array(path: Path, file: str) -> np.ndarray:
    if not path.is_file():
        raise DataError("the file is missing", where=file, do="It is relative to the project's root.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError("is no .npy file of a plain array", where=file, why=one_line(error)) from error
    if not isinstance(array, np.ndarray):
        raise DataError("is an .npz archive", where=file, do="Use `source: npz`.")
    return array


def _read(path: Path, file: str) -> Arrays:
    if not path.is_file():
        raise DataError("the file is missing", where=file, do="Check `file`; it is relative to the project's root.")
    if not zipfile.is_zipfile(path):
        raise DataError("is no .npz archive", where=file, do="Write it with numpy.savez.")
    try:
        return read_npz(path)
    except ArtifactError as error:
        raise DataError(error.what, where=file, why=error.why, do="Write plain arrays with numpy.savez.") from error


def open_python(options: Mapping[str, Any], root: Path) -> Iterator[Arrays]:
    """Samples that a Python function yields.

    Args:
        options: `_target_`, the function as package.module.function, found from the project's root; every other key is
            given to it by keyword. It yields a dict of NumPy arrays without batch dimension for each sample.
        root: unused; relative paths in the options are the function's own.

    Raises:
        DataError: the function cannot be imported or called, raises, or yields something else than arrays.
    """
    if not isinstance(options.get(TARGET), str):
        raise DataError("no function is named", where="source python", do="Add `_target_: package.module.function`.")
    target = options[TARGET]
    function = resolved(target, DataError, what="function")
    number = -1
    samples = _guarded(target, lambda: iter(function(**{k: v for k, v in options.items() if k != TARGET})), "fails")
    end = object()
    while (sample := _guarded(target, lambda: next(samples, end), f"fails after sample {number}")) is not end:
        number += 1
        yield _checked(sample, target, number)


def open_dataset(options: Mapping[str, Any], root: Path) -> Iterator[Arrays]:
    """Samples of a `torch.utils.data.Dataset`, or of anything with a length that is indexed by number.

    Args:
        options: `_target_`, its class or a function that makes it, as package.module.name; `names`, of what a sample
            holds where it is a tuple, in its order: the model's inputs, "target", or null for what is left out;
            `count`, how many samples, spread evenly over all (none: all; of one without a length the first); every
            other key is given to the target by keyword.
        root: unused; relative paths in the options are the target's own.

    Raises:
        DataError: it cannot be made, raises, or yields something else than tensors, arrays and numbers.
    """
    if not isinstance(options.get(TARGET), str):
        raise DataError("no dataset is named", where="source dataset", do="Add `_target_: package.module.Dataset`.")
    target, names, count = options[TARGET], options.get("names"), options.get("count")
    kind = resolved(target, DataError, what="function")
    own = (TARGET, "names", "count")
    dataset = _guarded(target, lambda: kind(**{k: v for k, v in options.items() if k not in own}), "cannot be made")
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        indices: Iterator[int] = iter(spread(len(dataset), count))
        items = ((i, _guarded(target, lambda i=i: dataset[i], f"fails at item {i}")) for i in indices)
    elif hasattr(dataset, "__iter__"):
        items = enumerate(_guarded(target, lambda: iter(dataset), "fails"))
    else:
        raise DataError(f"is a {type(dataset).__name__}, no dataset", where=target)
    for number, item in items:
        yield _checked(_named(item, names, target, number), target, number)


def _named(item: Any, names: Any, target: str, number: int) -> Any:
    """The item as a dict of arrays."""
    where = f"{target}, sample {number}"
    if isinstance(item, (tuple, list)):
        if not isinstance(names, (tuple, list)) or len(names) != len(item):
            raise DataError(f"holds {len(item)} things", where=where, do="Name each: `names: [image, target]`.")
        item = {name: value for name, value in zip(names, item, strict=True) if name is not None}
    elif not isinstance(item, Mapping) and isinstance(names, (tuple, list)) and len(names) == 1:
        item = {names[0]: item}
    if not isinstance(item, Mapping):
        do = "Name it: `names: [image]`, or yield {name: tensor}."
        raise DataError(f"is a {type(item).__name__}, no dict", where=where, do=do)
    return {name: value.numpy() if hasattr(value, "numpy") else _plain(value) for name, value in item.items()}


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, (bool, int, float)) else value


def _guarded(target: str, call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(what, where=target, why=one_line(error)) from error


def _checked(sample: Any, target: str, number: int) -> Arrays:
    where = f"{target}, sample {number}"
    if not isinstance(sample, Mapping):
        raise DataError(f"is a {type(sample).__name__}, no dict of arrays", where=where, do="Yield {name: array}.")
    for name, value in sample.items():
        if not isinstance(value, (np.ndarray, np.generic)):
            raise DataError(f"{name} is a {type(value).__name__}, no NumPy array", where=where, do="Use numpy.asarray.")
    return {str(name): np.asarray(value) for name, value in sample.items()}
