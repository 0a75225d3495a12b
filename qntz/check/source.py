"""Source files as syntax trees: functions found by their code objects, classes, and suppressions in comments."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

from qntz.check.places import Place, shown_path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
DEEPEST = 20_000  # calls of Python's own, which take no stack of C's
_IGNORE = re.compile(r"#\s*qntz:\s*ignore\[([^\]]*)\](.*)")


@dataclass(frozen=True)
class Ignore:
    """A comment `# qntz: ignore[slug, slug] reason`. column: 1-based."""

    slugs: tuple[str, ...]
    reason: str
    column: int


@dataclass
class SourceFile:
    """One parsed file. filename: as code objects give it; path: as shown; names: qualified name by function node."""

    filename: str
    path: str
    lines: list[str]
    tree: ast.Module
    names: dict[FunctionNode, str] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    ignores: dict[int, Ignore] = field(default_factory=dict)

    def function(self, code: CodeType) -> FunctionNode | None:
        """The definition that a code object was compiled from; None for a module's or a comprehension's code."""
        named = (node for node in self.names if _name(node) == code.co_name)
        found = [node for node in named if _first_line(node) == code.co_firstlineno]
        arguments = code.co_varnames[: code.co_argcount]
        exact = [node for node in found if tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args)) == arguments]
        return next(iter(exact or found), None)

    def place(self, line: int, byte_column: int | None, function: str = "") -> Place:
        """A place from `ast`'s way to count (columns in UTF-8 bytes from 0; None: the line's first character)."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        if byte_column is None:
            return Place(self.path, line, len(text) - len(text.lstrip()) + 1, function)
        return Place(self.path, line, len(text.encode()[:byte_column].decode(errors="ignore")) + 1, function)

    def place_of(self, node: ast.expr | ast.stmt, function: str = "") -> Place:
        return self.place(node.lineno, node.col_offset, function)


class Sources:
    """The files that a check has read, each once."""

    def __init__(self, source_root: Path | None) -> None:
        self.source_root = source_root
        self._files: dict[str, SourceFile | None] = {}

    def file(self, filename: str, module_name: str) -> SourceFile | None:
        """The parsed file, or None where it cannot be read or parsed (compiled code, code made by `exec`)."""
        if filename not in self._files:
            self._files[filename] = _parse(filename, shown_path(filename, module_name, self.source_root))
        return self._files[filename]

    def by_path(self, path: str) -> SourceFile | None:
        """A file that was read, by its shown path."""
        return next((file for file in self._files.values() if file is not None and file.path == path), None)


def _parse(filename: str, path: str) -> SourceFile | None:
    try:
        with tokenize.open(filename) as opened:
            text = opened.read()
        tree = ast.parse(text)
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return None  # a place without source is still reported, by its path
    file = SourceFile(filename, path, text.split("\n"), tree)
    _collect(tree, file)
    file.ignores.update(_ignores(text))
    return file


def _collect(tree: ast.AST, file: SourceFile) -> None:
    pending = [(tree, "")]
    while pending:
        node, prefix = pending.pop()
        if isinstance(node, ast.ClassDef):
            file.classes[prefix + node.name] = node
            prefix = f"{prefix}{node.name}."
        elif isinstance(node, FunctionNode):
            file.names[node] = prefix + _name(node)
            prefix = f"{prefix}{_name(node)}.<locals>."
        pending += [(child, prefix) for child in reversed(list(ast.iter_child_nodes(node)))]


@contextlib.contextmanager
def deeper() -> Iterator[None]:
    """Lets source be read whose expressions are nested deeper than Python code may call: a sum of a thousand terms."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _name(node: FunctionNode) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _first_line(node: FunctionNode) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _ignores(text: str) -> dict[int, Ignore]:
    if "qntz:" not in text:
        return {}
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        match = _IGNORE.match(token.string) if token.type == tokenize.COMMENT else None
        if match:
            slugs = tuple(slug.strip() for slug in match.group(1).split(",") if slug.strip())
            found[token.start[0]] = Ignore(slugs, match.group(2).strip(), token.start[1] + 1)
    return found
