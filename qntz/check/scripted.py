"""What torch.jit.script makes of the model: its own errors, each at its line, and the scripted model's outputs.

A compiler stops at its first error, so the parts are compiled apart: the functions that the user's code calls, its
modules from the inside out, and at last the model. Each error is read once, wherever it comes up again.
"""

from __future__ import annotations

import re
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qntz.check.index import SourceIndex
from qntz.check.places import Place, owner_of
from qntz.check.resolve import Function
from qntz.model import compiled

_FILE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_KINDS = (
    ("global-variable", "closed over global variable|is not a supported global|global statements"),
    ("missing-type-hint", "because it was not annotated|previously matched to type Tensor|Expected a default value"),
    ("missing-type-hint", r"argument .* but instead found type .*Tensor \(inferred\)|Unknown type name"),
    (
        "dynamic-type",
        "Wrong type for attribute|did not match the types|branch has type|previous(ly)? .*type|"
        "Previous return statement|is set to type|Type mismatch|Inconsistent|heterogen|Could not unify|"
        "Expected .* to be of type|must have the same type|Union|Optional|not defined in the false|"
        "is not defined in the|Only tensors, lists, tuples|Lists must contain only a single type|Dict .* type",
    ),
    (
        "unscriptable-helper",
        "[Cc]ould not get( name of)? .*(source|class)|Can't get source|is not supported in Torchscript|"
        "attribute lookup|cannot be used as a value|cannot create weak reference|failed to compile|"
        "Unknown builtin|cannot call|calling a python function|Python builtin|not a supported .*function|"
        "object has no attribute|Tried to access nonexistent attribute|Expected a single top-level function",
    ),
)


@dataclass(frozen=True)
class Refusal:
    """An error of torch.jit.script.

    Attributes:
        slug: of the rule that it belongs to. why: its first telling line. place: the line that it points at. whole:
        whether it kept the model from being compiled, and not only a part of it by itself.
    """

    slug: str
    why: str
    place: Place
    chain: tuple[str, ...]
    whole: bool


def refusals(module: torch.nn.Module, index: SourceIndex, everything: bool) -> tuple[tuple[Refusal, ...], Any]:
    """The errors that torch.jit.script has for the model and its parts, in a fixed order, and the compiled model, where
    it compiles.

    Args:
        everything: compiles installed code too, and the whole model; else only the user's own modules and functions.
    """
    found: dict[tuple[str, int], Refusal] = {}
    made = None
    if circle := _circle(module):
        why = f"{circle} holds itself, which torch.jit.script does not survive"
        return (Refusal("unsupported-python", why, index.place_of_member(circle), (), True),), None
    for unit, name in _units(module, index, everything):
        whole = unit is module
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = compiled(unit)
            made = result if whole else made
        except Exception as error:  # the compiler raises RuntimeError, OSError, TypeError, its own kinds and more
            refusal = _read(str(error) or type(error).__name__, type(error).__name__, index, whole, name)
            key = (refusal.place.path, refusal.place.line)
            known = found.get(key)
            if known is None or (whole and not known.whole):
                found[key] = refusal
    return tuple(found.values()), made


def _circle(module: torch.nn.Module) -> str:
    """The path of an attribute whose list, tuple or dict holds itself; "" where there is none."""

    def holds_itself(value: Any, within: frozenset[int]) -> bool:
        if type(value) not in (list, tuple, dict):
            return False
        items = value.values() if isinstance(value, dict) else value
        inner = within | {id(value)}
        return id(value) in within or any(holds_itself(item, inner) for item in items)

    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_modules", "_parameters", "_buffers") and holds_itself(value, frozenset()):
                return f"{path}.{name}" if path else name
    return ""


def _units(module: torch.nn.Module, index: SourceIndex, everything: bool) -> Iterator[tuple[Any, str]]:
    """What is compiled apart: functions at the top level of a module first, then a module of each class, inside out."""
    for function in list(index.functions.values()):
        live = function.globals.get(function.name)
        own = everything or owner_of(function.file.filename) == "user"
        same = isinstance(live, types.FunctionType) and live.__code__.co_filename == function.file.filename
        if own and same and not function.untyped:  # alone it would be compiled for tensors; its caller tells
            yield live, function.name
    seen: set[type] = set()
    parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
    for part in reversed(parts[1:]):
        kind = type(part)
        place = index.class_place(kind)
        if kind in seen or place is None or not (everything or _is_users(kind)):
            continue
        seen.add(kind)
        yield part, kind.__qualname__
    if parts and (everything or _is_users(type(module))):
        yield module, type(module).__qualname__


def _is_users(kind: type) -> bool:
    forward = getattr(kind, "forward", None)
    return isinstance(forward, types.FunctionType) and owner_of(forward.__code__.co_filename) == "user"


def _read(text: str, kind: str, index: SourceIndex, whole: bool, name: str) -> Refusal:
    """The compiler's error, at the place of its first stack entry."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head: list[str] = []
    for line in lines:
        if _FILE.search(line):
            break
        head.append(line)
    why = next((line for line in head if not line.endswith(":") or len(head) == 1), head[0] if head else kind)
    why = why.rstrip(":.")
    matches = list(_FILE.finditer(text))
    # a library's function that does not compile is told where the model calls it
    own_code = [found for found in matches if owner_of(found["file"]) in ("user", "package")]
    users = [found for found in own_code if owner_of(found["file"]) == "user"]
    match = next(iter(users or own_code), None)
    place, chain, function = Place(name, 0), (), None
    if match is not None:
        filename, line = match["file"], int(match["line"])
        file = index.sources.file(filename, "")
        function = _around(index, filename, line)
        label = function.name if function is not None else ""
        place = file.place(line, _column(text, match), label) if file is not None else Place(filename, line)
        chain = (*function.chain, str(place)) if function is not None else ()
    else:  # of torch's own code, or of none: where it is called is not told
        place = index.place_of_member("")
    slug = _slug(text, kind)
    if function is not None and function.untyped and slug != "global-variable":
        line_text = function.file.lines[place.line - 1] if 0 < place.line <= len(function.file.lines) else ""
        if any(re.search(rf"\b{re.escape(name)}\b", line_text) for name in function.untyped):
            slug = "missing-type-hint"
    return Refusal(slug, why, place, chain, whole)


def _slug(text: str, kind: str) -> str:
    if kind in ("UnsupportedNodeError", "FrontendError"):
        return "global-variable" if text.lower().startswith("global ") else "unsupported-python"
    for slug, pattern in _KINDS:
        if re.search(pattern, text):
            return slug
    return "unsupported-python"


def _around(index: SourceIndex, filename: str, line: int) -> Function | None:
    """The innermost reached function that a line stands in."""
    inside = [
        function
        for function in index.functions.values()
        if function.file.filename == filename and function.node.lineno <= line <= (function.node.end_lineno or line)
    ]
    return max(inside, key=lambda function: function.node.lineno, default=None)


def _column(text: str, match: re.Match[str]) -> int | None:
    """Where the compiler's underline begins, in characters from 0; None where it shows none."""
    for line in text[match.end() :].splitlines()[1:]:
        if "<--- HERE" in line:
            return len(line) - len(line.lstrip()) if line.lstrip().startswith("~") else None
        if _FILE.search(line):
            return None
    return None


def unsupported(function: Function) -> Iterator[tuple[Any, str]]:
    """The nodes of a function's body that TorchScript's frontend has no translation for, with their names. What is
    supported is read off the frontend itself."""
    import ast

    from torch.jit.frontend import ExprBuilder, StmtBuilder

    nodes: Sequence[ast.AST] = [function.node.body] if isinstance(function.node, ast.Lambda) else function.node.body
    pending = list(reversed(list(nodes)))
    while pending:
        node = pending.pop()
        builder = StmtBuilder if isinstance(node, ast.stmt) else ExprBuilder if isinstance(node, ast.expr) else None
        if builder is not None and not hasattr(builder, f"build_{type(node).__name__}"):
            yield node, type(node).__name__
            continue  # what stands inside is refused with it
        pending += reversed(list(ast.iter_child_nodes(node)))
