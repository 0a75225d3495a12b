"""The source that a model's forward reaches: the functions that ran, and those that they call."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from qntz.check.places import Place, owner_of, shown_path
from qntz.check.resolve import UNKNOWN, Function, Property, attribute, body_nodes, python_functions, resolve
from qntz.check.source import Sources


@dataclass(frozen=True)
class Call:
    """A call in reached source. target: the object that is called, or UNKNOWN, or a `Function` of the same body."""

    function: Function
    node: ast.Call
    target: Any


@dataclass
class SourceIndex:
    """The reached functions, those that ran first, each once; and the classes of the live model.

    `packages` are the root packages that the model's own classes come from: their installed code is read too.
    """

    module: torch.nn.Module
    sources: Sources
    packages: frozenset[str]
    functions: dict[tuple[str, int, int], Function] = field(default_factory=dict)
    _calls: dict[tuple[str, int, int], list[Call]] = field(default_factory=dict)

    def calls(self, function: Function) -> list[Call]:
        """The calls in a function's body, resolved, in source order."""
        if function.key not in self._calls:
            nodes = (node for node in body_nodes(function.node) if isinstance(node, ast.Call))
            self._calls[function.key] = [Call(function, node, resolve(node.func, function)) for node in nodes]
        return self._calls[function.key]

    def reads(self, function: Function) -> Iterator[tuple[ast.expr, Any]]:
        """The names and attributes that a function's body reads, with the objects that they stand for."""
        for node in body_nodes(function.node):
            if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load):
                yield node, resolve(node, function)

    def is_own(self, filename: str, module_name: str) -> bool:
        """Whether code counts as the model's own: the user's, or of a package that the model's classes come from."""
        owner = owner_of(filename)
        return owner == "user" or (owner == "package" and module_name.split(".")[0] in self.packages)

    def targets(self, called: Any) -> list[Function]:
        """The model's own functions that calling a resolved object runs."""
        if isinstance(called, Function):
            return [called]
        found = []
        for function, receiver in python_functions(called):
            module_name = str(function.__globals__.get("__name__", ""))
            if self.is_own(function.__code__.co_filename, module_name):
                found.append(self.function_of(function.__code__, function.__globals__, _closure(function), receiver))
        return [function for function in found if function is not None]

    def function_of(
        self, code: types.CodeType, namespace: dict[str, Any], free: dict[str, Any], receiver: Any, **more: Any
    ) -> Function | None:
        """The function of a code object: the one known already, or a new one; None where it has no source."""
        file = self.sources.file(code.co_filename, str(namespace.get("__name__", "")))
        node = file.function(code) if file is not None else None
        if file is None or node is None:
            return None
        new = Function(node, file, file.names[node], namespace, free, receiver, **more)
        return self.functions.get(new.key, new)

    def add_reached(self) -> None:
        """Adds what the functions found so far call, and what that calls in turn."""
        queue = deque(self.functions.values())
        while queue:
            caller = queue.popleft()
            for node, called in self._mentioned(caller):
                for function in self.targets(called):
                    if function.key not in self.functions:
                        step = str(caller.file.place_of(node, caller.name))
                        function.chain = (*caller.chain, step)
                        self.functions[function.key] = function
                        queue.append(function)

    def _mentioned(self, caller: Function) -> Iterator[tuple[ast.expr, Any]]:
        """What a body calls, reads as a property, or hands to a call (and so may have called)."""
        for call in self.calls(caller):
            yield call.node, call.target
            for argument in (*call.node.args, *(keyword.value for keyword in call.node.keywords)):
                if isinstance(argument, (ast.Name, ast.Attribute)):
                    value = resolve(argument, caller)
                    if isinstance(value, (Function, types.FunctionType, types.MethodType)):
                        yield argument, value
        for node, value in self.reads(caller):
            if isinstance(value, Property):
                yield node, value

    def hidden(self) -> Iterator[tuple[str, Any]]:
        """The tensors and modules that the model's modules hold as plain attributes, or in plain lists, tuples and
        dicts, where `.to()`, `.eval()` and `state_dict()` do not reach them; by the attribute's path."""
        for path, part in self.module.named_modules():
            for name, value in vars(part).items():
                if name in ("_parameters", "_buffers", "_modules"):
                    continue
                held = value.values() if type(value) is dict else value if type(value) in (list, tuple) else (value,)
                for one in held:
                    if isinstance(one, (torch.Tensor, torch.nn.Module)):
                        yield f"{path}.{name}" if path else name, one

    def class_place(self, kind: type) -> Place | None:
        """Where a class is defined; None where it has no source."""
        node, file = self._class(kind)
        return None if node is None else file.place_of(node, kind.__qualname__)

    def place_of_member(self, path: str) -> Place:
        """Where the member of the model at a dotted path (a submodule, parameter, buffer or attribute) is made:
        the assignment in the class of the model's own that holds it, else that class, else the model's class."""
        parts = path.split(".") if path else []
        for depth in range(len(parts) - 1, -1, -1):
            owner = self._part(parts[:depth])
            if owner is None:
                continue  # a run made it, and it is gone again; or a name with a dot
            for kind in type(owner).__mro__:
                node, file = self._class(kind)
                if node is not None:
                    held = _member(owner, parts[depth])
                    made = _assignment(node, parts[depth], parts[depth + 1 : depth + 2], held)
                    if made is not None:
                        return file.place_of(made, kind.__qualname__)
            place = self.class_place(type(owner))
            if place is not None:
                return place
        own = (self.class_place(type(part)) for part in self.module.modules())
        return next((place for place in own if place is not None), None) or Place(self._path_of(type(self.module)), 0)

    def place_of_training(self, path: str) -> Place | None:
        """Where a submodule is put in training mode: `self.part.train()` in the class that holds it."""
        *holder, name = path.split(".")
        owner = self._part(holder)
        for kind in type(owner).__mro__ if owner is not None else ():
            node, file = self._class(kind)
            for call in ast.walk(node) if node is not None else ():
                if isinstance(call, ast.Call) and ast.unparse(call.func) == f"self.{name}.train":
                    return file.place_of(call, kind.__qualname__)
        return None

    def _part(self, names: Sequence[str]) -> torch.nn.Module | None:
        part: Any = self.module
        for name in names:
            part = part._modules.get(name) if isinstance(part, torch.nn.Module) else None
        return part

    def place_of_forward(self) -> Place:
        """Where the model's own forward is defined, else its class."""
        functions = [target for function, _ in forward_of(self.module) for target in self.targets(function)]
        named = [function for function in functions if not isinstance(function.node, ast.Lambda)]
        if not named:
            return self.place_of_member("")
        return named[-1].file.place_of(named[-1].node, named[-1].name)  # the last is what decorators wrap

    def place_at(self, shown: str) -> Place | None:
        """The place that a text names as `str(Place)` does; None for any other text."""
        before, _, function = shown.rpartition(" in ")
        path, _, line = before.rpartition(":")
        file = self.sources.by_path(path) if line.isdigit() else None
        return file.place(int(line), None, function) if file is not None else None

    def writer_of(self, what: str, owner: Any, name: str, value: Any) -> tuple[Place, tuple[str, ...]] | None:
        """Where reached source changes what `owner` holds under a name (an attribute, global or variable of a closure),
        or the container `value` that it holds; None where that cannot be told."""
        ordered = sorted(self.functions.values(), key=lambda function: not function.ran)
        for function in ordered:
            for node in body_nodes(function.node):
                for target in _written(node):
                    if self._is_written(target, function, what, owner, name, value):
                        place = function.file.place_of(target, function.name)
                        return place, (*function.chain, str(place))
        return None

    def iterated(self) -> Iterator[tuple[str, Place, tuple[str, ...]]]:
        """Where reached source takes the next item of a live iterator, whose state no one else can read; with its
        expression."""
        for function in self.functions.values():
            for call in self.calls(function):
                if call.target is next and call.node.args:
                    held = resolve(call.node.args[0], function)
                    if held is not UNKNOWN and isinstance(held, Iterator):
                        place = function.file.place_of(call.node, function.name)
                        yield ast.unparse(call.node.args[0]), place, (*function.chain, str(place))

    def _is_written(self, target: ast.expr, function: Function, what: str, owner: Any, name: str, value: Any) -> bool:
        if isinstance(target, ast.Name):
            free = name not in function.locals and name not in function.parameters
            return target.id == name and free and what in ("global", "closure")
        if isinstance(target, ast.Attribute) and target.attr == name and what not in ("global", "closure"):
            found = resolve(target.value, function)
            if found is UNKNOWN or found is owner or (what == "class" and found in (type(owner), owner)):
                return True
        if what == "default":
            base = target.value if isinstance(target, (ast.Starred, ast.Subscript)) else target
            return (
                function.node.lineno >= owner.__code__.co_firstlineno
                and function.name == owner.__qualname__
                and (isinstance(base, ast.Name) and base.id == name)
            )
        if isinstance(target, ast.Starred):  # stands for what a call changes in place
            target = target.value
        held = resolve(target.value if isinstance(target, ast.Subscript) else target, function)
        return held is value and value is not None and held is not UNKNOWN

    def _path_of(self, kind: type) -> str:
        """The shown path of the file that holds a class of torch's or of compiled code."""
        filename = getattr(sys.modules.get(kind.__module__), "__file__", None)
        filename = filename or f"{kind.__module__.replace('.', '/')}.py"
        return shown_path(filename, kind.__module__, self.sources.source_root)

    def _class(self, kind: type) -> tuple[Any, Any]:
        methods = (value for value in vars(kind).values() if isinstance(value, types.FunctionType))
        filename = next((method.__code__.co_filename for method in methods), None)
        if filename is None:
            filename = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if filename is None or not self.is_own(filename, kind.__module__):
            return None, None
        file = self.sources.file(filename, kind.__module__)
        return (None, None) if file is None else (file.classes.get(kind.__qualname__), file)


def own_packages(module: torch.nn.Module) -> frozenset[str]:
    """The root packages of the classes that a model is made of, torch left out."""
    return frozenset(type(part).__module__.split(".")[0] for part in module.modules()) - {"torch"}


def _closure(function: types.FunctionType) -> dict[str, Any]:
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # an empty cell: the name is not bound yet
            values[name] = UNKNOWN
    return values


def forward_of(module: torch.nn.Module) -> Iterable[tuple[types.FunctionType, Any]]:
    """The Python functions that a module's forward consists of, outermost first, with their receivers."""
    if isinstance(module, torch.jit.ScriptModule):
        return []  # compiled: its source is no Python function
    own = vars(module).get("forward") or inspect.getattr_static(type(module), "forward", None)
    if isinstance(own, (staticmethod, classmethod)):
        own = own.__func__
    if isinstance(own, property):
        own = own.fget
    return python_functions(types.MethodType(own, module) if isinstance(own, types.FunctionType) else own)


def _member(owner: Any, name: str) -> Any:
    found = attribute(owner, name)
    return None if found is UNKNOWN else found


def _assignment(node: ast.ClassDef, name: str, key: Sequence[str], held: Any) -> ast.expr | None:
    """Where a class's methods make what a member holds: `self.name["key"] = ...`, the `self.name = ...` that calls the
    type that it has, else the first; or the call that names it (register_buffer, add_module)."""
    found: list[ast.expr] = []
    exact: list[ast.expr] = []
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Assign, ast.AnnAssign)):
            targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
            for target in targets:
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant) and key:
                    of = target.value
                    if isinstance(of, ast.Attribute) and of.attr == name and str(target.slice.value) == key[0]:
                        return target
            if isinstance(inner.value, ast.Call) and isinstance(inner.value.func, (ast.Name, ast.Attribute)):
                func = inner.value.func
                called = func.id if isinstance(func, ast.Name) else func.attr
                if called == type(held).__name__:
                    exact += [t for t in targets if isinstance(t, ast.Attribute) and t.attr == name]
            members = [target for target in targets if isinstance(target, ast.Attribute)]
            found += [member for member in members if member.attr == name and isinstance(member.value, ast.Name)]
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in _REGISTERS:
            found += [inner for first in inner.args[:1] if isinstance(first, ast.Constant) and first.value == name]
    return min(exact or found, key=lambda expression: expression.lineno, default=None)


def _written(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that a statement or call binds or changes; what a call changes in place as `Starred`."""
    if isinstance(node, ast.Assign):
        pending = list(node.targets)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)):
        pending = [node.target]
    elif isinstance(node, ast.Delete):
        pending = list(node.targets)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        changes = node.func.attr in _CHANGES or (node.func.attr.endswith("_") and not node.func.attr.endswith("__"))
        pending = []
        if changes:
            yield ast.copy_location(ast.Starred(node.func.value), node)
            if isinstance(node.func.value, ast.Attribute):
                yield node.func.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next" and node.args:
        yield ast.copy_location(ast.Starred(node.args[0]), node)
        pending = []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
        named = node.args[1] if len(node.args) == 3 else None
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            yield ast.copy_location(ast.Attribute(node.args[0], named.value, ast.Store()), node)
        pending = []
    else:
        pending = []
    while pending:
        target = pending.pop(0)
        if isinstance(target, (ast.Tuple, ast.List)):
            pending += target.elts
            continue
        yield target
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Attribute):
            yield target.value


_ADDING = ("append", "appendleft", "extend", "insert", "add", "update", "setdefault")
_CHANGES = (*_ADDING, "pop", "popleft", "remove", "clear")
_REGISTERS = ("register_buffer", "register_parameter", "register_module", "add_module")
