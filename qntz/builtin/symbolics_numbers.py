"""Conversions between numbers and tensors, which torch's TorchScript exporter erases: `int(x)` of a tensor that holds
2.7 is 2, and no longer 2.7."""

from collections.abc import Iterable

from qntz.hookspecs import hookimpl
from qntz.records import Example, Symbolic


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    import torch

    from qntz.builtin._numbers import CONVERSIONS, Converting, converts

    scripted = Example(module=lambda: torch.jit.script(Converting()))
    for name, function in CONVERSIONS.items():
        yield Symbolic(f"aten::{name}", function, examples=(scripted,), of_torch=True, match=converts)
