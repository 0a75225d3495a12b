"""The route by torch.export: a graph of torch's operators in which decisions by sizes and values are made, and which
tells by guards which sizes they hold for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.export import Dim, ExportedProgram

from qntz.config import DimConfig
from qntz.errors import CaptureError, one_line
from qntz.model import quiet, tensors, traceable
from qntz.records import Arrays

SIZES = (*range(1, 34), 48, 63, 64, 65, 100, 127, 128, 129, 192, 256, 257, 384, 512, 513, 1000, 1024, 2048)


def program_of(
    plain: torch.nn.Module, example: Arrays, order: Sequence[str], shapes: Mapping[str, Sequence[int | str]]
) -> ExportedProgram:
    """The exported program of a module with plain inputs and outputs.

    Args:
        example: its dynamic dimensions are of two or more: torch takes a size of 1 for one that never changes.

    Raises:
        CaptureError: torch.export refuses the model.
    """
    dynamic = tuple({i: Dim.DYNAMIC for i, size in enumerate(shapes[n]) if isinstance(size, str)} for n in order)
    refused: list[Exception] = []
    for strict in (False, True):  # as Python runs it, and by its bytecode, where NumPy's functions become torch's
        try:
            with warnings.catch_warnings(), torch.no_grad(), traceable(), quiet():
                warnings.simplefilter("ignore")
                return torch.export.export(plain, tensors(example, order), dynamic_shapes=dynamic, strict=strict)
        except Exception as error:  # torch raises kinds of many of its packages
            refused.append(error)
    raise CaptureError("torch.export refuses the model", where=_place(refused[0]), why=one_line(refused[0]))


def excluded(
    program: ExportedProgram,
    example: Arrays,
    shapes: Mapping[str, Sequence[int | str]],
    dims: Mapping[str, DimConfig],
) -> Iterator[list[tuple[str, int]]]:
    """Of each guard and dynamic dimension the sizes that the guard excludes, with the dimension's name, those nearest
    to the example's first.

    Raises:
        CaptureError: a guard is about something else.
    """
    labels = list(dict.fromkeys(size for shape in shapes.values() for size in shape if isinstance(size, str)))
    usual = {label: _size(label, example, shapes) for label in labels}
    for guard in program._guards_code:
        for label in labels:
            within = [n for n in SIZES if label not in dims or dims[label].min <= n <= dims[label].max]
            broken = [(label, n) for n in within if not _holds(guard, {**usual, label: n}, shapes)]
            if broken:
                yield sorted(broken, key=lambda one: abs(one[1] - usual[one[0]]))


def _size(label: str, example: Arrays, shapes: Mapping[str, Sequence[int | str]]) -> int:
    return next(example[n].shape[s.index(label)] for n, s in ((n, list(s)) for n, s in shapes.items()) if label in s)


def _holds(guard: str, sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int | str]]) -> bool:
    """Whether a guard, a Python expression over L['input'].size(), holds for these sizes."""
    meta = {
        name: torch.empty([sizes.get(size, size) if isinstance(size, str) else size for size in shape], device="meta")
        for name, shape in shapes.items()
    }
    try:
        known = {"L": {**meta, "flat_args": list(meta.values())}, "torch": torch, "math": math}
        return bool(eval(guard, known))
    except ZeroDivisionError:
        return True  # of sizes that cannot be
    except Exception as error:  # whatever an expression of another kind raises
        raise CaptureError(
            "the exported program holds on a condition of its own", why=f"{guard}: {one_line(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """The user's innermost line that the error passed through."""
    from qntz.check.places import owner_of

    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if owner_of(code.co_filename) == "user":
            place = f"{code.co_filename}:{trace.tb_lineno} in {code.co_qualname}"
        trace = trace.tb_next
    return place
