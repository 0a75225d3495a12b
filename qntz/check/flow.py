"""Where leaked values flow: into calls outside torch, and into what decides Python's control flow.

A forward pass over the reached functions' syntax trees.

The seeds are the leaks of the live runs, at the expressions that were executing. A value that a torch function takes
in has come back, and is followed no further.
"""

from __future__ import annotations

import ast
import functools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qntz.check.index import SourceIndex, forward_of
from qntz.check.places import ARRAY_LIBRARIES, Place
from qntz.check.resolve import UNKNOWN, Function, dotted, root_of
from qntz.check.source import deeper
from qntz.check.subject import COUNTING, Leak, Test

RANDOM_MODULES = frozenset(["random", "secrets"])
_NEUTRAL = """
    abc builtins collections contextlib copy dataclasses enum functools inspect io itertools json logging operator os
    pathlib pprint re string sys textwrap threading time traceback types typing warnings weakref
"""
NUMBER_MODULES = frozenset(sys.stdlib_module_names) - RANDOM_MODULES - frozenset(_NEUTRAL.split())
"""Modules of the standard library that may compute with what they are given (math, bisect, zlib): harmless on a number
that never was a tensor. Those left out pass on what they are given, or show it."""
FOREIGN = ARRAY_LIBRARIES | NUMBER_MODULES | RANDOM_MODULES

_STATIC = frozenset(["shape", "ndim", "dtype", "itemsize", "nbytes"])  # attributes of an array that are no data
_MAKERS = """
    tensor as_tensor asarray from_numpy from_dlpack frombuffer scalar_tensor full full_like zeros ones empty rand
    randn arange linspace logspace eye Tensor FloatTensor LongTensor new_tensor new_full new_zeros new_ones
    new_empty fill_
"""
_MAKES = frozenset(_MAKERS.split())
"""The functions of torch and methods of tensors that make a tensor of Python values."""
_DEPTH = 12

_LOOPS = (functools.reduce, map, filter, sum, all, any)
"""Calls that go over as many elements as they are given."""
_TryStar = getattr(ast, "TryStar", ast.Try)  # from Python 3.11
Marks = frozenset[Leak]
Seeds = Mapping[tuple[str, int, int], Mapping[ast.AST, Marks]]
_NONE: Marks = frozenset()


@dataclass(frozen=True)
class ForeignCall:
    """A call of a function outside torch in reached source; `leaks` are the leaked values that it is fed with."""

    name: str
    root: str
    place: Place
    chain: tuple[str, ...]
    leaks: tuple[Leak, ...]
    ran: bool


@dataclass(frozen=True)
class Reentry:
    """A place where leaked data goes back into torch: a call that makes a tensor of it ("call"), or an index
    ("index")."""

    kind: str
    place: Place
    chain: tuple[str, ...]
    leaks: tuple[Leak, ...]


@dataclass(frozen=True)
class Flows:
    """Where leaks flow, each in the order of the reached functions.

    Attributes:
        foreign: every call in the reached source whose target comes from an array library, or from a module of the
        standard library that computes with numbers or draws random ones, with the leaks of data that feed it.
        tests: every place where leaks decide what Python does next. reentries: where leaked data goes back into torch.
    """

    foreign: tuple[ForeignCall, ...]
    tests: tuple[Test, ...]
    reentries: tuple[Reentry, ...]


def flows(index: SourceIndex, seeds: Seeds) -> Flows:
    """Where the leaks at `seeds` flow."""
    flow = _Flow(index, seeds)
    if seeds:
        with deeper():
            for function in list(index.functions.values()):
                flow.run(function, {})
    return Flows(tuple(_foreign_calls(index, flow)), tuple(_tests(index, flow)), tuple(_reentries(flow)))


def _reentries(flow: _Flow) -> Iterator[Reentry]:
    for node, (function, marks) in flow.back.items():
        place = function.file.place_of(node, function.name)
        yield Reentry(
            "call" if isinstance(node, ast.Call) else "index", place, (*function.chain, str(place)), _sorted(marks)
        )


def _tests(index: SourceIndex, flow: _Flow) -> Iterator[Test]:
    for node, (kind, function, marks) in flow.tests.items():
        own = frozenset().union(*(flow.seeds.get(function.key, {}).get(inner, _NONE) for inner in ast.walk(node)))
        place = function.file.place_of(node, function.name)
        yield Test(kind, place, (*function.chain, str(place)), _sorted(marks), _sorted(own & marks))


def _sorted(marks: Marks) -> tuple[Leak, ...]:
    return tuple(sorted(marks, key=lambda leak: (str(leak.place), leak.kind)))


def _foreign_calls(index: SourceIndex, flow: _Flow) -> Iterator[ForeignCall]:
    for function in index.functions.values():
        for call in index.calls(function):
            root = "" if call.target is UNKNOWN or isinstance(call.target, Function) else root_of(call.target)
            if root in FOREIGN:
                leaks = _sorted(frozenset(leak for leak in flow.fed.get(call.node, _NONE) if leak.of == "data"))
                place = function.file.place_of(call.node, function.name)
                chain = (*function.chain, str(place))
                yield ForeignCall(dotted(call.target), root, place, chain, leaks, function.ran)


class _Flow:
    """Follows marks through functions; `fed` collects the marks that reach each call's arguments, `tests` those that
    reach an expression which decides the control flow, with its kind and its function, `back` those that go back into
    torch."""

    def __init__(self, index: SourceIndex, seeds: Seeds) -> None:
        self.index = index
        self.seeds = seeds
        self.fed: dict[ast.AST, Marks] = {}
        self.tests: dict[ast.expr, tuple[str, Function, Marks]] = {}
        self.back: dict[ast.expr, tuple[Function, Marks]] = {}
        self._results: dict[tuple[object, ...], Marks] = {}
        self._depth = 0

    def run(self, function: Function, given: Mapping[str, Marks]) -> Marks:
        """The marks of what a function returns, when its parameters carry those of `given`."""
        key = (function.key, tuple(sorted((name, marks) for name, marks in given.items() if marks)))
        if key in self._results or self._depth >= _DEPTH:
            return self._results.get(key, _NONE)
        self._results[key] = _NONE  # a recursive call adds nothing new
        self._depth += 1
        body = _Body(self, function, dict(given))
        node = function.node
        result = body.value(node.body) if isinstance(node, ast.Lambda) else body.block(node.body)
        self._depth -= 1
        self._results[key] = result
        return result


class _Body:
    """One pass through one function's body."""

    def __init__(self, flow: _Flow, function: Function, marks: dict[str, Marks]) -> None:
        self.flow, self.function, self.marks = flow, function, marks
        self.seeds = flow.seeds.get(function.key, {})
        self.calls = {call.node: call.target for call in flow.index.calls(function)}
        self.returned: Marks = _NONE

    def block(self, statements: Sequence[ast.stmt]) -> Marks:
        for statement in statements:
            self._statement(statement)
        return self.returned

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return
        if isinstance(node, ast.Assign):
            marks = self.value(node.value)
            for target in node.targets:
                self._bind(target, marks)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._bind(node.target, self.value(node.value))
        elif isinstance(node, ast.AugAssign):
            self._bind(node.target, self.value(node.value) | self.value(node.target))
        elif isinstance(node, ast.Return):
            self.returned |= self.value(node.value) if node.value is not None else _NONE
        elif isinstance(node, ast.If):
            self._test("if", node.test)
            self._branches(node.body, node.orelse)
        elif isinstance(node, ast.Assert):
            self._test("assert", node.test)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            self._loop(node)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                marks = self.value(item.context_expr)
                if item.optional_vars is not None:
                    self._bind(item.optional_vars, marks)
            self.block(node.body)
        elif isinstance(node, (ast.Try, _TryStar)):
            self.block(node.body)
            self._branches([], *(handler.body for handler in node.handlers), node.orelse)
            self.block(node.finalbody)
        elif isinstance(node, ast.Match):
            marks = self._test("match", node.subject)
            for case in node.cases:
                for pattern in ast.walk(case.pattern):
                    if isinstance(pattern, (ast.MatchAs, ast.MatchStar)) and pattern.name:
                        self.marks[pattern.name] = marks
                if case.guard is not None:
                    self._test("if", case.guard)
            self._branches([], *(case.body for case in node.cases))
        else:
            self._children(node)

    def _branches(self, *bodies: Sequence[ast.stmt]) -> None:
        before = dict(self.marks)
        after: dict[str, Marks] = {}
        for body in bodies:
            self.marks = dict(before)
            self.block(body)
            after = _union(after, self.marks)
        self.marks = after

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> None:
        for _ in range(2):  # a second turn sees what the first one left
            if isinstance(node, ast.While):
                self._test("while", node.test)
            else:
                self._bind(node.target, self._test("for", node.iter))
            self._branches([], node.body)
        self.block(node.orelse)

    def _bind(self, target: ast.expr, marks: Marks) -> None:
        if isinstance(target, ast.Name):
            self.marks[target.id] = marks
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._bind(element, marks)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, marks)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and marks:
            self.marks[target.value.id] = self.marks.get(target.value.id, _NONE) | marks

    def value(self, node: ast.AST) -> Marks:
        """The marks of an expression's value."""
        seeds = self.seeds.get(node, _NONE)
        if isinstance(node, ast.Name):
            return seeds | self.marks.get(node.id, _NONE)
        if isinstance(node, ast.Call):
            return seeds | self._call(node)
        if isinstance(node, ast.NamedExpr):
            marks = seeds | self.value(node.value)
            self._bind(node.target, marks)
            return marks
        if isinstance(node, ast.Attribute) and node.attr in _STATIC:
            self.value(node.value)
            return seeds
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            for generator in node.generators:
                self._bind(generator.target, self._test("for", generator.iter))
                for test in generator.ifs:
                    self._test("if", test)
        if isinstance(node, ast.IfExp):
            self._test("if", node.test)
        if isinstance(node, ast.BoolOp):
            for operand in node.values[:-1]:
                self._test("and/or", operand)
        if isinstance(node, ast.Lambda):
            return seeds
        if isinstance(node, ast.Subscript):
            held, position = self.value(node.value), self.value(node.slice)
            if not held:
                self._goes_back(node, position)
            return seeds | held | position
        return seeds | self._children(node)

    def _goes_back(self, node: ast.expr, marks: Marks) -> None:
        data = frozenset(leak for leak in marks if leak.of == "data")
        if data:
            known = self.flow.back.get(node)
            self.flow.back[node] = (self.function, data | (known[1] if known is not None else _NONE))

    def _test(self, kind: str, node: ast.expr) -> Marks:
        """The marks of an expression that decides what runs next."""
        marks = self.value(node)
        self._decides(kind, node, marks)
        return marks

    def _decides(self, kind: str, node: ast.expr, marks: Marks) -> None:
        if marks:
            known = self.flow.tests.get(node)
            self.flow.tests[node] = (kind, self.function, marks | (known[2] if known is not None else _NONE))

    def _children(self, node: ast.AST) -> Marks:
        marks = _NONE
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.expr_context, ast.operator, ast.stmt)):
                marks |= self.value(child)
        return marks

    def _call(self, node: ast.Call) -> Marks:
        target = self.calls.get(node, UNKNOWN)
        of_object = self.value(node.func.value) if isinstance(node.func, ast.Attribute) else _NONE
        positional = [self.value(argument) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value) for keyword in node.keywords}
        fed = frozenset().union(*positional, *named.values())
        root = "" if target is UNKNOWN or isinstance(target, Function) else root_of(target)
        if any(target is loop for loop in _LOOPS):
            counted = frozenset(leak for leak in fed if leak.kind in COUNTING)
            self._decides("call", node, counted)
        if root in FOREIGN:
            own = self.seeds.get(node, _NONE)
            self.flow.fed[node] = self.flow.fed.get(node, _NONE) | fed | own
            return fed | own
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if (root == "torch" and str(getattr(target, "__name__", "")) in _MAKES) or method in _MAKES:
            self._goes_back(node, fed)
        if root == "torch" or target is len:
            return _NONE
        own_code = self._own_code(target)
        if own_code:
            return frozenset().union(*(self.flow.run(f, _given(f, target, positional, named)) for f in own_code))
        return fed | of_object

    def _own_code(self, target: Any) -> list[Function]:
        if isinstance(target, torch.nn.Module):
            known = [own for function, _ in forward_of(target) for own in self.flow.index.targets(function)]
            return [function for function in known if function.key in self.flow.index.functions]
        return [] if target is UNKNOWN else self.flow.index.targets(target)


def _given(
    function: Function, target: Any, positional: Sequence[Marks], named: Mapping[str | None, Marks]
) -> dict[str, Marks]:
    """The marks of a function's parameters in a call of `target`."""
    arguments = function.node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if not isinstance(target, (Function, types.FunctionType)):
        names = names[1:]  # self, which the call does not spell
    given = dict(zip(names, positional, strict=False))
    given.update({name: marks for name, marks in named.items() if name in function.parameters})
    if arguments.vararg is not None:
        given[arguments.vararg.arg] = frozenset().union(*positional[len(names) :])
    return given


def _union(one: Mapping[str, Marks], other: Mapping[str, Marks]) -> dict[str, Marks]:
    return {name: one.get(name, _NONE) | other.get(name, _NONE) for name in {**one, **other}}
