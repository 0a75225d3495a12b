"""A capture that scripts what a trace would freeze and traces the rest.

What has to be scripted is where values or sizes leak out of torch, as the runs of the rule check show it: the
submodules whose own methods leak, and the functions of a module that do. The others are traced, with the scripted
ones called from the trace. Where the model's own forward leaks, that is scripted, with the submodules traced that
TorchScript refuses. The model is copied, and its source is not touched.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from qntz.check.index import SourceIndex, own_packages
from qntz.check.observe import Observer
from qntz.check.resolve import Function
from qntz.check.source import Sources
from qntz.check.subject import Leak
from qntz.errors import CaptureError
from qntz.model import compiled, traceable
from qntz.torchscript.source import NUMBERS, one_of_a_kind, retold, with_class_attributes

NO_LEAK = "no value and no size leaves torch in the model's own code"


@dataclass(frozen=True)
class Evidence:
    """Where values and sizes leave torch. leaks: those that a trace freezes and that differ between the inputs.
    functions: the reached functions that can be told to TorchScript, with the live ones. namespaces: the globals of all
    that were reached. numbers: what `item` and `tolist` gave, by the file, line and column of the call."""

    leaks: tuple[Leak, ...]
    functions: tuple[tuple[Function, types.FunctionType], ...]
    namespaces: tuple[dict[str, Any], ...]
    numbers: Mapping[tuple[str, int, int], Any]


def evidence_of(module: torch.nn.Module, inputs: Sequence[Mapping[str, torch.Tensor]]) -> Evidence:
    """Runs the model as the rule check does; raises ModelError where it does not run."""
    observer = Observer(module, inputs, SourceIndex(module, Sources(None), own_packages(module)))
    observations = observer.observe()
    if observations.failure is not None:
        raise observations.failure
    reached = list(observer.index.functions.values())
    known = tuple((function, live) for function in reached if (live := _live(function)) is not None)
    namespaces = {id(function.globals): function.globals for function in reached}
    numbers: dict[tuple[str, int, int], Any] = {}
    for (kind, code, position), runs in observer.log.values.items():
        told = [value for values in runs.values() for value in values]
        if kind in NUMBERS and isinstance(position, tuple) and (alike := one_of_a_kind(told)) is not None:
            line, column = position[:2]
            numbers[code.co_filename, line, column] = alike
    varied = tuple(leak for leak in observations.leaks if leak.varied)
    return Evidence(varied, known, tuple(namespaces.values()), numbers)


def mixed(
    module: torch.nn.Module,
    arguments: Sequence[torch.Tensor],
    evidence: Evidence,
    plain: Callable[[torch.nn.Module], torch.nn.Module],
) -> tuple[torch.jit.ScriptModule, str]:
    """The capture, and in words what of it is scripted. plain: gives a module that is traced plain outputs.

    Raises:
        CaptureError: nothing leaks, so that it would be a trace. What torch raises where it refuses a part.
    """
    if not evidence.leaks:
        raise CaptureError("nothing is to be scripted", why=NO_LEAK)
    module = copy.deepcopy(module)
    leaking = {leak.key[1] for leak in evidence.leaks}
    helpers = [live for function, live in evidence.functions if "." not in function.name and live.__code__ in leaking]
    codes = {live.__code__ for live in helpers}
    paths = sorted({leak.module for leak in evidence.leaks if leak.key[1] not in codes}, key=lambda p: -p.count("."))
    inputs = _recorded(module, arguments)
    told = [*(path or "the model's own forward" for path in paths), *(live.__qualname__ for live in helpers)]
    given = {live.__code__: function.given for function, live in evidence.functions}
    for part in module.modules():
        with_class_attributes(part)
    with retold(given, evidence.numbers), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            part = _scripted(module, path, paths, inputs)
            if not path:
                return part, f"scripted: {', '.join(told)}"
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, part)
        with _replaced({live: compiled(live) for live in helpers}), torch.no_grad(), traceable():
            traced = torch.jit.trace(plain(module), tuple(arguments), check_trace=False)
    return traced, f"scripted: {', '.join(told)}; the rest is traced"


def _scripted(
    module: torch.nn.Module, path: str, leaking: Sequence[str], inputs: Mapping[str, tuple[Any, ...]]
) -> torch.jit.ScriptModule:
    """A submodule as TorchScript compiles it, with the children that it refuses, and that leak nothing, as traces."""
    part = module.get_submodule(path)
    try:
        return compiled(part)
    except Exception:  # torch raises RuntimeError, OSError, TypeError and kinds of its own
        children = {name: f"{path}.{name}" if path else name for name, _ in part.named_children()}
        traced = {name: at for name, at in children.items() if _can_be_traced(part, name, at, leaking, inputs)}
        if not traced:
            raise
    for name, at in traced.items():
        with torch.no_grad(), traceable():
            child = torch.jit.trace(getattr(part, name), inputs[at], check_trace=False)
        setattr(part, name, child)
    return compiled(part)


def _can_be_traced(
    part: torch.nn.Module, name: str, path: str, leaking: Sequence[str], inputs: Mapping[str, tuple[Any, ...]]
) -> bool:
    """Whether a child has to be, and can be: TorchScript refuses it, and nothing leaks in it."""
    child = getattr(part, name)
    leaks = any(one == path or one.startswith(f"{path}.") for one in leaking)
    if isinstance(child, torch.jit.ScriptModule) or leaks or path not in inputs:
        return False
    try:
        compiled(child)
    except Exception:  # as above
        return True
    return False


def _recorded(module: torch.nn.Module, arguments: Sequence[torch.Tensor]) -> dict[str, tuple[Any, ...]]:
    """The positional arguments of the first call of each submodule, of those that are called with tensors alone."""
    calls: dict[str, tuple[Any, ...]] = {}
    handles = []

    def recorder(path: str) -> Any:
        def record(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            if path not in calls and not kwargs and all(isinstance(arg, torch.Tensor) for arg in args):
                calls[path] = pytree.tree_map(lambda tensor: tensor.detach().clone(), args)

        return record

    try:
        for path, part in module.named_modules():
            if path and not isinstance(part, torch.jit.ScriptModule):
                handles.append(part.register_forward_pre_hook(recorder(path), with_kwargs=True))
        with torch.no_grad():
            module(*(tensor.clone() for tensor in arguments))
    finally:
        for handle in handles:
            handle.remove()
    return calls


@contextlib.contextmanager
def _replaced(functions: Mapping[types.FunctionType, Any]) -> Iterator[None]:
    """Lets every module's global that is one of the functions be what replaces it."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        modules = [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
        for namespace in map(vars, modules if functions else ()):
            for name, value in list(namespace.items()):
                if isinstance(value, types.FunctionType) and value in functions:
                    kept.append((namespace, name, value))
                    namespace[name] = functions[value]
        yield
    finally:
        for namespace, name, value in kept:
            namespace[name] = value


def _live(function: Function) -> types.FunctionType | None:
    """The live function of a method or of a module's global; None for a lambda, closure or anything else."""
    name = function.name.rpartition(".")[2]
    owner = type(function.receiver) if "." in function.name else None
    found = inspect.getattr_static(owner, name, None) if owner is not None else function.globals.get(name)
    found = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    if isinstance(found, types.FunctionType) and found.__code__.co_filename == function.file.filename:
        return found if function.file.function(found.__code__) is function.node else None
    return None
