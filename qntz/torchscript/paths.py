"""A capture that traces each way through the model and joins them by `if`, where TorchScript does not take its source.

The model is run under a trace that stops where a tensor decides (`bool(x)`, also of a size). What is recorded so far
gives the condition; two further traces, that are told the decision, give both ways from there, and so on: a tree, whose
leaves are whole runs. No decision is left that only the example took. What leaves torch as a number is kept in it
(`qntz.torchscript.shadow`), so that it can decide too. A way that ends in a `raise` of the model's own is left out: the
eager model refuses those inputs as well.
"""

from __future__ import annotations

import dis
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qntz.errors import CaptureError, one_line
from qntz.model import WRAPPED, named_outputs, positional_count, traceable
from qntz.torchscript.shadow import array_of, shadowed, tensor_of

LIMIT = 64  # ways; each is a copy of the graph, though not of the weights
LONGEST = 256  # decisions in one run
_RAISE = dis.opmap["RAISE_VARARGS"]


class _Undecided(BaseException):
    """Ends a run at a decision; nothing in the model catches it."""

    def __init__(self, condition: Tensor) -> None:
        self.condition = condition


class _Deciding(TorchFunctionMode):
    """Tells the first decisions of a run; at the next one the run ends, or with `go_on` takes it as it falls. Numbers
    stay tensors."""

    def __init__(self, told: Sequence[bool], go_on: bool) -> None:
        super().__init__()
        self.told, self.go_on = told, go_on
        self.taken: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__:
            return self._decided(args[0])
        if func is Tensor.item:
            return args[0].reshape(())
        if func is Tensor.tolist:
            return _listed(args[0])
        if func in (Tensor.numpy, Tensor.__array__):
            return array_of(args[0])
        return func(*args, **(kwargs or {}))

    def _decided(self, condition: Tensor) -> bool:
        if len(self.taken) < len(self.told):
            decision = self.told[len(self.taken)]
        elif not self.go_on:
            raise _Undecided(condition.reshape(()).ne(0))
        else:
            decision = bool(condition)
        self.taken.append(decision)
        if len(self.taken) > LONGEST:
            raise CaptureError("the model decides too often", why=f"more than {LONGEST} decisions by tensors in a run")
        return decision


class _Way(torch.nn.Module):
    """A run of the model with the first decisions told: its outputs, or the condition of the next decision."""

    def __init__(self, model: torch.nn.Module, order: Sequence[str], told: Sequence[bool], go_on: bool = False) -> None:
        super().__init__()
        setattr(self, WRAPPED, model)
        count = positional_count(model, order)
        self.names: tuple[str, ...] | None = None
        self.taken: tuple[bool, ...] = ()

        def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
            deciding = _Deciding(told, go_on)
            try:
                with deciding:
                    outputs = model(*inputs[:count], **dict(zip(order[count:], inputs[count:], strict=True)))
            except _Undecided as undecided:
                return (undecided.condition,)
            finally:
                self.taken = tuple(deciding.taken)
            named = named_outputs(torch.utils._pytree.tree_map(tensor_of, outputs))
            self.names = tuple(named)
            return tuple(named.values())

        self.forward = forward


class _Fork(torch.nn.Module):
    def __init__(self, condition: Any, yes: Any, no: Any) -> None:
        super().__init__()
        self.qntz_if, self.qntz_yes, self.qntz_no = condition, yes, no


class _Tree:
    def __init__(
        self,
        model: torch.nn.Module,
        order: Sequence[str],
        examples: Sequence[tuple[Tensor, ...]],
    ) -> None:
        self.model, self.order, self.examples = model, order, examples
        self.names: tuple[str, ...] | None = None
        self.ways = 0
        self.natural = []
        for example in examples:
            way = _Way(model, order, (), go_on=True)
            _recorded(way, example)
            self.natural.append(way.taken)

    def grown(self, told: tuple[bool, ...], fallback: tuple[Tensor, ...]) -> Any:
        """The script of all ways that begin with these decisions; None where the model raises on all of them."""
        pairs = zip(self.examples, self.natural, strict=True)
        own = next((example for example, taken in pairs if taken[: len(told)] == told), None)
        example = fallback if own is None else own
        way = _Way(self.model, self.order, told)
        try:
            script = _recorded(way, example)
        except Exception as error:
            if own is None and _is_raised(error):
                return None
            raise CaptureError(
                "a way through the model cannot be traced",
                why=f"{one_line(error)}; of the decisions {', '.join(map(str, told)) or 'none'}",
            ) from error
        if way.names is None:
            yes, no = self.grown((*told, True), example), self.grown((*told, False), example)
            if yes is None or no is None:
                return no if yes is None else yes
            return self._forked(script, yes, no)
        self.ways += 1
        if self.ways > LIMIT:
            raise CaptureError("there are too many ways through the model", why=f"more than {LIMIT}")
        if self.names not in (None, way.names):
            raise CaptureError("the ways through the model give other outputs", why=f"{self.names} and {way.names}")
        self.names = way.names
        return script

    def _forked(self, condition: Any, yes: Any, no: Any) -> torch.jit.ScriptModule:
        forked = torch.jit.script(_Fork(condition, yes, no))
        inputs = ", ".join(f"x{number}" for number in range(len(self.order)))
        forked.define(
            f"def forward(self, {inputs}):\n"
            f"    if bool(self.qntz_if({inputs})[0]):\n"
            f"        return self.qntz_yes({inputs})\n"
            "    else:\n"
            f"        return self.qntz_no({inputs})\n"
        )
        return forked


def joined_paths(
    model: torch.nn.Module,
    order: Sequence[str],
    examples: Sequence[tuple[Tensor, ...]],
    namespaces: Sequence[dict[str, Any]],
    settle: Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule],
) -> tuple[torch.jit.ScriptModule, str]:
    """The capture, whose outputs are a tuple in the order of the eager model's, and in words what it consists of.

    Args:
        order: the input names. examples: inputs in that order; a way is recorded with the first that takes it.
        namespaces: of the model's own source. settle: gives the joined script the inputs' names.

    Raises:
        CaptureError: a way cannot be traced, or there are too many.
    """
    with shadowed(namespaces), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace's, of what the tree is for
        tree = _Tree(model, order, examples)
        script = tree.grown((), examples[0])
    if script is None:
        raise CaptureError("the model raises on every way through it")
    return settle(script), f"traced in {tree.ways} way{'s' if tree.ways != 1 else ''}"


def _recorded(way: _Way, example: Sequence[Tensor]) -> torch.jit.ScriptModule:
    with torch.no_grad(), traceable():
        return torch.jit.trace(way, tuple(tensor.clone() for tensor in example), check_trace=False)


def _listed(tensor: Tensor) -> Any:
    return [_listed(one) for one in tensor.unbind(0)] if tensor.dim() else tensor.reshape(())


def _is_raised(error: BaseException) -> bool:
    """Whether a statement, `raise` or `assert`, raised the error, and no function that Python called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE
