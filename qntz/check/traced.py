"""A trace of the model: what it leaves of it, and what leaves torch only while one is recorded.

Outside a trace a tensor's size is a Python number. While one is recorded it is a tensor, as torch's own tracer sees it,
so that `int(x.shape[1])`, `if len(x) > 3` and `for row in x` show as the leaks that the trace freezes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree


class Tracer:
    """Records a model's call; `function` then replays it: the tensors among the arguments in, those among the outputs
    out.

    The parameters stand in the trace as constants, which spares torch the copy of the module that tracing a module
    makes; what is recorded is the same. as_module: they are attributes of a module, as in a capture.
    """

    def __init__(self, call: Callable[[torch.nn.Module, Sequence[Any]], Any], as_module: bool = False) -> None:
        self._call, self.as_module = call, as_module
        self.function: Any = None

    def __call__(self, module: torch.nn.Module, arguments: Sequence[Any]) -> Any:
        """The outputs of the call that is recorded; raises what torch raises where it cannot record it."""
        leaves, spec = pytree.tree_flatten(list(arguments))
        outputs: Any = None

        def flat(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            nonlocal outputs
            given = iter(tensors)
            filled = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            outputs = self._call(module, pytree.tree_unflatten(filled, spec))
            return tuple(tensors_of(outputs))

        compiled = any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())
        with without_gradients(module):
            # torch calls compiled modules only from the module that they are part of
            traced = _Holding(module, flat) if compiled or self.as_module else flat
            self.function = torch.jit.trace(traced, tuple(tensors_of(leaves)), check_trace=False)
        return outputs

    def replayed(self, arguments: Sequence[Any]) -> list[torch.Tensor]:
        """What the recorded trace gives for other arguments; raises what torch raises."""
        if self.function is None:
            raise RuntimeError("no trace has been recorded")
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return list(self.function(*tensors_of(list(arguments))))


class _Holding(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors in a nested value, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


@contextlib.contextmanager
def without_gradients(module: torch.nn.Module) -> Iterator[None]:
    """torch takes no constant into a trace that requires a gradient."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
