"""A trace of the model: what it leaves of it, and what leaves torch only while one is recorded.

Outside a trace a tensor's size is a Python number. While one is recorded it is a tensor, as torch's own tracer sees it,
so that `int(x.shape[1])`, `if len(x) > 3` and `for row in x` show as the leaks that the trace freezes.

A run on fake tensors with symbolic sizes shows the same lines by its guards. It is not made beside it: of the 28 marked
lines of the test corpora on which sizes decide it finds 25, the trace all, and it ends where a value is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from qntz.model import traceable


class Tracer:
    """Records a model's call; `function` then replays it: the tensors among the arguments in, those among the outputs
    out.

    The parameters stand in the trace as constants, which spares torch the copy of the module that tracing a module
    makes; the operators that are recorded are the same. as_module: they are attributes of a module, as in a capture.
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
        with without_gradients(module), traceable():
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


def is_traced_as_module(module: torch.nn.Module) -> bool:
    """Whether a module has what torch says no to when it traces one, and does not see in a function that calls it:
    a tensor under two names of one part, hooks on gradients."""
    for part in module.modules():
        held = [id(value) for value in (*part._parameters.values(), *part._buffers.values()) if value is not None]
        if part._backward_hooks or part._backward_pre_hooks or len(held) > len(set(held)):
            return True
    return False


def sized_by_values(tensor: torch.Tensor) -> bool:
    """Whether a size that is traced, or a traced tensor's own, comes from what values decide: from the number of
    elements that torch.nonzero, torch.unique or a boolean index finds."""
    if not torch.jit.is_tracing():
        return False
    pending, seen = [torch._C._get_value_trace(tensor)], set()
    while pending:
        value = pending.pop()
        node = value.node()
        if value in seen:
            continue
        seen.add(value)
        operator = node.kind().rpartition("::")[2].rstrip("_")
        inputs = list(node.inputs())
        if operator in _SIZED_BY_VALUES or (operator == "index" and _is_masked(inputs[1])):
            return True
        pending += [inputs[i] for i in _SIZED_BY[operator]] if operator in _SIZED_BY else inputs
    return False


_SIZED_BY_VALUES = (
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique_consecutive",
    "_unique2",
    "unique_dim",
    "bincount",
)
_SIZED_BY = {
    **dict.fromkeys(("index_add", "index_put", "index_copy", "index_fill", "scatter", "scatter_add", "copy"), (0,)),
    **dict.fromkeys(("scatter_reduce", "masked_fill", "masked_scatter", "zeros_like", "ones_like", "fill"), (0,)),
    **dict.fromkeys(("empty_like", "full_like", "rand_like", "randn_like", "to", "type_as"), (0,)),
    "embedding": (1,),
    "gather": (2,),
}
"""The inputs that decide the size of an operator's output, by operator; of the others each may."""


def _is_masked(indices: Any) -> bool:
    """Whether one of the indices of aten::index is boolean, and so no position."""
    types = [value.type() for value in indices.node().inputs()]
    return any(isinstance(kind, torch._C.TensorType) and kind.dtype() in (torch.bool, torch.uint8) for kind in types)


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
