"""Where in the source something comes from: a statement's place in the syntax tree, which a comment above it leaves as
it is, and that is looked up as a line only where somebody reads it.

A statement is written "net.py:Block.forward:2.body.0": the file, the function or class around it, and the way to it
from there, without docstrings: the third statement, and of its body the first.
"""

from __future__ import annotations

import ast
import bisect
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_LISTS = ("body", "orelse", "finalbody", "handlers", "cases")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def statement_at(file: str, line: int) -> str:
    """The innermost statement of a file at a line; "" where the file is none that can be read and parsed."""
    for place, first, last in reversed(_statements(file)):
        if first <= line <= last:
            return f"{named(file)}:{place}"
    return ""


def line_of(statement: str, root: Path) -> tuple[Path, int] | None:
    """The file and line of a statement, as its source is now; None where there is no such statement any more."""
    file, _, place = statement.partition(":")
    for folder in (root, *map(Path, sys.path)):
        if (folder / file).is_file():
            lines = (first for known, first, _ in _statements(str(folder / file)) if known == place)
            return next(((folder / file, line) for line in lines), None)
    return None


def shown(statement: str, root: Path) -> str:
    """A statement for a reader, "net.py:12 in Block.forward"; as it is written where its line is not to be found."""
    found = line_of(statement, root)
    if found is None:
        return statement
    file, scope, _ = statement.split(":")
    return f"{file}:{found[1]} in {scope}" if scope else f"{file}:{found[1]}"


def named(file: str) -> str:
    """A file by its path below the working directory or else the first folder of modules that holds it: the same on
    every machine."""
    return _below(file, (os.getcwd(), *filter(None, sys.path)))


@functools.lru_cache(maxsize=1024)
def _below(file: str, folders: tuple[str, ...]) -> str:
    path = Path(file)
    for folder in folders:
        if path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts:
            return path.relative_to(folder).as_posix()
    return path.name


def statement_of(places: Mapping[str, Sequence[Sequence[Any]]], file: str, line: int, column: int) -> str:
    """The statement of a place in a ScriptModule's code, by its index (`records.Capture`); "" where that has none."""
    known = places.get(file, ())
    index = bisect.bisect_right([(one[0], one[1]) for one in known], (line, column)) - 1
    return str(known[index][2]) if index >= 0 else ""


@functools.lru_cache(maxsize=256)
def _statements(file: str) -> tuple[tuple[str, int, int], ...]:
    """Of every statement the place and the first and last line; an outer one before those in it."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ()
    return tuple(_within(tree, "", ""))


def _within(node: ast.AST, scope: str, way: str) -> Iterator[tuple[str, int, int]]:
    for name in _LISTS:
        children = getattr(node, name, None)
        if not isinstance(children, list):  # of an expression, `body` is one
            continue
        if name == "body" and isinstance(node, (*_SCOPES, ast.Module)):
            children = _without_docstring(children)
        for index, child in enumerate(children):
            step = str(index) if name == "body" and not way else f"{name}.{index}"
            inner = f"{way}.{step}" if way else step
            if isinstance(child, ast.match_case):
                yield f"{scope}:{inner}", child.pattern.lineno, child.body[-1].end_lineno or 0
            else:
                first = min(one.lineno for one in (*getattr(child, "decorator_list", ()), child))
                yield f"{scope}:{inner}", first, child.end_lineno
            if isinstance(child, _SCOPES):
                yield from _within(child, f"{scope}.{child.name}" if scope else child.name, "")
            else:
                yield from _within(child, scope, inner)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    value = body[0].value if body and isinstance(body[0], ast.Expr) else None
    return body[1:] if isinstance(value, ast.Constant) and isinstance(value.value, str) else body
