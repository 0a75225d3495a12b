"""The rules of scripting: it compiles the source, with static types, without globals, and only a part of Python.

What torch.jit.script itself refuses is an error where the model is to be captured by script, and a note elsewhere. It
stops at its first error, so the source is read for what it would refuse next.
"""

from __future__ import annotations

import ast
import functools
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
        find=functools.partial(_rule, "dynamic-type", lambda subject, function: ()),
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
        known.add((refusal.place.path, refusal.place.line))
        if refusal.slug == slug:
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
        if isinstance(node, ast.Name) and value is not UNKNOWN and _is_outside(node.id, function) and _is_value(value):
            where = "closed-over" if node.id in function.free else "global"
            yield node, f"the {where} {type(value).__name__} {node.id} is read"


def _is_outside(name: str, function: Function) -> bool:
    return name not in function.locals and name not in function.parameters


def _is_value(value: Any) -> bool:
    """Whether Python has a value there which TorchScript has not: no function, class, module or constant of torch."""
    import enum

    import torch

    code = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
    known = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.nn.Module, enum.Enum)
    plain = (bool, int, float, complex, str, list, tuple, dict, set, torch.Tensor)
    return isinstance(value, plain) and not isinstance(value, (*code, *known))


def _unannotated(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    arguments = function.node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        given = function.given.get(argument.arg)
        if argument.annotation is None and given is not None and not _has_type_comment(function):
            yield argument, f"parameter {argument.arg!r} is given a {given} and has no annotation"


def _has_type_comment(function: Function) -> bool:
    first = function.node.lineno
    return any("# type:" in line for line in function.file.lines[first - 1 : first + 12])


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

    from qntz.check.resolve import UNKNOWN, dotted
    from qntz.check.resolve import Function as Reached

    if target is UNKNOWN or isinstance(target, Reached):
        return ""
    if isinstance(target, functools.partial):
        return "a functools.partial is called, which TorchScript cannot compile"
    if hasattr(target, "cache_info"):
        return f"{dotted(target)} is cached by functools, which TorchScript cannot compile"
    owner = getattr(target, "__self__", None)
    plain = getattr(target, "__func__", target)
    if not isinstance(plain, types.FunctionType) or not subject.index.targets(target):
        return ""
    if hasattr(plain, "_torchscript_modifier"):
        return ""
    if plain.__name__ == "<lambda>":
        return "a lambda is called, which TorchScript cannot compile"
    if hasattr(plain, "__wrapped__") or plain.__code__.co_freevars not in ((), ("__class__",)):
        return f"{plain.__name__} is decorated or a closure: TorchScript leaves the decorator out, or refuses it"
    if isinstance(target, types.MethodType) and not isinstance(owner, (torch.nn.Module, type)):
        return f"{plain.__qualname__} belongs to a plain Python object, which TorchScript does not know"
    if plain.__code__.co_flags & 0x0C:
        return f"{plain.__name__} takes *args or **kwargs, which TorchScript cannot compile"
    return ""


def _unsupported(subject: Subject, function: Function) -> Iterator[tuple[Any, str]]:
    from qntz.check.scripted import unsupported

    for node, kind in unsupported(function):
        if kind not in ("Global", "Import", "ImportFrom", "FormattedValue"):
            yield node, f"{kind} is Python that TorchScript does not know"
