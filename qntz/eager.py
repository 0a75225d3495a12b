"""The eager model, run on each input as if on its first: what a run leaves in the model (a window size, a cache, a
count) is not there in the next."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from qntz.model import ProgramModule, arrays_of, call
from qntz.records import Arrays

THREADS = 4  # for every machine: the last bits of eager outputs depend on it
_OF_TORCH = frozenset(vars(torch.nn.Module())) - {"training"}  # hooks, parameters, buffers and submodules
_SIMPLE = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device)


def fix_threads() -> None:
    """Gives torch the same number of threads on every machine, whatever it has cores and OMP_NUM_THREADS says: kernels
    split their sums by it. Call it when the model is loaded, which may set another.

    Where there are fewer cores, OMP_WAIT_POLICY=passive keeps the idle threads from spinning.
    """
    torch.set_num_threads(THREADS)


class Eager:
    """Runs a model on copies that share its parameters; the model itself is left as it is.

    A copy serves until a run has changed something in it. A model that cannot be copied is run itself.

    Attributes:
        changed: the attributes that a run changed, "encoder.calls", as far as they were seen.
    """

    def __init__(self, module: torch.nn.Module, order: Sequence[str]) -> None:
        self.module, self.order = module, tuple(order)
        self._copy: torch.nn.Module | None = None
        self._state: dict[str, Any] = {}
        self.changed: set[str] = set()

    def call(self, inputs: Arrays) -> Any:
        """What forward returns, without gradients; raises ModelError where it refuses the inputs."""
        module = self._fresh()
        try:
            return call(module, inputs, self.order)
        finally:
            if module is not self.module and (state := _state(module)) != self._state:
                self.changed |= {name for name in state | self._state if state.get(name) != self._state.get(name)}
                self._copy = None

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs as arrays by name; raises ModelError as `qntz.model.run_model`."""
        return arrays_of(self.call(inputs))

    def in_turn(self, runs: Sequence[Arrays]) -> Iterator[Arrays]:
        """The outputs of one copy on each of the inputs, in turn."""
        module = fresh(self.module)
        return (arrays_of(call(module, inputs, self.order)) for inputs in runs)

    def _fresh(self) -> torch.nn.Module:
        if self._copy is None:
            self._copy = fresh(self.module)
            self._state = _state(self._copy) if self._copy is not self.module else {}
        return self._copy


def fresh(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that shares the parameters and nothing else; the module itself where it cannot be copied, or has no state
    in Python."""
    if isinstance(module, (torch.jit.ScriptModule, ProgramModule)):
        return module
    try:
        return copy.deepcopy(module, {id(one): one for one in module.parameters()})
    except Exception:  # whatever an attribute raises that is not to be copied
        return module


def _state(module: torch.nn.Module) -> dict[str, Any]:
    """What a run may change: attributes by value, tensors by identity and version, containers by what they hold."""
    return {
        f"{path}.{name}".lstrip("."): _told(value)
        for path, part in module.named_modules()
        for name, value in {**vars(part), **dict(part._buffers.items())}.items()
        if name not in _OF_TORCH
    }


def _told(value: Any) -> Any:
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, torch.Tensor):
        return id(value), None if value.is_inference() else value._version
    if isinstance(value, dict):
        return [(key, _told(one)) for key, one in value.items() if isinstance(key, (str, int))]
    if isinstance(value, (list, tuple)):
        return [_told(one) for one in value]
    return id(value)
