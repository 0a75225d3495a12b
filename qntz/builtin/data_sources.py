"""The shipped data sources: arrays in an .npz archive, and a Python function that yields samples."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qntz.artifacts import read_npz
from qntz.errors import ArtifactError, DataError, did_you_mean, one_line
from qntz.hookspecs import hookimpl
from qntz.records import Arrays, DataSource


@hookimpl
def qntz_data_sources() -> Iterator[DataSource]:
    yield DataSource("npz", open_npz)
    yield DataSource("python", open_python)


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
        yield {name: np.asarray(column[i]) for name, column in columns.items()}


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
    if not isinstance(options.get("_target_"), str):
        raise DataError("no function is named", where="source python", do="Add `_target_: package.module.function`.")
    target = options["_target_"]
    function = _imported(target)
    number = -1
    samples = _guarded(target, lambda: iter(function(**{k: v for k, v in options.items() if k != "_target_"})), "fails")
    end = object()
    while (sample := _guarded(target, lambda: next(samples, end), f"fails after sample {number}")) is not end:
        number += 1
        yield _checked(sample, target, number)


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's: it may raise anything while it is imported
        raise DataError(
            "cannot be imported",
            where=target,
            why=one_line(error),
            do="Name a function that `python -c 'import ...'` finds from the project's root.",
        ) from error
    if not callable(function):
        raise DataError(f"is a {type(function).__name__}, no function", where=target)
    return function


def _guarded(target: str, call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except DataError:
        raise
    except Exception as error:
        raise DataError(what, where=target, why=one_line(error)) from error


def _checked(sample: Any, target: str, number: int) -> Arrays:
    where = f"{target}, sample {number}"
    if not isinstance(sample, Mapping):
        raise DataError(f"is a {type(sample).__name__}, no dict of arrays", where=where, do="Yield {name: array}.")
    for name, value in sample.items():
        if not isinstance(value, (np.ndarray, np.generic)):
            raise DataError(f"{name} is a {type(value).__name__}, no NumPy array", where=where, do="Use numpy.asarray.")
    return {str(name): np.asarray(value) for name, value in sample.items()}
