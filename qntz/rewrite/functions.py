"""Replaces functions while a model is captured, and proves each replacement on the calls that the model makes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from qntz.compare import relative_error
from qntz.errors import PluginError, one_line
from qntz.model import plain_leaves
from qntz.records import FunctionRewrite, Provided

_NO_MODELS = frozenset({"torch", "qntz", "numpy", "scipy", "onnx", "onnxruntime", "sympy"} | sys.stdlib_module_names)
"""What goes on with its own functions, and need not be looked through."""


@dataclass
class Calls:
    """What a run of the model showed of a rewrite: the places that called, and the worst error of what they got."""

    places: dict[str, None] = field(default_factory=dict)
    worst: float = 0.0
    at: str = ""


@contextlib.contextmanager
def replaced(rewrites: Sequence[Provided]) -> Iterator[None]:
    """Keeps the functions of the rewrites replaced, wherever a module or class has them under a name.

    Raises:
        PluginError: there is no such function.
    """
    with _patched({name: (given, original) for name, given, original, _ in _functions(rewrites)}, _matched):
        yield


@contextlib.contextmanager
def recorded(rewrites: Sequence[Provided]) -> Iterator[dict[str, Calls]]:
    """As `replaced`, and yields what the calls show, by the names of the rewrites."""
    calls = {provided.record.name: Calls() for provided in rewrites}
    owners = {name: provided for name, _, _, provided in _functions(rewrites)}

    def watched(name: str, given: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        seen, record = calls[owners[name].record.name], owners[name].record

        @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            if record.match is not None and not record.match(*args, **kwargs):
                return original(*args, **kwargs)
            place = f"{_caller()} {name}"
            seen.places[place] = None
            wanted = original(*_as_tensors(args), **_as_tensors(kwargs))
            got = given(*args, **kwargs)
            error = difference(got, wanted)
            if not seen.at or error > seen.worst:
                seen.worst, seen.at = error, place
            return got

        return call

    with _patched({name: (given, original) for name, given, original, _ in _functions(rewrites)}, watched):
        yield calls


@contextlib.contextmanager
def noted(rewrites: Sequence[Provided]) -> Iterator[set[str]]:
    """Yields the names of the rewrites whose functions are called, as they are called; nothing is replaced."""
    called: set[str] = set()
    owners = {name: provided.record for name, _, _, provided in _functions(rewrites)}

    def watched(name: str, given: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        record = owners[name]

        @functools.wraps(original, assigned=("__name__", "__doc__"), updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            if record.name not in called and (record.match is None or record.match(*args, **kwargs)):
                called.add(record.name)
            return original(*args, **kwargs)

        return call

    with _patched({name: (given, original) for name, given, original, _ in _functions(rewrites)}, watched):
        yield called


def difference(got: Any, wanted: Any) -> float:
    """The worst error over the largest magnitude of the tensors in two outputs; infinite where they are not alike."""
    mine, others = plain_leaves(got), plain_leaves(wanted)
    if len(mine) != len(others):
        return float("inf")
    return max((relative_error(a, b) for a, b in zip(mine, others, strict=True)), default=0.0)


def _matched(name: str, given: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return given


def _functions(rewrites: Sequence[Provided]) -> list[tuple[str, Callable[..., Any], Any, Provided]]:
    """Of each function that can be called the name, the replacement, the original and the rewrite."""
    found = []
    for provided in rewrites:
        record: FunctionRewrite = provided.record
        for name, given in record.functions.items():
            if not _may_be_called(name):
                continue
            original = _resolved(name, provided)
            if record.match is not None:
                given = _chosen(record.match, given, original)
            found.append((name, given, original, provided))
    return found


def _may_be_called(name: str) -> bool:
    """Whether its module was imported, or does not exist, which is told then: a model has imported what it calls."""
    parts = name.split(".")[:-1]
    known = next((count for count in range(len(parts), 0, -1) if ".".join(parts[:count]) in sys.modules), 0)
    if known == len(parts) or (known and parts[known] in vars(sys.modules[".".join(parts[:known])])):
        return True
    return importlib.util.find_spec(".".join(parts[: known + 1])) is None


def _chosen(match: Callable[..., bool], given: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return given(*args, **kwargs) if match(*args, **kwargs) else original(*args, **kwargs)

    return call


def _holder(name: str) -> tuple[Any, str]:
    """The module or class that has a function, and its name there; raises ImportError or AttributeError."""
    path, _, last = name.rpartition(".")
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            holder: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if not ".".join(parts).startswith(error.name or " "):
                raise
            continue
        return functools.reduce(getattr, parts[count:], holder), last
    raise ModuleNotFoundError(f"No module named {parts[0]!r}")


def _resolved(name: str, provided: Provided) -> Any:
    """The function that the holder has; of a class method that which takes the class first."""
    try:
        holder, last = _holder(name)
        found = inspect.getattr_static(holder, last)
        return found.__func__ if isinstance(found, (classmethod, staticmethod)) else getattr(holder, last)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"rewrite {provided.record.name!r} replaces {name}, which does not exist",
            where=provided.provider,
            why=one_line(error),
            do="Check the name, or say in `requires` which versions have it.",
        ) from error


Wrap = Callable[[str, Callable[..., Any], Callable[..., Any]], Callable[..., Any]]


@contextlib.contextmanager
def _patched(functions: Mapping[str, tuple[Callable[..., Any], Any]], wrap: Wrap) -> Iterator[None]:
    """Puts what `wrap` makes of each function in the places that hold it."""
    by_identity: dict[int, tuple[Any, Any]] = {}
    places: list[tuple[Any, str, Any, Any]] = []
    for name, (given, original) in functions.items():
        replacement = wrap(name, given, original)
        holder, last = _holder(name)
        kept = vars(holder).get(last, original)
        placed = type(kept)(replacement) if isinstance(kept, (classmethod, staticmethod)) else replacement
        places.append((holder, last, kept, placed))
        if not isinstance(holder, type):
            by_identity[id(original)] = (original, replacement)
    for module in list(sys.modules.values()) if by_identity else ():
        if not isinstance(module, types.ModuleType) or module.__name__.partition(".")[0] in _NO_MODELS:
            continue
        for name, value in list(vars(module).items()):
            if id(value) in by_identity and by_identity[id(value)][0] is value:
                places.append((module, name, value, by_identity[id(value)][1]))
    try:
        for holder, name, _, placed in places:
            setattr(holder, name, placed)
        yield
    finally:
        for holder, name, kept, _ in reversed(places):
            setattr(holder, name, kept)


def _as_tensors(values: Any) -> Any:
    """The same with each thing that stands for a tensor as that tensor."""
    if isinstance(values, dict):
        return {name: _as_tensors(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)) and not hasattr(values, "_fields"):
        return type(values)(_as_tensors(value) for value in values)
    return values.as_tensor() if hasattr(values, "as_tensor") else values


def _caller() -> str:
    """The nearest line outside torch and qntz that led here, "net.py:12"."""
    torch_root, own_root = torch.__path__[0], __file__.rpartition("/qntz/")[0] + "/qntz/"
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((torch_root, own_root)):
            return f"{file.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
