"""What one live run shows: a torch function mode that watches values leave torch, and where.

It sees every call of a torch function or Tensor method, and what NumPy, `math` and other C code read from a tensor
(`__array__`, `__float__`, ...). It changes no result, unless it is given frozen values to replay.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from qntz.check.index import SourceIndex
from qntz.check.places import Place, module_name_of, owner_of, position_of, shown_path
from qntz.check.resolve import UNKNOWN, Function, attribute, dotted, root_of
from qntz.check.subject import COUNTING, DeviceUse, Leak, Seen
from qntz.check.traced import sized_by_values

T = torch.Tensor
LEAKS = {
    getattr(T, name): name
    for name in (
        *("numpy", "__array__", "__dlpack__", "data_ptr", "item", "tolist", "__bool__", "__int__", "__float__"),
        *("__index__", "__complex__", "__contains__", "is_nonzero", "equal", "allclose"),
    )
} | {torch.equal: "equal", torch.allclose: "allclose", torch.is_nonzero: "is_nonzero"}
"""The calls that give a value to Python or to C code outside torch, by the function itself."""
COUNTED = {getattr(owner, name): name for owner in (T, torch) for name in COUNTING if hasattr(owner, name)}
_DEVICE_READS = (T.device, T.is_cuda, T.is_cpu, T.is_meta) if hasattr(T, "is_cpu") else (T.device, T.is_cuda)
_MOVES = (T.to, T.cpu, T.cuda)
_PLACES = (*_MOVES, T.type)
_CONVERTS = (T.to, T.type_as, T.type, T.double)
_F = torch.nn.functional
_TRAINS = (
    *(_F.batch_norm, _F.dropout, _F.dropout1d, _F.dropout2d, _F.dropout3d, _F.alpha_dropout, _F.rrelu),
    _F.scaled_dot_product_attention,
)
"""The functions that do something else where their parameter `training`, or `dropout_p`, says so."""
REPLAYED = frozenset((*LEAKS.values(), *COUNTING)) - {"__dlpack__", "data_ptr"}


@dataclass
class Log:
    """What the runs of one check have shown so far.

    Attributes:
        values: the results of each leak by its key, and by the run that showed it. seeds: the expression that
        leaked, by function and node, with the leaks' keys. functions: by code object, None for code without source.
        returned: keys of leaks whose expression gives a tensor again (`numpy.sin(tensor)`).
    """

    index: SourceIndex
    devices: frozenset[str]
    leaks: dict[tuple[Any, ...], Leak] = field(default_factory=dict)
    values: dict[tuple[Any, ...], dict[int, list[Any]]] = field(default_factory=dict)
    seeds: dict[tuple[str, int, int], dict[ast.AST, list[tuple[Any, ...]]]] = field(default_factory=dict)
    strange_devices: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    doubles: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    writes: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    draws: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    arrays: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    functions: dict[CodeType, Function | None] = field(default_factory=dict)
    trained: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    awake: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    returned: set[tuple[Any, ...]] = field(default_factory=set)
    device_uses: dict[tuple[Any, ...], DeviceUse] = field(default_factory=dict)

    def marks(self) -> dict[tuple[str, int, int], dict[ast.AST, frozenset[Leak]]]:
        """The leaks whose values stay outside torch, at the expressions that leaked, by function."""

        def outside(keys: Sequence[tuple[Any, ...]]) -> frozenset[Leak]:
            return frozenset(self.leaks[key] for key in keys if key not in self.returned)

        return {
            function: {node: outside(keys) for node, keys in nodes.items()} for function, nodes in self.seeds.items()
        }


class Recorder(TorchFunctionMode):
    """Records one run, number `run`, into `log`. Under a trace, where sizes are tensors too, only what leaks then and
    did not without it.

    Args:
        inputs: the tensors that the model is called with, by name. modules: the paths of the modules whose forward is
        running, innermost last. sentinel: the code whose frame ends the stack that belongs to the model. parts: the
        modules by their path.
        frozen: results to give back instead of a leak's own, by the leak's key; nothing is recorded then.
    """

    def __init__(
        self,
        log: Log,
        run: int,
        inputs: Mapping[str, torch.Tensor],
        modules: Sequence[str],
        sentinel: CodeType,
        parts: Mapping[str, torch.nn.Module],
        frozen: Mapping[tuple[Any, ...], Sequence[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.log, self.run, self.inputs, self.modules, self.sentinel = log, run, inputs, modules, sentinel
        self.parts = parts
        self.frozen = {key: iter(values) for key, values in frozen.items()} if frozen is not None else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tracing = torch.jit.is_tracing()
        kind = LEAKS.get(func) or (COUNTED.get(func) if tracing else None)
        if self.frozen is not None:
            return self._replay(func, args, kwargs, kind)
        if tracing and kind is None:
            return func(*args, **kwargs)
        frames = self._frames()
        if tracing:
            result = func(*args, **kwargs)
            self._leak(kind, frames, result, "shape", args[0])
            return result
        self._reached(frames)
        if getattr(func, "__name__", "") == "__get__":  # a property: reads, and changes nothing
            if getattr(func, "__self__", None) in _DEVICE_READS:
                self._device_use("reads", frames)
            return func(*args, **kwargs)
        if func in _PLACES or kwargs.get("device") is not None:
            self._device_use("places", frames)
        if func is T.get_device:
            self._device_use("reads", frames)
        if any(isinstance(argument, np.ndarray) for argument in args):
            self._seen(self.log.arrays, "NumPy array", frames, func)
        versions = {name: tensor._version for name, tensor in self.inputs.items()}
        generator = torch.get_rng_state()
        result = func(*args, **kwargs)
        if kind is not None:
            self._leak(kind, frames, result, "data")
            return result
        if func is T.__array_wrap__ and (frame := _leaking(frames)) is not None:
            self.log.returned.add(_key("__array__", frame))
        for name, tensor in self.inputs.items():
            if tensor._version != versions[name]:
                self._seen(self.log.writes, name, frames, func)
        if func in _TRAINS and self._asks_for_training(func, args, kwargs):
            self._seen(self.log.trained, "trained", frames, func)
        if not torch.equal(generator, torch.get_rng_state()) or kwargs.get("generator") is not None:
            self._seen(self.log.draws, "random", frames, func)
        self._results(func, frames, args, kwargs, result)
        return result

    def entered(self, module: str) -> None:
        """Notes where a module is called that is in training mode."""
        self._seen(self.log.awake, "training", self._frames(), type(self.parts[module]))

    def _asks_for_training(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether a function is told to do as in training by a module that is in evaluation mode."""
        part = self.parts.get(self.modules[-1]) if self.modules else None
        if func is _F.scaled_dot_product_attention:  # compiled: it has no signature
            return not getattr(part, "training", True) and bool((args[4:5] or (kwargs.get("dropout_p"),))[0])
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        return not getattr(part, "training", True) and bool(given.arguments.get("training"))

    def _replay(self, func: Any, args: Any, kwargs: Any, kind: str | None) -> Any:
        if kind is not None and self.frozen:
            frame = _leaking(self._frames())
            values = self.frozen.get(_key(kind, frame)) if frame is not None else None
            value = next(values, UNKNOWN) if values is not None else UNKNOWN
            if value is not UNKNOWN:
                return func(*args, **kwargs)[:value] if kind in COUNTING else _copied(value)
        return func(*args, **kwargs)

    def _frames(self) -> list[FrameType]:
        """The frames of the run, innermost first (the first are this module's own); none outside of a run."""
        frame: FrameType | None = sys._getframe(1)
        frames = []
        while frame is not None and frame.f_code is not self.sentinel:
            frames.append(frame)
            frame = frame.f_back
        return frames if frame is not None else []

    def _reached(self, frames: Sequence[FrameType]) -> None:
        """Adds the functions on the stack that were not seen before to the index of reached source."""
        for depth, frame in enumerate(frames):
            code = frame.f_code
            if code in self.log.functions:
                continue
            self.log.functions[code] = None
            if self.log.index.is_own(code.co_filename, module_name_of(frame)):
                values = frame.f_locals
                free = {name: values.get(name, UNKNOWN) for name in code.co_freevars}
                first = values.get(code.co_varnames[0], UNKNOWN) if code.co_argcount else UNKNOWN
                receiver = UNKNOWN if isinstance(first, torch.Tensor) else first
                chain = tuple(str(place) for place in self._chain(frames[depth + 1 :]))
                more = {"ran": True, "given": _plain_types(code, values, first), "chain": chain}
                function = self.log.index.function_of(code, frame.f_globals, free, receiver, **more)
                self.log.functions[code] = function
                if function is not None:
                    self.log.index.functions.setdefault(function.key, function)

    def _chain(self, frames: Sequence[FrameType]) -> list[Place]:
        """The places of the model's own and other installed code on the stack, outermost first."""
        return [self._place(frame) for frame in reversed(frames) if _is_model_side(frame)]

    def _place(self, frame: FrameType) -> Place:
        code, name = frame.f_code, module_name_of(frame)
        sources = self.log.index.sources
        file = sources.file(code.co_filename, name)
        if file is None:
            return Place(shown_path(code.co_filename, name, sources.source_root), frame.f_lineno, 0, code.co_name)
        node = file.function(code)
        function = file.names[node] if node is not None else code.co_name
        position = position_of(frame)
        if position is None:
            return file.place(frame.f_lineno, None, function)
        return file.place(position[0], position[1], function)

    def _leak(
        self, kind: str, frames: Sequence[FrameType], result: Any, of: Literal["data", "shape"], size: Any = None
    ) -> None:
        frame = _leaking(frames)
        if frame is None:
            return  # torch's own code asked; the model's did not
        key = _key(kind, frame)
        known = self.log.leaks.get(key)
        if known is not None and known.of != of:
            return  # data, which the runs without a trace have shown
        if known is None:
            function = self._function(frame)
            node = _expression(frame, kind, function) if function is not None else None
            target = _live(node.func, frame) if isinstance(node, ast.Call) else UNKNOWN
            root = "" if target is UNKNOWN else root_of(target)
            callee = dotted(target) if root not in ("", "torch") else ""
            user = next((f for f in frames if owner_of(f.f_code.co_filename) == "user"), frame)
            chain = tuple(str(place) for place in self._chain(frames))
            module = self.modules[-1] if self.modules else ""
            by_values = size is not None and sized_by_values(size)
            self.log.leaks[key] = Leak(
                kind, self._place(user), chain, module, callee, root, key, (self.run,), of, of == "data", by_values
            )
            if node is not None and function is not None:
                self.log.seeds.setdefault(function.key, {}).setdefault(node, []).append(key)
        elif self.run not in known.runs:
            self.log.leaks[key] = dataclasses.replace(known, runs=(*known.runs, self.run))
        if kind in REPLAYED:
            told = len(result) if kind in COUNTING else _copied(result)
            self.log.values.setdefault(key, {}).setdefault(self.run, []).append(told)

    def _function(self, frame: FrameType) -> Function | None:
        """The function that a frame runs; for a comprehension's frame the one that it stands in."""
        outer: FrameType | None = frame
        while outer is not None and outer.f_code.co_name in _COMPREHENSIONS:
            outer = outer.f_back
        return self.log.functions.get(outer.f_code) if outer is not None else None

    def _device_use(self, kind: Literal["reads", "places"], frames: Sequence[FrameType]) -> None:
        frame = next((f for f in frames if owner_of(f.f_code.co_filename) != "qntz"), None)
        if frame is None or not _is_model_side(frame):
            return  # torch's own code, as in nn.LSTM
        function = self._function(frame)
        if function is None or (key := _key(kind, frame)) in self.log.device_uses:
            return
        node = _expression(frame, "", function)
        if node is not None:
            chain = tuple(str(place) for place in self._chain(frames))
            self.log.device_uses[key] = DeviceUse(kind, self._place(frame), chain, function, node)

    def _seen(self, into: dict[tuple[Any, ...], Seen], what: str, frames: Sequence[FrameType], func: Any) -> None:
        frame = next((f for f in frames if owner_of(f.f_code.co_filename) == "user"), None) or _leaking(frames)
        operator, module = str(getattr(func, "__name__", func)), self.modules[-1] if self.modules else ""
        key = (what, operator, module, frame.f_code if frame else None, frame.f_lasti if frame else 0)
        if key not in into:
            place = self._place(frame) if frame is not None else self.log.index.place_of_member(module)
            chain = tuple(str(step) for step in self._chain(frames))
            into[key] = Seen(what, place, chain, module, operator)

    def _results(self, func: Any, frames: Sequence[FrameType], args: Any, kwargs: Any, result: Any) -> None:
        tensors = [r for r in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(r, T)]
        for tensor in tensors:
            device, converts = str(tensor.device), func in _CONVERTS and bool(args)
            moved = func in _MOVES and args and str(args[0].device) != device
            if device not in self.log.devices or moved:
                self._seen(self.log.strange_devices, device, frames, func)
            given = args[:1] if converts else args
            if tensor.dtype == torch.float64 and not any(
                a.dtype == torch.float64 for a in _tensors(given, {} if converts else kwargs)
            ):
                self._seen(self.log.doubles, "tensor" if tensor.dim() else "scalar", frames, func)


def _plain_types(code: CodeType, values: Mapping[str, Any], receiver: Any) -> dict[str, str]:
    """The types of a function's arguments that are neither tensors nor modules, by parameter."""
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = {name: values[name] for name in names if name in values}
    skipped = (T, torch.nn.Module)
    return {
        name: type(value).__name__
        for name, value in given.items()
        if not (isinstance(value, skipped) or (value is receiver and name == names[0]))
    }


def _expression(frame: FrameType, kind: str, function: Function) -> ast.expr | None:
    """The expression that a frame of the function is executing."""
    position = position_of(frame)
    nodes = [node for node in ast.walk(function.node) if isinstance(node, ast.expr)]
    if position is not None:
        spans = ((node, (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)) for node in nodes)
        return next((node for node, span in spans if span == position), None)
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.lineno == frame.f_lineno]
    named = [node for node in calls if isinstance(node.func, ast.Attribute) and node.func.attr == kind]
    return next(iter(named or calls), None)


_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")  # frames of their own until Python 3.12


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for value in itertools.chain(args, kwargs.values()):
        if isinstance(value, T):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value, {})


def _leaking(frames: Sequence[FrameType]) -> FrameType | None:
    """The innermost frame that is the model's or another library's that works on tensors."""
    return next(filter(_is_model_side, frames), None)


def _is_model_side(frame: FrameType) -> bool:
    return owner_of(frame.f_code.co_filename) in ("user", "package")


def _key(kind: str, frame: FrameType) -> tuple[Any, ...]:
    # not f_lasti where it can be helped: CPython 3.11 calls from another instruction once it has specialised the code
    return kind, frame.f_code, position_of(frame) or frame.f_lasti


def _live(node: ast.expr, frame: FrameType) -> Any:
    """The object that an expression stands for in a running frame, or UNKNOWN."""
    if isinstance(node, ast.Attribute):
        return attribute(_live(node.value, frame), node.attr)
    if not isinstance(node, ast.Name):
        return UNKNOWN
    for scope in (frame.f_locals, frame.f_globals, frame.f_builtins):
        if node.id in scope:
            return scope[node.id]
    return UNKNOWN


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else list(value) if isinstance(value, list) else value
