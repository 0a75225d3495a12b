"""What outlives a run: random generators, buffers, and the state that Python holds beside them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import sys
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qntz.check.index import SourceIndex, forward_of
from qntz.check.places import owner_of

LARGEST = 1 << 20  # elements of a tensor that is compared by its values; larger ones by identity and version
_CONTAINERS = (list, dict, set, deque)
DEPTH = 4  # of containers within containers
_OF_TORCH = frozenset(vars(torch.nn.Module()))  # what every module has; its parameters and buffers are looked at apart


@dataclass(frozen=True)
class Holding:
    """A name that outlives a run. what: "attribute", "buffer", "class", "global", "closure" or "default" (of a
    parameter). owner: the module, class, namespace, cell or function that holds it. label: the owner as a user would
    write it."""

    what: str
    owner: Any
    label: str
    name: str

    @property
    def shown(self) -> str:
        return f"{self.label}.{self.name}" if self.label else self.name

    @property
    def is_member(self) -> bool:
        """Whether it is the model's own, by its path."""
        return self.what in ("attribute", "buffer")

    def __hash__(self) -> int:
        return hash((self.what, id(self.owner), self.name))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Holding) and (self.what, self.name) == (other.what, other.name)
        return same and isinstance(other, Holding) and self.owner is other.owner

    def read(self) -> Any:
        """The value; raises LookupError or ValueError where it is gone."""
        if self.what == "global":
            return self.owner[self.name]
        if self.what == "closure":
            return self.owner.cell_contents
        if self.what == "default":
            return _defaults(self.owner)[self.name]
        return (self.owner._buffers if self.what == "buffer" else vars(self.owner))[self.name]

    def write(self, value: Any) -> None:
        if self.what == "global":
            self.owner[self.name] = value
        elif self.what == "closure":
            self.owner.cell_contents = value
        elif self.what == "default":
            return  # the object itself stays; what it holds is put back
        elif self.what == "class":
            setattr(self.owner, self.name, value)
        else:
            (self.owner._buffers if self.what == "buffer" else vars(self.owner))[self.name] = value

    def delete(self) -> None:
        if self.what == "class":
            delattr(self.owner, self.name)
        elif self.what not in ("closure", "default"):
            del (self.owner if self.what == "global" else vars(self.owner))[self.name]


class State:
    """The state that a model's own code can reach: attributes and buffers of its modules, attributes of their classes,
    globals of their files and variables of their closures. Taken when it is made, and put back by `restore`."""

    def __init__(self, module: torch.nn.Module, index: SourceIndex) -> None:
        self._module, self._index = module, index
        self._kept = {holding: _Kept(holding.read()) for holding in self._holdings()}
        self._print = self._prints()

    def changed(self) -> list[Holding]:
        """What is another than when the state was taken, or new, or gone."""
        now = self._prints()
        others = [holding for holding, value in now.items() if self._print.get(holding) != value]
        return [*others, *(holding for holding in self._print if holding not in now)]

    def restore(self) -> None:
        """Puts everything back; what was not there is gone again."""
        for holding in self._holdings():
            if holding not in self._kept:
                holding.delete()
        for holding, kept in self._kept.items():
            kept.restore(holding)

    def value(self, holding: Holding) -> Any:
        """What it held when the state was taken; None where it was not there."""
        return self._kept[holding].value if holding in self._kept else None

    def _prints(self) -> dict[Holding, Any]:
        return {holding: _print(holding.read()) for holding in self._holdings()}

    def _holdings(self) -> list[Holding]:
        found: dict[Holding, None] = {}
        kinds: dict[type, None] = {}
        functions: list[types.FunctionType] = []
        for path, part in self._module.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue
            for name in vars(part):
                if name not in _OF_TORCH:
                    found[Holding("attribute", part, path, name)] = None
                    functions += _functions_in(vars(part)[name])
            for name in part._buffers:
                found[Holding("buffer", part, path, name)] = None
            kinds.update(dict.fromkeys(k for k in type(part).__mro__ if self._is_own(k.__module__, _method_of(k))))
            functions += [function for function, _ in forward_of(part)]
        for kind in kinds:
            for name, value in vars(kind).items():
                if not name.startswith("__") and _is_data(value):
                    found[Holding("class", kind, kind.__qualname__, name)] = None
                elif isinstance(value, types.FunctionType):
                    functions.append(value)
        self._add_reached(functions, found)
        return list(found)

    def _add_reached(self, functions: list[types.FunctionType], found: dict[Holding, None]) -> None:
        """The globals and closures of the functions, and of the own functions that those name."""
        seen: set[int] = set()
        pending = list(functions)
        while pending:
            function = pending.pop()
            if id(function.__code__) in seen or not self._is_own(str(function.__module__), function):
                continue
            seen.add(id(function.__code__))
            namespace = function.__globals__
            for name in _names(function.__code__):
                value = namespace.get(name)
                if _is_data(value) and name in namespace:
                    found[Holding("global", namespace, "", name)] = None
                pending += _functions_in(value)
                if isinstance(value, types.ModuleType):
                    members = (vars(value).get(member) for member in _names(function.__code__))
                    pending += [one for member in members for one in _functions_in(member)]
            for name, value in _defaults(function).items():
                if isinstance(value, (list, dict, set, deque, torch.Tensor)) or _is_plain_object(value):
                    found[Holding("default", function, "", name)] = None
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                with contextlib.suppress(ValueError):  # an empty cell
                    value = cell.cell_contents
                    if _is_data(value):
                        found[Holding("closure", cell, "", name)] = None
                    pending += _functions_in(value)

    def _is_own(self, module_name: str, function: types.FunctionType | None) -> bool:
        return function is not None and self._index.is_own(function.__code__.co_filename, module_name)


class _Kept:
    """A value, and what is needed to put it back: the items of a container, a copy of a tensor. Of containers only
    Python's own types: what others do when they are emptied and filled is theirs."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.copy: Any = None
        if type(value) in _CONTAINERS:
            self.copy = value.copy()
        elif _is_plain_object(value):
            self.copy = dict(vars(value))
        elif isinstance(value, torch.Tensor) and value.numel() <= LARGEST and value.device.type != "meta":
            self.copy = value.detach().clone(), value._version if not value.is_inference() else -1

    def restore(self, holding: Holding) -> None:
        value = self.value
        if not self._is_held(holding):
            holding.write(value)
        if self.copy is None:
            return
        if isinstance(value, torch.Tensor):
            if not value.is_inference() and value._version != self.copy[1]:
                with torch.no_grad():
                    value.copy_(self.copy[0])
        elif type(value) in (list, deque):
            if len(value) != len(self.copy) or any(a is not b for a, b in zip(value, self.copy, strict=False)):
                value.clear()
                value.extend(self.copy)
        elif type(value) is set:
            if value != self.copy:
                value.clear()
                value.update(self.copy)
        else:
            held = value if type(value) is dict else vars(value)
            if list(held) != list(self.copy) or any(held[key] is not self.copy[key] for key in held):
                held.clear()
                held.update(self.copy)

    def _is_held(self, holding: Holding) -> bool:
        try:
            return holding.read() is self.value
        except (LookupError, ValueError):
            return False


def _print(value: Any, depth: int = 0) -> Any:
    """Something that is equal for equal values, and no longer when a run has changed them."""
    if isinstance(value, torch.Tensor):
        if value.numel() > LARGEST or value.device.type == "meta" or value.is_sparse or value.is_quantized:
            return id(value)
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8) if value.numel() else value
        digest = hashlib.sha1(bytes(memoryview(data.numpy()))).hexdigest() if value.numel() else ""
        return str(value.dtype), tuple(value.shape), digest
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, hashlib.sha1(value.tobytes()).hexdigest()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return type(value), repr(value)
    if depth < DEPTH:
        if type(value) is dict:
            return type(value), [(repr(k), _print(v, depth + 1)) for k, v in value.items()]
        if type(value) in (list, tuple, deque):
            return type(value), [_print(item, depth + 1) for item in value]
        if type(value) in (set, frozenset):
            return type(value), sorted(map(repr, value))
        if isinstance(value, itertools.count):
            return type(value), repr(value)
        if _is_plain_object(value):
            return id(value), [(name, _print(held, depth + 1)) for name, held in vars(value).items()]
    return id(value)


def _is_plain_object(value: Any) -> bool:
    """An object of the user's own making, whose attributes are its state."""
    if isinstance(value, (type, types.ModuleType, torch.Tensor, torch.nn.Module)) or not hasattr(value, "__dict__"):
        return False
    filename = getattr(sys.modules.get(type(value).__module__), "__file__", None)
    return isinstance(filename, str) and owner_of(filename) == "user"


def _is_data(value: Any) -> bool:
    """What can be state: no code, no module, no type."""
    code = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type, property)
    return not isinstance(value, (*code, staticmethod, classmethod, torch.nn.Module))


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    code, given = function.__code__, function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    return {
        **dict(zip(positional[len(positional) - len(given) :], given, strict=True)),
        **(function.__kwdefaults__ or {}),
    }


def _functions_in(value: Any) -> list[types.FunctionType]:
    if isinstance(value, types.MethodType):
        value = value.__func__
    if isinstance(value, types.FunctionType):
        wrapped = getattr(value, "__wrapped__", None)
        return [value, *([wrapped] if isinstance(wrapped, types.FunctionType) else [])]
    return []


def _method_of(kind: type) -> types.FunctionType | None:
    return next((value for value in vars(kind).values() if isinstance(value, types.FunctionType)), None)


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names that a function and the functions within it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


@contextlib.contextmanager
def seeded(seed: int, used: set[str]) -> Iterator[None]:
    """The global generators of torch, Python and NumPy with a seed, and as they were afterwards. `used` takes the names
    of those of Python and NumPy that were drawn from."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            fresh_python, fresh_numpy = random.getstate(), np.random.get_state()
            yield
            if random.getstate() != fresh_python:
                used.add("random")
            if not all(itertools.starmap(np.array_equal, zip(np.random.get_state(), fresh_numpy, strict=True))):
                used.add("numpy.random")
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def buffers_kept(module: torch.nn.Module) -> Iterator[None]:
    """Puts back buffers that a run writes (statistics of batch norm, caches). Their version counters do not tell: batch
    norm does not raise them."""
    buffers = [(part, name, b) for part in module.modules() for name, b in part.named_buffers(recurse=False)]
    kept = [(part, name, buffer, buffer.detach().clone()) for part, name, buffer in buffers]
    try:
        yield
    finally:
        for part, name, buffer, values in kept:
            with torch.no_grad(), torch.inference_mode(buffer.is_inference()):
                buffer.copy_(values)
            if getattr(part, name, None) is not buffer and not isinstance(part, torch.jit.ScriptModule):
                part._buffers[name] = buffer
