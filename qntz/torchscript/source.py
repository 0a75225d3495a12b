"""The model's source as torch.jit.script is told it: with what a run of the model showed, and with the forms of Python
that it lacks in those that it has. The files and functions stay as they are; what the compiler reads is a copy.

- parameters without annotation have the plain types that a run gave them;
- globals and closed-over names that a function does not bind itself, and class attributes, that are numbers, truths,
  strings, or tuples of them, stand as such (nothing in TorchScript reads a global);
- `x.item()` and `x.tolist()` are conversions of x and of its elements, to what a run showed;
- a list that begins empty has the type of the numbers that are appended to it;
- a generator expression in a call is a list, `f(*sizes, -1)` of the functions that take sizes is `f(sizes + [-1])`, and
  `math.log2(n)` is a quotient of logarithms.

A decorated function is refused: TorchScript reads what stands below the decorator. Whatever comes of the rest is
compared with the eager model as any capture is.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.jit import frontend

PLAIN = {kind.__name__: kind for kind in (int, float, bool, str)}
NUMBERS = ("item", "tolist")
"""The methods of a tensor that give Python numbers, and that TorchScript has no type for."""
_OF_SIZES = frozenset(
    [
        "expand",
        "new_empty",
        "new_ones",
        "new_zeros",
        "ones",
        "permute",
        "rand",
        "randn",
        "repeat",
        "reshape",
        "tile",
        "view",
        "zeros",
    ]
)
_OWN = f"{torch.__path__[0]}/"


@contextlib.contextmanager
def retold(
    given: Mapping[types.CodeType, Mapping[str, str]], numbers: Mapping[tuple[str, int, int], Any]
) -> Iterator[None]:
    """Lets torch.jit.script read the source so, for as long as it takes. given: of functions by their code the types of
    arguments, by parameter, as a run gave them. numbers: what calls of `NUMBERS` gave, by file, line and column."""
    parse = frontend.parse_def

    def told(function: Any) -> Any:
        parsed = parse(function)
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType):
            return parsed
        function = undecorated(function)
        if function.__code__.co_filename.startswith(_OWN):
            return parsed
        tree = copy.deepcopy(parsed.ast)
        definition = tree.body[0]
        _annotate(definition, given.get(function.__code__, {}))
        first, indent = parsed.file_lineno - 1, len(parsed.source) - len(parsed.source.lstrip(" \t"))
        here = {
            (line - first, column - indent): value
            for (file, line, column), value in numbers.items()
            if file == function.__code__.co_filename
        }
        bound = _bound(definition)
        constants = {name: value for name, value in _constants(function).items() if name not in bound}
        _Plainer(constants, here).visit(definition)
        _annotate_lists(definition)
        return parsed._replace(ast=ast.fix_missing_locations(tree))

    frontend.parse_def = told
    try:
        yield
    finally:
        frontend.parse_def = parse


def undecorated(function: types.FunctionType) -> types.FunctionType:
    """The function itself, or what torch's own decorators (`torch.no_grad`) stand around.

    Raises:
        TypeError: another decorator stands around it, which TorchScript would leave out.
    """
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        if not function.__code__.co_filename.startswith(_OWN):
            raise TypeError(f"{inner.__qualname__} is decorated, which TorchScript leaves out")
        function = inner
    return function


@contextlib.contextmanager
def undecorated_alone() -> Iterator[None]:
    """Lets torch.jit.script read functions without decorators alone, as they are written, for as long as it takes."""
    parse = frontend.parse_def

    def told(function: Any) -> Any:
        plain = getattr(function, "__func__", function)
        if isinstance(plain, types.FunctionType):
            undecorated(plain)
        return parse(function)

    frontend.parse_def = told
    try:
        yield
    finally:
        frontend.parse_def = parse


def with_class_attributes(module: torch.nn.Module) -> None:
    """Gives a module, which is a copy, the plain attributes of its class as its own, where TorchScript looks."""
    for name in dir(type(module)):
        if name.startswith("_") or name in vars(module) or hasattr(torch.nn.Module, name):
            continue
        value = getattr(type(module), name)
        if _is_plain(value):
            setattr(module, name, value)


def _bound(definition: ast.FunctionDef) -> set[str]:
    """The names that a function, or what stands in it, gives a value."""
    bound: set[str] = set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            bound.update(node.names)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return bound


def _annotate(definition: ast.FunctionDef, given: Mapping[str, str]) -> None:
    for one in (*definition.args.args, *definition.args.kwonlyargs):
        if one.annotation is None and given.get(one.arg) in PLAIN:
            one.annotation = ast.copy_location(ast.Name(given[one.arg], ast.Load()), one)


def _annotate_lists(definition: ast.FunctionDef) -> None:
    """`x = []` as `x: List[int] = []` where what is appended to it are integers, or other plain numbers."""
    kinds: dict[str, str] = {}
    for node in ast.walk(definition):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and (kind := _kind(node.value, kinds))
        ):
            kinds[node.targets[0].id] = kind
    appended: dict[str, set[str]] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.Call) and _last(node.func) == "append" and isinstance(node.func, ast.Attribute):
            appended.setdefault(_last(node.func.value), set()).update(_kind(one, kinds) for one in node.args)
    for node in ast.walk(definition):
        for name, body in ast.iter_fields(node):
            if isinstance(body, list) and name in ("body", "orelse"):
                body[:] = [_typed(one, appended) for one in body]


def _kind(value: ast.expr, known: Mapping[str, str]) -> str:
    """The plain type of an expression that tells it, "" of others."""
    if isinstance(value, ast.Constant):
        return type(value.value).__name__ if type(value.value) in PLAIN.values() else ""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id if value.func.id in PLAIN else ""
    return known.get(value.id, "") if isinstance(value, ast.Name) else ""


def _typed(statement: ast.stmt, appended: Mapping[str, set[str]]) -> ast.stmt:
    if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List)):
        return statement
    if statement.value.elts or len(statement.targets) != 1:
        return statement
    kinds = appended.get(_last(statement.targets[0]), set())
    if len(kinds) != 1 or kinds == {""}:
        return statement
    annotation = ast.Subscript(ast.Name("List", ast.Load()), ast.Name(kinds.pop(), ast.Load()), ast.Load())
    return _located(ast.AnnAssign(statement.targets[0], annotation, statement.value, 1), statement)  # type: ignore[no-any-return]


def _constants(function: types.FunctionType) -> dict[str, Any]:
    """The plain values of the globals and closed-over names that a function may read."""
    code = function.__code__
    values = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is empty yet
            values[name] = cell.cell_contents
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a truth, a string, or a tuple of them; a list may have others when it is read."""
    return all(map(_is_plain, value)) and bool(value) if type(value) is tuple else type(value) in PLAIN.values()


class _Plainer(ast.NodeTransformer):
    def __init__(self, constants: Mapping[str, Any], numbers: Mapping[tuple[int, int], Any]) -> None:
        self.constants, self.numbers = constants, numbers

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load) or node.id not in self.constants:
            return node
        return _located(_literal(self.constants[node.id]), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = _last(node.func)
        if isinstance(node.func, ast.Name) and len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp):
            node.args = [_located(ast.ListComp(node.args[0].elt, node.args[0].generators), node.args[0])]
        elif not isinstance(node.func, ast.Attribute):
            return node
        elif name in NUMBERS and (node.lineno, node.col_offset) in self.numbers:
            return _located(_converted(node.func.value, self.numbers[node.lineno, node.col_offset]), node)
        elif name in _OF_SIZES and any(isinstance(one, ast.Starred) for one in node.args):
            node.args = [_joined(node.args)]
        elif name == "log2" and _last(node.func.value) == "math":
            logarithm = ast.Attribute(node.func.value, "log", ast.Load())
            number = ast.Call(ast.Name("float", ast.Load()), [node.args[0]], [])
            parts = [ast.Call(logarithm, [of], []) for of in (number, ast.Constant(2.0))]
            return _located(ast.BinOp(parts[0], ast.Div(), parts[1]), node)
        return node


def _converted(tensor: ast.expr, value: Any, depth: int = 0) -> ast.expr:
    """The tensor as a number, or as nested lists of them, of the kind that `value` is."""
    if not isinstance(value, list):
        return ast.Call(ast.Name(type(value).__name__, ast.Load()), [tensor], [])
    element = f"_element_{depth}"
    inside = next((one for one in value if _kind_of(one) is not None), 0)
    one = _converted(ast.Name(element, ast.Load()), inside, depth + 1)
    return ast.ListComp(one, [ast.comprehension(ast.Name(element, ast.Store()), tensor, [], 0)])


def one_of_a_kind(values: Sequence[Any]) -> Any:
    """One of the numbers, or of the nested lists of numbers, that tells the kind of all; None where they differ, or are
    empty."""
    kinds = {kind: value for value in values if (kind := _kind_of(value)) is not None}
    return next(iter(kinds.values())) if len(kinds) == 1 else None


def _kind_of(value: Any) -> tuple[int, str] | None:
    """How deep the lists are, and the type in them; None of what is empty or mixed."""
    if not isinstance(value, list):
        return 0, type(value).__name__
    inside = {kind for one in value if (kind := _kind_of(one)) is not None}
    if len(inside) != 1:
        return None
    ((depth, name),) = inside
    return depth + 1, name


def _located(made: Any, node: ast.AST) -> Any:
    """What was made, with all its parts where the node was."""
    for part in ast.walk(made):
        if "lineno" in part._attributes and not hasattr(part, "lineno"):
            ast.copy_location(part, node)
    return made


def _literal(value: Any) -> ast.expr:
    if isinstance(value, tuple):
        return ast.Tuple([_literal(one) for one in value], ast.Load())
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


def _last(node: Any) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _joined(arguments: list[ast.expr]) -> ast.expr:
    """`*a, b` as `list(a) + [b]`."""
    parts: list[ast.expr] = []
    for one in arguments:
        if isinstance(one, ast.Starred):
            parts.append(ast.Call(ast.Name("list", ast.Load()), [one.value], []))
        elif parts and isinstance(parts[-1], ast.List):
            parts[-1].elts.append(one)
        else:
            parts.append(ast.List([one], ast.Load()))
    whole = parts[0]
    for part in parts[1:]:
        whole = ast.BinOp(whole, ast.Add(), part)
    return _located(whole, arguments[0])
