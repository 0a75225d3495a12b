"""The ways to TorchScript: a trace of one run, and the compiled source."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Sequence
from typing import Any

import torch

from qntz.errors import CaptureError, one_line
from qntz.model import WRAPPED, compiled, named_outputs, positional_count, tensors, traceable
from qntz.records import Arrays
from qntz.torchscript.source import undecorated_alone


def traced(module: torch.nn.Module, example: Arrays, order: Sequence[str], flat: bool) -> torch.jit.ScriptModule:
    """The trace of one run. flat: the outputs are a tensor or a tuple of tensors."""
    try:
        with torch.no_grad(), traceable():
            # check_trace only repeats the example, the probes do more
            plain = Plain.around(module, order, flat)
            return torch.jit.trace(plain, tensors(example, order), check_trace=False)
    except Exception as error:
        raise CaptureError(
            "the model cannot be traced", why=one_line(error), do="Set torchscript.method to auto."
        ) from error


def scripted(module: torch.nn.Module) -> torch.jit.ScriptModule:
    """The compiled model."""
    try:
        with undecorated_alone():
            return compiled(module)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CaptureError(
            "the model cannot be scripted",
            where=place_of(error),
            why=lines[0] if lines else type(error).__name__,
            do="Set torchscript.method to auto, or write that part so that TorchScript takes it.",
        ) from error


def place_of(error: Exception) -> str:
    """The line that an error of TorchScript's compiler points at, "file:line"; "" where it has none."""
    place = re.search(r'File "(?P<file>[^"]+)", line (?P<line>\d+)', str(error))
    return f"{place['file']}:{place['line']}" if place else ""


class Plain(torch.nn.Module):
    """A model called with exactly these inputs, that returns a tensor or a tuple of tensors: what a dict, list or named
    tuple holds, in its order."""

    @classmethod
    def around(cls, model: torch.nn.Module, order: Sequence[str], flat: bool) -> torch.nn.Module:
        """The model itself where it is called so already. flat: it returns a tensor or a tuple of tensors."""
        return model if flat and positional_count(model, order) == len(order) else cls(model, order, flat)

    def __init__(self, model: torch.nn.Module, order: Sequence[str], flat: bool, count: int | None = None) -> None:
        super().__init__()
        setattr(self, WRAPPED, model)
        count = positional_count(model, order) if count is None else count

        def forward(*inputs: torch.Tensor) -> Any:
            outputs = model(*inputs[:count], **dict(zip(order[count:], inputs[count:], strict=True)))
            return outputs if flat else tuple(named_outputs(outputs).values())

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # what the trace names its inputs by
        forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in order])  # type: ignore[attr-defined]
        self.forward = forward


def joined(
    script: torch.jit.ScriptModule, inputs: Sequence[torch.Tensor], order: Sequence[str]
) -> torch.jit.ScriptModule:
    """A trace around a script that takes as many tensors, which gives them these names."""
    with torch.no_grad():
        return torch.jit.trace(Plain(script, order, flat=True, count=len(order)), tuple(inputs), check_trace=False)


def settled(
    script: torch.jit.ScriptModule, example: Arrays, order: Sequence[str], flat: bool
) -> torch.jit.ScriptModule:
    """The scripted module itself, or a trace around it, in which its control flow stays: where it has optional
    arguments, which the exporter refuses as None and else keeps as ONNX optionals, or outputs that are no tensors."""
    arguments = script.forward.schema.arguments[1:]
    optional = [argument for argument in arguments if isinstance(argument.type, torch._C.OptionalType)]
    if flat and len(arguments) == len(order) and not optional:
        return script
    try:
        # read again: a module that was frozen in this process cannot be put into another
        saved = io.BytesIO()
        torch.jit.save(script, saved)
        saved.seek(0)
        inner = torch.jit.load(saved)
        with torch.no_grad():
            return torch.jit.trace(Plain(inner, order, flat), tensors(example, order), check_trace=False)
    except Exception as error:
        raise CaptureError(
            "the scripted model cannot be given plain inputs and outputs",
            why=one_line(error),
            do="Let forward take no optional arguments, and return a tensor or a tuple of tensors.",
        ) from error
