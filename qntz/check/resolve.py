"""Names in source resolved to the objects that they stand for, without running any code.

Nothing is decided from a name: what cannot be resolved to one object is `UNKNOWN`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from qntz.check.places import ARRAY_LIBRARIES
from qntz.check.source import FunctionNode, SourceFile

UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "UNKNOWN"})()
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef


@dataclass(frozen=True)
class Property:
    """An attribute that runs `function` on `owner` when it is read."""

    function: types.FunctionType
    owner: Any


@dataclass(eq=False)
class Function:
    """A function that the model's forward reaches.

    Attributes:
        node, file, name: its definition, the file and its qualified name. globals: of its module. free: the values of
        its closure by name. receiver: the live object that its first argument is, or UNKNOWN. ran: seen on the stack
        of a live run. given: the types of what a live run gave it, by parameter, where that is no tensor and no module.
        chain: the calls that lead to it. parent: the function whose body defines it, where it was
        found by reading only.
    """

    node: FunctionNode
    file: SourceFile
    name: str
    globals: Mapping[str, Any]
    free: Mapping[str, Any] = field(default_factory=dict)
    receiver: Any = UNKNOWN
    ran: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    chain: tuple[str, ...] = ()
    parent: Function | None = None

    @functools.cached_property
    def key(self) -> tuple[str, int, int]:
        return self.file.filename, self.node.lineno, self.node.col_offset

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        a = self.node.args
        more = [extra for extra in (a.vararg, a.kwarg) if extra is not None]
        return tuple(arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *more))

    @functools.cached_property
    def untyped(self) -> tuple[str, ...]:
        """The parameters without annotation that a live run gave no tensor, module or None."""
        a = self.node.args
        bare = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs) if arg.annotation is None]
        return tuple(name for name in bare if self.given.get(name, "NoneType") != "NoneType")

    @functools.cached_property
    def optional(self) -> tuple[str, ...]:
        """The parameters whose default is None."""
        a = self.node.args
        positional = [*a.posonlyargs, *a.args]
        pairs = [*zip(positional[len(positional) - len(a.defaults) :], a.defaults, strict=True)]
        pairs += [(arg, value) for arg, value in zip(a.kwonlyargs, a.kw_defaults, strict=True) if value is not None]
        return tuple(arg.arg for arg, value in pairs if isinstance(value, ast.Constant) and value.value is None)

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The constants that parameters have as defaults, None left out."""
        a = self.node.args
        positional = [*a.posonlyargs, *a.args]
        pairs = [*zip(positional[len(positional) - len(a.defaults) :], a.defaults, strict=True)]
        pairs += [(arg, value) for arg, value in zip(a.kwonlyargs, a.kw_defaults, strict=True) if value is not None]
        constants = {arg.arg: value.value for arg, value in pairs if isinstance(value, ast.Constant)}
        return {name: value for name, value in constants.items() if value is not None}

    @functools.cached_property
    def locals(self) -> dict[str, list[ast.AST]]:
        """What binds each local name: an expression where it is assigned alone, else the binding statement."""
        bound: dict[str, list[ast.AST]] = {}
        free: set[str] = set()
        alone: set[ast.AST] = set()
        for node in body_nodes(self.node):
            if isinstance(node, (ast.Global, ast.Nonlocal)):
                free.update(node.names)
            elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                bound.setdefault(node.targets[0].id, []).append(node.value)
                alone.add(node.targets[0])
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    bound.setdefault((alias.asname or alias.name).split(".")[0], []).append(node)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                bound.setdefault(node.name, []).append(node)
        for node in body_nodes(self.node):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and node not in alone:
                bound.setdefault(node.id, []).append(node)
        return {name: nodes for name, nodes in bound.items() if name not in free}


def body_nodes(function: FunctionNode) -> Iterator[ast.AST]:
    """Every node that runs as part of a function's body, in source order; not the bodies of functions defined in it."""
    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    stack: list[ast.AST] = list(reversed(body))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def resolve(node: ast.expr, function: Function, depth: int = 0) -> Any:
    """The object that an expression stands for inside a function, or UNKNOWN. Another `Function` where it names one
    that is defined in the body."""
    if depth > 20:  # a local name bound to itself
        return UNKNOWN
    if isinstance(node, ast.Name):
        return _name(node.id, function, depth)
    if isinstance(node, ast.Attribute):
        if _is_super(node.value, function):
            return _super_attribute(node.attr, function)
        return attribute(resolve(node.value, function, depth + 1), node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return _item(resolve(node.value, function, depth + 1), node.slice.value)
    return UNKNOWN


def _name(name: str, function: Function, depth: int) -> Any:
    if name in function.parameters:
        is_first = name == next((a.arg for a in (*function.node.args.posonlyargs, *function.node.args.args)), None)
        return function.receiver if is_first and name not in function.locals else UNKNOWN
    if name in function.locals:
        bindings = function.locals[name]
        return _local(bindings[0], name, function, depth) if len(bindings) == 1 else UNKNOWN
    if name in function.free:
        return function.free[name]
    if function.parent is not None:
        return _name(name, function.parent, depth + 1)
    if name in function.globals:
        return function.globals[name]
    builtins = function.globals.get("__builtins__", {})
    return (builtins if isinstance(builtins, dict) else vars(builtins)).get(name, UNKNOWN)


def _local(binding: ast.AST, name: str, function: Function, depth: int) -> Any:
    if isinstance(binding, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return Function(binding, function.file, function.file.names[binding], function.globals, parent=function)
    if isinstance(binding, ast.Import):
        return _imported(binding, name)
    if isinstance(binding, ast.ImportFrom):
        package = str(function.globals.get("__package__") or "")
        base = package.rsplit(".", binding.level - 1)[0] if binding.level else ""
        module = sys.modules.get(".".join(part for part in (base, binding.module) if part))
        original = next(alias.name for alias in binding.names if (alias.asname or alias.name) == name)
        return attribute(module, original) if module is not None else UNKNOWN
    if isinstance(binding, (ast.Name, ast.Attribute)) and isinstance(getattr(binding, "ctx", None), ast.Load):
        return resolve(binding, function, depth + 1)
    return UNKNOWN


def _imported(binding: ast.Import, name: str) -> Any:
    for alias in binding.names:
        if alias.asname == name:
            return sys.modules.get(alias.name, UNKNOWN)
        if alias.asname is None and alias.name.split(".")[0] == name:
            return sys.modules.get(name, UNKNOWN)
    return UNKNOWN


def _is_super(node: ast.expr, function: Function) -> bool:
    return isinstance(node, ast.Call) and not node.args and resolve(node.func, function) is super


def _super_attribute(name: str, function: Function) -> Any:
    receiver, owner = function.receiver, function.free.get("__class__")
    if receiver is UNKNOWN or not isinstance(owner, type) or owner not in type(receiver).__mro__:
        return UNKNOWN
    mro = type(receiver).__mro__
    for base in mro[mro.index(owner) + 1 :]:
        if name in vars(base):
            return _bound(vars(base)[name], receiver)
    return UNKNOWN


def _item(container: Any, key: Any) -> Any:
    if isinstance(container, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)):
        container = list(container._modules.values()) if isinstance(key, int) else dict(container._modules)
    if type(container) not in (list, tuple, dict):
        return UNKNOWN
    try:
        return container[key]
    except (LookupError, TypeError):
        return UNKNOWN


def attribute(owner: Any, name: str) -> Any:
    """`owner.name` without running a property, a descriptor or `__getattr__`: a `Property` stands for the first."""
    if owner is UNKNOWN or isinstance(owner, (Function, Property)):
        return UNKNOWN
    if isinstance(owner, types.ModuleType):
        found = vars(owner).get(name, UNKNOWN)
        return sys.modules.get(f"{owner.__name__}.{name}", UNKNOWN) if found is UNKNOWN else found
    if isinstance(owner, torch.nn.Module):
        for store in (vars(owner), *(vars(owner).get(kind, {}) for kind in ("_modules", "_parameters", "_buffers"))):
            if name in store:
                return store[name]
    found = inspect.getattr_static(owner, name, UNKNOWN)
    if isinstance(owner, type) and not isinstance(found, (staticmethod, classmethod)):
        return found
    return _bound(found, owner)


def _bound(found: Any, owner: Any) -> Any:
    if isinstance(found, staticmethod):
        return found.__func__
    if isinstance(found, classmethod):
        return types.MethodType(found.__func__, owner if isinstance(owner, type) else type(owner))
    if isinstance(found, property):
        return Property(found.fget, owner) if isinstance(found.fget, types.FunctionType) else UNKNOWN
    if isinstance(found, types.FunctionType) and not isinstance(owner, type) and found.__name__ not in vars_of(owner):
        return types.MethodType(found, owner)
    return found


def vars_of(owner: Any) -> Mapping[str, Any]:
    """An object's own attributes; none where it has no `__dict__`."""
    try:
        return object.__getattribute__(owner, "__dict__")  # type: ignore[no-any-return]
    except (AttributeError, TypeError):
        return {}


_BOUND = (types.MethodType, types.BuiltinFunctionType, type([].__len__))


def bound_to(target: Any) -> Any:
    """What a method is bound to; None for anything else, whose attributes are its class's own business."""
    return target.__self__ if isinstance(target, _BOUND) else None


def python_functions(target: Any) -> list[tuple[types.FunctionType, Any]]:
    """The Python functions that calling a resolved object runs, each with its receiver: through partials, methods,
    callable objects, autograd functions and what `functools.wraps` wrapped."""
    receiver = UNKNOWN
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, Property):
        target, receiver = target.function, target.owner
    if isinstance(target, types.MethodType):
        target, receiver = target.__func__, target.__self__
    owner = bound_to(target)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        target, receiver = attribute(owner, "forward"), UNKNOWN
    if isinstance(target, type):
        target = vars(target).get("__init__")
    elif not isinstance(target, (types.FunctionType, torch.nn.Module)) and target is not UNKNOWN:
        call = inspect.getattr_static(type(target), "__call__", None)
        if isinstance(call, types.FunctionType):
            target, receiver = call, target
    found = []
    while isinstance(target, types.FunctionType):
        found.append((target, receiver))
        target = getattr(target, "__wrapped__", None)
    return found


def root_of(target: Any) -> str:
    """The root module that an object comes from ("numpy", "math", "torch"); "" where it cannot be told."""
    if isinstance(target, functools.partial):
        return root_of(target.func)
    if isinstance(target, types.ModuleType):
        return target.__name__.split(".")[0]
    if isinstance(target, types.MethodType):
        return root_of(target.__func__)
    module = getattr(target, "__module__", None)
    if not isinstance(module, str):
        owner = bound_to(target)
        if isinstance(owner, types.ModuleType):  # a function of a compiled module
            return root_of(owner)
        holder = getattr(target, "__objclass__", None) or type(target if owner is None else owner)
        module = _provider(target) or getattr(holder, "__module__", "")
    top = str(module).split(".")[0]
    return top.lstrip("_") if top.lstrip("_") in sys.stdlib_module_names else top  # _bisect is bisect's


def _provider(target: Any) -> str | None:
    """The array library that provides an object which does not tell its module, as NumPy's ufuncs do not."""
    name = getattr(target, "__name__", None)
    if not isinstance(name, str) or getattr(target, "__self__", None) is not None or hasattr(target, "__objclass__"):
        return None
    known = sorted(module for module in sys.modules if module.split(".")[0] in ARRAY_LIBRARIES)
    known.sort(key=lambda module: (not module.startswith("numpy"), module.count(".")))
    return next((m for m in known if vars(sys.modules[m]).get(name) is target), None)


def dotted(target: Any) -> str:
    """An object's name as a user would write it: "numpy.sort", "scipy.ndimage.sobel", "random.random"."""
    if isinstance(target, functools.partial):
        return dotted(target.func)
    name = getattr(target, "__qualname__", None) or getattr(target, "__name__", None) or type(target).__qualname__
    plain, root = name.rpartition(".")[2], root_of(target)
    for module in (root, f"{root}.random"):  # functions of a module that are methods of an object hidden in it
        if module in sys.modules and vars(sys.modules[module]).get(plain, UNKNOWN) == target:
            return f"{module}.{plain}"
    holder = getattr(target, "__objclass__", None) or type(getattr(target, "__self__", None))
    home: str | None = getattr(target, "__module__", None) or _provider(target) or getattr(holder, "__module__", None)
    public = ".".join(part for part in (home or "").split(".") if not part.startswith("_"))
    return f"{public}.{name}" if public and public != "builtins" else str(name)
