"""What kinds of values a function's names hold, read off its source: where TorchScript, which gives each name, element
and result one static type, would have to change it.

The pass goes through the statements in their order. A kind is "tensor", the name of a Python type ("int", "list"), or
"" where the source does not tell; nothing is said of a value of no known kind.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from qntz.check.index import SourceIndex
from qntz.check.resolve import UNKNOWN, Function, resolve, root_of
from qntz.check.source import deeper

TENSOR = "tensor"
_NUMBERS = ("bool", "int", "float")
_COUNTS = ("size", "dim", "numel", "ndimension", "element_size", "storage_offset", "get_device")
_ATTRIBUTES = {"shape": "tuple", "ndim": "int", "T": TENSOR, "mT": TENSOR, "H": TENSOR, "real": TENSOR, "data": TENSOR}
_TUPLES = """
    aminmax broadcast_tensors chunk cummax cummin dsplit frexp geqrf hsplit kthvalue lu max median meshgrid min mode
    nonzero qr slogdet sort split split_with_sizes std_mean svd symeig tensor_split topk unbind unique
    unique_consecutive unravel_index var_mean vsplit where
"""
_SEVERAL = frozenset(_TUPLES.split())
"""Functions of torch that give several tensors, always or with some arguments."""
_NO_TENSOR = frozenset(["item", "tolist", "numpy", "stride", "untyped_storage", "type", "data_ptr"])


class Kinds:
    """The kinds that one function's source shows.

    Attributes:
        changes: where a value is of another kind than the same name, list or result had before, with the reason.
        empty: the empty lists and dicts without annotation that are then given something else than tensors, with what.
    """

    def __init__(self, index: SourceIndex, function: Function) -> None:
        self.function = function
        self.calls = {call.node: call.target for call in index.calls(function)}
        self.changes: list[tuple[ast.AST, str]] = []
        self.empty: list[tuple[ast.AST, str]] = []
        self._names: dict[str, str] = _parameters(function)
        self._empties: dict[str, ast.expr] = {}
        self._returned = ""
        if not isinstance(function.node, ast.Lambda):
            with deeper():
                self._block(function.node.body, outer={})

    def _block(self, statements: Sequence[ast.stmt], outer: Mapping[str, str]) -> None:
        """outer: the kinds of the names that stood before the innermost branch or loop."""
        for statement in statements:
            self._statement(statement, outer)

    def _statement(self, node: ast.stmt, outer: Mapping[str, str]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._look(child)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value, node, outer)
        elif isinstance(node, ast.AnnAssign):
            if isinstance(node.target, ast.Name):
                self._names[node.target.id] = _annotated(node.annotation)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            self._set(name, _joined(self._names.get(name, ""), self.of(node.value), node.op), node, outer)
        elif isinstance(node, ast.Return):
            self._return(node)
        elif isinstance(node, ast.If):
            self._branches(node.body, node.orelse)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            if not isinstance(node, ast.While):
                self._loop_names(node)
            self._branches(node.body, [])
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            self._block(node.body, outer)
        elif isinstance(node, (ast.Try, ast.Match)):
            bodies = [node.body] if isinstance(node, ast.Try) else [case.body for case in node.cases]
            self._branches(*bodies, [])

    def _branches(self, *bodies: Sequence[ast.stmt]) -> None:
        before = dict(self._names)
        after: list[dict[str, str]] = []
        for body in bodies:
            self._names = dict(before)
            # what another branch has made of a name that no one had before is what this one has to make of it
            made = {name: kind for names in after for name, kind in names.items() if name not in before}
            self._block(body, {**made, **before})
            if not (body and isinstance(body[-1], (ast.Return, ast.Raise))):
                after.append(self._names)
        shared = set.intersection(*(set(names) for names in after)) if after else set()
        self._names = {name: _same([names[name] for names in after]) for name in shared}

    def _loop_names(self, node: ast.For | ast.AsyncFor) -> None:
        called = node.iter.func.id if isinstance(node.iter, ast.Call) and isinstance(node.iter.func, ast.Name) else ""
        names = [inner.id for inner in ast.walk(node.target) if isinstance(inner, ast.Name)]
        self._names.update(dict.fromkeys(names, ""))
        if called in ("range", "enumerate") and names:
            self._names[names[0]] = "int"
        elif isinstance(node.target, ast.Name) and self.of(node.iter) == TENSOR:
            self._names[node.target.id] = TENSOR

    def _bind(self, target: ast.expr, value: ast.expr, node: ast.stmt, outer: Mapping[str, str]) -> None:
        if isinstance(target, ast.Name):
            self._set(target.id, self.of(value), node, outer)
            if isinstance(value, (ast.List, ast.Dict)) and not ast.unparse(value).strip("[]{}"):
                self._empties[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            shape = isinstance(value, ast.Attribute) and value.attr == "shape"
            for position, element in enumerate(target.elts):
                if len(values) == len(target.elts):
                    self._bind(element, values[position], node, outer)
                elif isinstance(element, ast.Name):
                    self._names[element.id] = "int" if shape or self._is_size(value) else ""
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            self._filled(target.value.id, value, target.slice)

    def _set(self, name: str, kind: str, node: ast.AST, outer: Mapping[str, str]) -> None:
        before = outer.get(name, "")
        if before and kind and before != kind:
            self.changes.append((node, f"{name} is {_article(before)} before, and {_article(kind)} here"))
        self._empties.pop(name, None)
        self._names[name] = kind

    def _return(self, node: ast.Return) -> None:
        kind = self.of(node.value) if node.value is not None else ""
        if isinstance(node.value, ast.Tuple):
            kind = f"tuple of {len(node.value.elts)}"
        if kind and self._returned and kind != self._returned:
            self.changes.append((node, f"{_article(self._returned)} is returned before, and {_article(kind)} here"))
        self._returned = self._returned or kind

    def _look(self, expression: ast.expr) -> None:
        """Values of several kinds within an expression, and what goes into lists that were empty."""
        for node in ast.walk(expression):
            if isinstance(node, (ast.List, ast.Dict)):
                kinds = {self.of(value) for value in (node.elts if isinstance(node, ast.List) else node.values)}
                if TENSOR in kinds and len(kinds - {""}) > 1:
                    held = " and ".join(_article(kind) for kind in sorted(kinds - {""}))
                    self.changes.append((node, f"one {type(node).__name__.lower()} holds {held}"))
            elif isinstance(node, ast.IfExp):
                kinds = {self.of(node.body), self.of(node.orelse)}
                if "" not in kinds and len(kinds) > 1:
                    either = " or ".join(_article(kind) for kind in sorted(kinds))
                    self.changes.append((node, f"this gives {either}"))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                held = node.func.value
                if node.func.attr in ("append", "insert") and isinstance(held, ast.Name):
                    self._filled(held.id, node.args[-1], None)

    def _filled(self, name: str, value: ast.expr, key: ast.expr | None) -> None:
        kind, key_kind = self.of(value), self.of(key) if key is not None else ""
        if (made := self._empties.get(name)) is None:
            return
        keyed = isinstance(made, ast.Dict) and key_kind not in ("", "str")
        if keyed or kind not in ("", TENSOR):
            what = f"{key_kind} keys" if keyed else f"{_article(kind)} at line {value.lineno}"
            self.empty.append((made, f"the empty {_literal(made)} {name} is given {what}, and has no annotation"))
            del self._empties[name]

    def of(self, node: ast.expr) -> str:
        """The kind of an expression's value where it stands."""
        if isinstance(node, ast.Name):
            known = self._names.get(node.id)
            return _live(resolve(node, self.function)) if known is None else known
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Attribute):
            if self.of(node.value) == TENSOR:
                return _ATTRIBUTES.get(node.attr, "")
            return _live(resolve(node, self.function))
        if isinstance(node, ast.Subscript):
            is_shape = isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
            if is_shape and not isinstance(node.slice, ast.Slice):
                return "int"
            return TENSOR if self.of(node.value) == TENSOR else ""
        if isinstance(node, ast.BinOp):
            return _joined(self.of(node.left), self.of(node.right), node.op)
        if isinstance(node, ast.UnaryOp):
            return "bool" if isinstance(node.op, ast.Not) else self.of(node.operand)
        if isinstance(node, ast.Compare):
            plain = not isinstance(node.ops[0], (ast.Is, ast.IsNot, ast.In, ast.NotIn))
            kinds = [self.of(one) for one in (node.left, *node.comparators)]
            return TENSOR if plain and TENSOR in kinds else "" if plain and "" in kinds else "bool"
        if isinstance(node, ast.IfExp):
            return _same([self.of(node.body), self.of(node.orelse)])
        return _literal(node)

    def _call(self, node: ast.Call) -> str:
        target = self.calls.get(node, UNKNOWN)
        if target in (int, float, bool, str, list, tuple, dict) or target is len:
            return "int" if target is len else target.__name__
        if isinstance(target, torch.nn.Module):
            several = (torch.nn.RNNBase, torch.nn.MultiheadAttention, torch.nn.LSTMCell)
            return "" if isinstance(target, several) else TENSOR
        name = node.func.attr if isinstance(node.func, ast.Attribute) else str(getattr(target, "__name__", ""))
        if name in _SEVERAL:
            return ""
        if isinstance(node.func, ast.Attribute) and self.of(node.func.value) == TENSOR:
            if name in _COUNTS:
                return "int" if name != "size" or node.args else "tuple"
            return "" if name in _NO_TENSOR or name.startswith("is_") else TENSOR
        if target is not UNKNOWN and not isinstance(target, (Function, type)) and root_of(target) == "torch":
            return "int" if name == "numel" else "" if name.startswith(("is_", "get_")) else TENSOR
        return ""

    def _is_size(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size"


def _parameters(function: Function) -> dict[str, str]:
    """The kinds of a function's arguments: what they are annotated as, else what a live run gave."""
    a = function.node.args
    kinds = {}
    for position, argument in enumerate((*a.posonlyargs, *a.args, *a.kwonlyargs)):
        if position == 0 and function.receiver is not UNKNOWN:
            continue
        given = function.given.get(argument.arg, TENSOR if function.ran else "")
        kind = _annotated(argument.annotation) if argument.annotation is not None else given
        kinds[argument.arg] = "" if kind == "NoneType" else kind
    return kinds


def _annotated(node: ast.expr) -> str:
    text = ast.unparse(node).strip("'\"")
    return TENSOR if text in ("Tensor", "torch.Tensor") else text if text in _NUMBERS else ""


def _live(value: Any) -> str:
    """The kind of a live object that is a constant of the source: an attribute, a global, a default."""
    if isinstance(value, torch.Tensor):
        return TENSOR
    return type(value).__name__ if type(value) in (bool, int, float, str, tuple, list, dict) else ""


def _literal(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return "" if node.value is None else type(node.value).__name__
    literals = {ast.Tuple: "tuple", ast.List: "list", ast.ListComp: "list", ast.Dict: "dict", ast.JoinedStr: "str"}
    return literals.get(type(node), "")


def _joined(left: str, right: str, operator: ast.operator) -> str:
    if TENSOR in (left, right):
        return TENSOR
    if left in _NUMBERS and right in _NUMBERS:
        return "float" if isinstance(operator, ast.Div) or "float" in (left, right) else "int"
    return left if left == right else ""


def _same(kinds: Sequence[str]) -> str:
    return kinds[0] if kinds and len(set(kinds)) == 1 else ""


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
