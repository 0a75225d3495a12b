"""From the places in an archive's code to the statements of the Python source that they were made of."""

from __future__ import annotations

import bisect
import io
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import _weights_only_unpickler
from torch.jit import _pickle

from qntz.statements import statement_at

Places = dict[str, list[tuple[int, int, str]]]
"""Of each file of code the line (from 1), column (from 0) and statement from which on it comes from that one."""

_FRAME = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): ", re.MULTILINE)  # of a trace's stack, innermost first
_STACK = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')  # of an exported program's, innermost last
_OWN = (f"{torch.__path__[0]}/", f"{__file__.rpartition('/torchscript/')[0]}/")


def places_in(archive: zipfile.ZipFile) -> Places:
    """What an archive, as torch.jit.save writes it, tells of its code."""
    found: Places = {}
    names = archive.namelist()
    for name in names:
        code, _, rest = name.rpartition(".debug_pkl")
        if rest or code not in names:
            continue
        spans = _spans(_told(archive.read(name)))
        places = _placed(spans, archive.read(code).decode())
        if places:
            found[code.partition("/code/")[2]] = places
    return found


def _told(pickled: bytes) -> Any:
    """What torch tells of its code, read as `torch.load(weights_only=True)` reads: the archive may be of a model that
    was made elsewhere."""
    with torch.serialization.safe_globals([_pickle.build_intlist]):  # a list of numbers, and no more
        return _weights_only_unpickler.load(io.BytesIO(pickled))


def statement_of_stack(stack: str) -> str:
    """The statement of the innermost frame of a stack that is neither torch's nor qntz's."""
    frames = [(one["file"], int(one["line"])) for one in _STACK.finditer(stack)]
    return _innermost(frames[::-1])


def _innermost(frames: Sequence[tuple[str, int]]) -> str:
    own = [frame for frame in frames if not frame[0].startswith(_OWN) and not frame[0].startswith("<")]
    return statement_at(*(own or frames)[0]) if frames else ""


def _spans(told: Any) -> list[tuple[int, str]]:
    """Of each stretch of code the first character, counted in bytes, and the statement."""
    _, texts, entries = told
    spans = []
    of_stacks: dict[tuple[int, ...], str | None] = {}
    for offset, ((parts, name, first_line), start, _), *_ in entries:
        if (known := tuple(parts)) not in of_stacks:
            frames = [(one["file"], int(one["line"])) for one in _FRAME.finditer("".join(texts[i] for i in parts))]
            of_stacks[known] = _innermost(frames) if frames else None
        if (statement := of_stacks[known]) is not None:
            spans.append((offset, statement))
        else:
            text = "".join(texts[index] for index in parts)
            file = texts[name] if isinstance(name, int) else name
            spans.append((offset, statement_at(file, first_line + text.count("\n", 0, start)) if file else ""))
    return spans


def _placed(spans: Sequence[tuple[int, str]], code: str) -> list[tuple[int, int, str]]:
    starts, offset = [], 0
    for line in code.splitlines(keepends=True):
        starts.append(offset)
        offset += len(line)
    placed: list[tuple[int, int, str]] = []
    for at, statement in sorted(spans):
        line = bisect.bisect_right(starts, at)
        if not placed or placed[-1][2] != statement:
            placed.append((line, at - starts[line - 1], statement))
    return placed if any(statement for *_, statement in placed) else []
