"""Where code lies: whose it is, and how its path is shown."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from types import CodeType, FrameType
from typing import Literal

import torch

import qntz

Owner = Literal["user", "package", "foreign", "torch", "stdlib", "qntz"]

_VISION = ("cv2", "imageio", "matplotlib", "PIL", "skimage")
_NUMERICS = ("cupy", "jax", "librosa", "numba", "numexpr", "numpy", "pandas", "scipy", "sklearn", "tensorflow")
ARRAY_LIBRARIES = frozenset((*_VISION, *_NUMERICS))
"""Root modules whose functions compute outside torch; what they are given is found by the real object, not by name."""

_TORCH = str(Path(torch.__file__).parent) + "/"
_QNTZ = str(Path(qntz.__file__).parent) + "/"
_STDLIB = tuple(str(Path(sysconfig.get_paths()[kind])) + "/" for kind in ("stdlib", "platstdlib"))


@dataclass(frozen=True)
class Place:
    """A place in source code. path: as shown. line, column: 1-based, 0 where unknown. function: its qualified name."""

    path: str
    line: int
    column: int = 0
    function: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line} in {self.function}" if self.function else f"{self.path}:{self.line}"


@lru_cache(maxsize=4096)
def owner_of(filename: str) -> Owner:
    """Whose a file is: "package" is anything installed, "foreign" an installed library that computes outside torch."""
    if filename.startswith("<frozen "):
        return "stdlib"
    path = str(Path(filename))
    if path.startswith(_TORCH):
        return "torch"
    if path.startswith(_QNTZ):
        return "qntz"
    installed = installed_part(path)
    if installed is not None:
        return "foreign" if installed.split("/")[0].removesuffix(".py") in ARRAY_LIBRARIES else "package"
    return "stdlib" if path.startswith(_STDLIB) else "user"


def installed_part(filename: str) -> str | None:
    """The path below the last site-packages folder, or None for a file that is not installed."""
    parts = PurePath(filename).parts
    for i in range(len(parts) - 1, -1, -1):
        if parts[i] in ("site-packages", "dist-packages"):
            return "/".join(parts[i + 1 :])
    return None


def shown_path(filename: str, module_name: str, source_root: Path | None) -> str:
    """A path that is the same on every machine: below site-packages, below `source_root`, or as long as the module's
    dotted name."""
    installed = installed_part(filename)
    if installed is not None:
        return installed
    path = Path(filename)
    if source_root is not None and path.is_absolute():
        for root, file in ((source_root, path), (source_root.resolve(), path.resolve())):
            if file.is_relative_to(root):
                return file.relative_to(root).as_posix()
    depth = module_name.count(".") + 1 + (path.stem == "__init__")
    return "/".join(path.parts[-depth:])


def module_name_of(frame: FrameType) -> str:
    """The dotted name of the module that a frame's code belongs to."""
    return str(frame.f_globals.get("__name__", ""))


@lru_cache(maxsize=4096)
def _positions(code: CodeType) -> tuple[tuple[int | None, int | None, int | None, int | None], ...]:
    return tuple(code.co_positions())


def position_of(frame: FrameType) -> tuple[int, int, int, int] | None:
    """(line, column, end line, end column) of what the frame executes, as `ast` counts; None before Python 3.11."""
    if sys.version_info < (3, 11):
        return None
    line, end_line, column, end_column = _positions(frame.f_code)[frame.f_lasti // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return line, column, end_line, end_column
