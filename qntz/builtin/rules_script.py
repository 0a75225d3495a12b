"""The rules of scripting: it compiles the source, with static types, without globals, and only a part of Python.

What torch.jit.script itself refuses is an error where the model is to be captured by script, and a note elsewhere. It
stops at its first error, so the source is read for what it would refuse next.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from qntz.builtin._weigh import SOURCE
from qntz.hookspecs import hookimpl
from qntz.records import Finding, Rule, Severity

if TYPE_CHECKING:
    from qntz.check import Subject
    from qntz.check.resolve import Function

ROUTES = ("script",)
_KNOWN = ("builtins", "math", "cmath", "typing", "warnings", "abc")
COMPILER = "torch.jit.script"


@hookimpl
def qntz_rules() -> Iterable[Rule]:
    yield Rule(
        code="QZ013",
        slug="global-variable",
        severity="error",
        what="The source reads a global or closed-over Python value.",
        why="Beyond a function's own names TorchScript knows functions, modules and constants of torch, no values.",
        fix="Make it an attribute, a buffer or an argument, or write the number where it is used.",
        routes=ROUTES,
        link="",
        find=functools.partial(_rule, "global-variable", _globals),
    )
    yield Rule(
        code="QZ014",
        slug="missing-type-hint",
        severity="error",
        what="A value that is no tensor has no type annotation.",
        why="TorchScript takes every parameter without an annotation, and every empty list, for tensors.",
        fix="Annotate it: `n: int`, `sizes: List[int]`, `mask: Optional[Tensor]`.",
        routes=ROUTES,
        link="",
        find=functools.partial(_rule, "missing-type-hint", _unannotated),
    )
    yield Rule(
        code="QZ015",
        slug="dynamic-type",
        severity="error",
        what="A name or a result has several types.",
        why="TorchScript gives every name, every element of a list and every result one static type.",
        fix="Use one name a type, return the same types from every branch, refine an Optional before its use.",
        routes=ROUTES,
        link="",
        find=functools.partial(_rule, "dynamic-type", _changing),
    )
    yield Rule(
        code="QZ016",
        slug="unscriptable-helper",
        severity="error",
        what="A function is called that TorchScript cannot compile.",
        why="All that is called is compiled too: no partials, decorated functions, plain objects, open arguments.",
        fix="Write it as a plain function with fixed, annotated arguments, or as a method of an nn.Module.",
        routes=ROUTES,
        link="",
        find=functools.partial(_rule, "unscriptable-helper", _helpers),
    )
    yield Rule(
        code="QZ017",
        slug="unsupported-python",
        severity="error",
        what="The source uses Python that TorchScript does not know.",
        why="TorchScript compiles a part of Python: no try, lambda, generators, sets, nested functions and more.",
        fix="Write it with plain statements, or capture by trace.",
        routes=ROUTES,
        link="",
        find=functools.partial(_rule, "unsupported-python", _unsupported),
    )
    yield Rule(
        code="QZ018",
        slug="script-differs",
        severity="error",
        what="The scripted model is another model.",
        why="TorchScript compiles some of Python otherwise than Python runs it: it drops decorators, for instance.",
        fix="Compare the two on the input that is named, or capture by trace.",
        routes=ROUTES,
        link="",
        find=lambda subject: (),  # made by check_model, which knows whether another finding tells why
    )


def _rule(
    slug: str, read: Callable[[Subject, Function], Iterable[tuple[Any, str]]], subject: Subject
) -> Iterator[Finding]:
    """What the compiler refuses, and what the source shows beside it, for the functions that it would compile."""
    from qntz.check.places import owner_of

    known: set[tuple[str, int]] = set()
    for refusal in subject.observations.refusals:
        if refusal.slug == slug:
            known.add((refusal.place.path, refusal.place.line))
            severity: Severity = "error" if subject.route == "script" and refusal.whole else "note"
            yield subject.finding(slug, severity, refusal.place, f"{refusal.why}", COMPILER, refusal.chain)
    for function in subject.index.functions.values():
        own = owner_of(function.file.filename) == "user"
        if not (own or subject.route == "script") or _is_left_out(function):
            continue
        for node, message in read(subject, function):
            place = function.file.place_of(node, function.name)
            if (place.path, place.line) not in known:
                known.add((place.path, place.line))
                yield subject.finding(slug, "note", place, message, SOURCE, function.chain)


def _is_left_out(function: Function) -> bool:
    """Whether TorchScript is told not to compile it (`torch.jit.ignore`, `unused`), or never meets its source."""
    owner = function.receiver
    live = getattr(type(owner), function.node.name, None) if not isinstance(function.node, ast.Lambda) else None
    live = live or function.globals.get(function.name)
    return hasattr(live, "_torchscript_modifier") or isinstance(function.node, ast.Lambda)


def _globals(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    from qntz.check.resolve import UNKNOWN, body_nodes

    for node in body_nodes(function.node):
        if isinstance(node, ast.Global):
            yield node, f"`global {', '.join(node.names)}` is no TorchScript"
    for node, value in subject.index.reads(function):
        if value is UNKNOWN or not _is_value(value):
            continue
        if isinstance(node, ast.Name) and _is_outside(node.id, function):
            where = "closed-over" if node.id in function.free else "global"
            yield node, f"the {where} {type(value).__name__} {node.id} is read"
        elif _is_of_module(node, value, function):
            yield node, f"the global {type(value).__name__} {ast.unparse(node)} is read"


def _is_of_module(node: ast.expr, value: Any, function: Function) -> bool:
    """Whether a value is read off a module; numbers and texts there are constants for TorchScript."""
    from qntz.check.resolve import resolve

    if not isinstance(node, ast.Attribute) or isinstance(value, (bool, int, float, complex, str)):
        return False
    return isinstance(resolve(node.value, function), types.ModuleType)


def _is_outside(name: str, function: Function) -> bool:
    return name not in function.locals and name not in function.parameters


def _is_value(value: Any) -> bool:
    """Whether Python has a value there which TorchScript has not: no function, class, module or constant of torch."""
    import enum

    import torch

    known = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.nn.Module, enum.Enum)
    if value is None or value is Ellipsis or callable(value) or isinstance(value, (types.ModuleType, *known)):
        return False
    home = type(value).__module__.split(".")[0]
    return home not in ("typing", "torch") or isinstance(value, torch.Tensor)


def _unannotated(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    from qntz.check.kinds import Kinds

    a = function.node.args
    for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs):
        if argument.annotation is not None or _has_type_comment(function):
            continue
        if argument.arg in function.untyped:
            yield (
                argument,
                f"parameter {argument.arg!r} is given a {function.given[argument.arg]} and has no annotation",
            )
        elif argument.arg in function.optional:
            yield argument, f"parameter {argument.arg!r} may be None and has no annotation"
    yield from Kinds(subject.index, function).empty


def _has_type_comment(function: Function) -> bool:
    first = function.node.lineno
    return any("# type:" in line for line in function.file.lines[first - 1 : first + 12])


def _changing(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    """Some of these compile, to a union that later operators take otherwise."""
    from qntz.check.kinds import Kinds

    yield from Kinds(subject.index, function).changes


def _helpers(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    if not isinstance(function.node, ast.Lambda):
        for decorator in function.node.decorator_list:
            if function.name.endswith(".forward") and not _is_known_decorator(decorator, function):
                yield decorator, "TorchScript compiles the function below its decorator, and leaves that out"
    for call in subject.index.calls(function):
        if why := _why_not(subject, call.target):
            yield call.node, why


def _is_known_decorator(node: ast.expr, function: Function) -> bool:
    from qntz.check.resolve import resolve, root_of

    named = node.func if isinstance(node, ast.Call) else node
    target = resolve(named, function)
    return target in (staticmethod, classmethod, property) or root_of(target) in ("torch", "typing")


def _why_not(subject: Subject, target: Any) -> str:
    """Why TorchScript cannot compile what is called; "" where nothing speaks against it."""
    import torch

    from qntz.check.flow import FOREIGN
    from qntz.check.resolve import UNKNOWN, bound_to, dotted, root_of
    from qntz.check.resolve import Function as Reached

    if target is UNKNOWN or isinstance(target, Reached):
        return ""
    root = root_of(target)
    if root in FOREIGN - {"math", "cmath"} or (root in sys.stdlib_module_names and root not in _KNOWN):
        return f"{dotted(target)} is no function that TorchScript knows"
    if isinstance(target, type) and target.__module__.startswith("torch.distributions"):
        return f"{dotted(target)} is a class that TorchScript does not know"
    if isinstance(target, functools.partial):
        return "a functools.partial is called, which TorchScript cannot compile"
    if isinstance(target, functools._lru_cache_wrapper):
        return f"{dotted(target)} is cached by functools, which TorchScript cannot compile"
    called = inspect.getattr_static(type(target), "__call__", None)
    if isinstance(called, types.FunctionType) and not isinstance(target, (torch.nn.Module, types.FunctionType, type)):
        return f"{type(target).__qualname__} is a plain Python object, which TorchScript does not know"
    owner = bound_to(target)
    plain = target.__func__ if isinstance(target, types.MethodType) else target
    if not isinstance(plain, types.FunctionType):
        return ""
    if subject.index.sources.file(plain.__code__.co_filename, str(plain.__module__)) is None:
        return f"{plain.__name__} has no source that TorchScript could compile"
    if not subject.index.targets(target):
        return _of_torch(plain) if root == "torch" else ""
    if hasattr(plain, "_torchscript_modifier"):
        return ""
    if plain.__name__ == "<lambda>":
        return "a lambda is called, which TorchScript cannot compile"
    if hasattr(plain, "__wrapped__") or plain.__code__.co_freevars not in ((), ("__class__",)):
        return f"{plain.__name__} is decorated or a closure: TorchScript leaves the decorator out, or refuses it"
    if isinstance(owner, type) and not issubclass(owner, torch.autograd.Function):
        return f"{plain.__qualname__} is a classmethod, which TorchScript does not know"
    if isinstance(target, types.MethodType) and not isinstance(owner, (torch.nn.Module, type)):
        return f"{plain.__qualname__} belongs to a plain Python object, which TorchScript does not know"
    if inspect.isgeneratorfunction(plain):
        return f"{plain.__name__} is a generator, which TorchScript cannot compile"
    if plain.__code__.co_flags & 0x0C:
        return f"{plain.__name__} takes *args or **kwargs, which TorchScript cannot compile"
    return ""


def _of_torch(function: types.FunctionType) -> str:
    """Why a function of torch that is written in Python does not compile; "" where it does, or may."""
    import torch
    from torch.jit._builtins import _find_builtin

    known = _find_builtin(function) is not None or function in torch._jit_internal.boolean_dispatched
    if known or hasattr(function, "_torchscript_modifier") or not function.__code__.co_flags & 0x0C:
        return ""
    return f"{function.__module__}.{function.__name__} takes *args or **kwargs, which TorchScript cannot compile"


def _unsupported(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    from qntz.check.scripted import unsupported

    for node, kind in unsupported(function):
        if kind not in ("Global", "Import", "ImportFrom", "FormattedValue", "Slice"):  # those it takes otherwise
            yield node, f"{kind} is Python that TorchScript does not know"
