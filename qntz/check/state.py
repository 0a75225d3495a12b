"""What outlives a run: random generators, buffers, and the state that Python holds beside them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from qntz.check.index import SourceIndex, forward_of
from qntz.check.places import owner_of

LARGEST = 1 << 20  # elements of a tensor that is compared and kept by its values; larger ones by identity and version
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
_CONTAINERS = (list, set, deque, *_MAPPINGS)
DEPTH = 4  # of containers within containers
GENERATORS = (torch.Generator, random.Random, np.random.Generator)
_OF_TORCH = frozenset(vars(torch.nn.Module())) - {"training"}  # what every module has
_MEMBERS = {"buffer": "_buffers", "parameter": "_parameters", "submodule": "_modules"}


@dataclass(frozen=True)
class Holding:
    """A name that outlives a run. what: "attribute", "buffer", "parameter", "submodule", "object" (an attribute of one
    that is no module), "class", "global", "closure" or "default" (of a parameter). owner: the module, object, class,
    namespace, cell or function that holds it. label: the owner
    as a user would write it."""

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
        return self.what == "attribute" or self.what in _MEMBERS

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
        return self._names()[self.name]

    def _names(self) -> Any:
        """The namespace of a module or class that holds it."""
        names = attributes(self.owner) if self.what == "object" else vars(self.owner)
        return names[_MEMBERS[self.what]] if self.what in _MEMBERS else names

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
            self._names()[self.name] = value

    def delete(self) -> None:
        if self.what == "class":
            delattr(self.owner, self.name)
        elif self.what not in ("closure", "default"):
            del (self.owner if self.what == "global" else self._names())[self.name]


class State:
    """The state that a model's own code can reach: attributes, buffers, parameters and submodules of its modules,
    attributes of their classes, globals of their files and variables of their closures. Taken when it is made, and put
    back by `restore`; the values of parameters, and of other tensors of more than `LARGEST` elements, are only
    compared."""

    def __init__(self, module: torch.nn.Module, index: SourceIndex) -> None:
        self._module, self._index = module, index
        self._kept = {holding: _Kept(holding.read(), holding.what) for holding in self._holdings()}
        self._order = [(names, list(names)) for part in module.modules() for names in _members(part)]
        self._print = self._prints()

    def changed(self) -> list[Holding]:
        """What is another than when the state was taken, or new, or gone."""
        now = self._prints()
        others = [holding for holding, value in now.items() if self._print.get(holding) != value]
        others += [holding for holding in self._print if holding not in now]
        both = {id(h.owner) for h in now} & {id(h.owner) for h in self._print}
        return [h for h in others if not h.is_member or id(h.owner) in both]  # not what came or went with its module

    def restore(self) -> None:
        """Puts everything back; what was not there is gone again."""
        for holding in self._holdings():
            if holding not in self._kept:
                holding.delete()
        for holding, kept in self._kept.items():
            kept.restore(holding)
        for names, order in self._order:
            if list(names) != order:  # a submodule that was taken out and put back stands last
                held = dict(names)
                names.clear()
                names.update((name, held[name]) for name in order)

    def value(self, holding: Holding) -> Any:
        """What it held when the state was taken; None where it was not there."""
        return self._kept[holding].value if holding in self._kept else None

    def _prints(self) -> dict[Holding, Any]:
        return {
            holding: _identity(value) if holding.what in ("parameter", "submodule") else _print(value)
            for holding in self._holdings()
            for value in (holding.read(),)
        }

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
            for what, held in _MEMBERS.items():
                for name in vars(part)[held]:
                    found[Holding(what, part, path, name)] = None
            kinds.update(dict.fromkeys(k for k in type(part).__mro__ if self._is_own(k.__module__, _method_of(k))))
            functions += [function for function, _ in forward_of(part)]
        for kind in kinds:
            for name, value in vars(kind).items():
                if not name.startswith("__") and _is_data(value):
                    found[Holding("class", kind, kind.__qualname__, name)] = None
                elif isinstance(value, types.FunctionType):
                    functions.append(value)
        self._add_reached(functions, found)
        self._add_objects(found)
        return list(found)

    def _add_objects(self, found: dict[Holding, None]) -> None:
        """The attributes of the objects of the user's own that the names hold."""
        pending, seen = [(holding, 0) for holding in found], set()
        while pending:
            holding, depth = pending.pop()
            value = holding.read()
            if _is_plain_object(value) and id(value) not in seen and depth < DEPTH:
                seen.add(id(value))
                for name in attributes(value):
                    inner = Holding("object", value, holding.shown, name)
                    found[inner] = None
                    pending.append((inner, depth + 1))

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
                if isinstance(value, (*_CONTAINERS, torch.Tensor)) or _is_plain_object(value):
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
    """A value, and what is needed to put it back: the items of a container and what they hold in turn, a copy of a
    tensor or array, the state of a random generator. Of containers only Python's own types: what others do when they
    are emptied and filled is theirs."""

    def __init__(self, value: Any, what: str = "", seen: frozenset[int] = frozenset()) -> None:
        self.value = value
        self.copy: Any = None
        self.within: list[_Kept] = []
        if what in ("parameter", "submodule") or id(value) in seen or len(seen) > DEPTH:
            return
        self.copy = _copy_of(value)
        if type(value) in _CONTAINERS or _is_plain_object(value):
            items = self.copy.values() if isinstance(self.copy, dict) else self.copy
        else:
            items = value if isinstance(value, tuple) else ()
        inner = seen | {id(value)}
        self.within = [kept for item in items if _can_change(item) for kept in (_Kept(item, "", inner),)]

    def restore(self, holding: Holding) -> None:
        if not self._is_held(holding):
            holding.write(self.value)
        self._put_back()

    def _put_back(self) -> None:
        value, copy = self.value, self.copy
        if copy is None:
            pass
        elif isinstance(value, torch.Tensor):
            if _version(value) != copy[1]:
                write(value, copy[0])
        elif isinstance(value, np.ndarray):
            if value.flags.writeable and not np.array_equal(value, copy):
                value[...] = copy
        elif isinstance(value, torch.Generator):
            value.set_state(copy)
        elif isinstance(value, random.Random):
            value.setstate(copy)
        elif isinstance(value, np.random.Generator):
            value.bit_generator.state = copy
        elif type(value) in (list, deque):
            if len(value) != len(copy) or any(a is not b for a, b in zip(value, copy, strict=False)):
                value.clear()
                value.extend(copy)
        elif type(value) is set:
            if value != copy:
                value.clear()
                value.update(copy)
        else:
            held = value if type(value) in _MAPPINGS else attributes(value)
            if list(held) != list(copy) or any(held[key] is not copy[key] for key in held):
                held.clear()
                for key, item in copy.items():
                    held[key] = item
        for kept in self.within:
            kept._put_back()

    def _is_held(self, holding: Holding) -> bool:
        try:
            return holding.read() is self.value
        except (LookupError, ValueError):
            return False


def _copy_of(value: Any) -> Any:
    """What puts a value back, None where nothing does: the items of a container, by name or in their order, ..."""
    if type(value) in _MAPPINGS:
        return dict(value)
    if type(value) in _CONTAINERS:
        return value.copy()
    if isinstance(value, torch.Tensor):
        small = value.numel() <= LARGEST and value.device.type != "meta"
        return (value.detach().clone(), _version(value)) if small else None
    if isinstance(value, np.ndarray):
        return value.copy() if value.size <= LARGEST and not value.dtype.hasobject else None
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return dict(attributes(value)) if _is_plain_object(value) else None


def _can_change(value: Any) -> bool:
    known = (torch.Tensor, np.ndarray, *GENERATORS)
    return type(value) in (*_CONTAINERS, tuple) or isinstance(value, known) or _is_plain_object(value)


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _identity(value: Any) -> Any:
    return (id(value), _version(value)) if isinstance(value, torch.Tensor) else id(value)


def _members(part: torch.nn.Module) -> list[dict[str, Any]]:
    return [] if isinstance(part, torch.jit.ScriptModule) else [vars(part)[name] for name in _MEMBERS.values()]


def write(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Gives a tensor other values, and their shape where it has lost it."""
    with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
        try:
            tensor.copy_(values)
        except RuntimeError:  # its elements share memory, as those of an expanded tensor do, or are more or fewer now
            tensor.data = values


def _print(value: Any, depth: int = 0) -> Any:
    """Something that is equal for equal values, and no longer when a run has changed them."""
    if isinstance(value, torch.Tensor):
        odd = value.layout is not torch.strided or value.is_quantized or is_lazy(value)
        if odd or value.numel() > LARGEST or value.device.type == "meta":
            return _identity(value)
        data = value.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
        digest = hashlib.sha1(bytes(memoryview(data.view(torch.uint8).numpy()))).hexdigest() if value.numel() else ""
        return str(value.dtype), tuple(value.shape), digest
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, hashlib.sha1(value.tobytes()).hexdigest()
    if isinstance(value, torch.Generator):
        return hashlib.sha1(bytes(memoryview(value.get_state().numpy()))).hexdigest()
    if isinstance(value, (random.Random, np.random.Generator)):
        return repr(_copy_of(value))
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return type(value), repr(value)
    if depth < DEPTH:
        if type(value) in _MAPPINGS:
            return type(value), [(repr(k), _print(v, depth + 1)) for k, v in value.items()]
        if type(value) in (list, tuple, deque):
            return type(value), [_print(item, depth + 1) for item in value]
        if type(value) in (set, frozenset):
            return type(value), sorted(map(repr, value))
        if isinstance(value, itertools.count):
            return type(value), repr(value)
        if _is_plain_object(value):
            return id(value), [(name, _print(held, depth + 1)) for name, held in attributes(value).items()]
    return id(value)


def attributes(value: Any) -> dict[str, Any]:
    """An object's own attributes; none where it has slots. No code of its class is run."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}


def _is_plain_object(value: Any) -> bool:
    """An object of the user's own making, whose attributes are its state."""
    if isinstance(value, (type, types.ModuleType, torch.Tensor, torch.nn.Module)) or not attributes(value):
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
            write(buffer, values)
            if getattr(part, name, None) is not buffer and not isinstance(part, torch.jit.ScriptModule):
                part._buffers[name] = buffer
