"""Translations of operators that rank, count, gather and measure, in other operators of torch."""

from collections.abc import Iterable

from qntz.hookspecs import hookimpl
from qntz.records import Example, Symbolic


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    from qntz.builtin._composed import OPERATORS

    for name, (function, *functions) in OPERATORS.items():
        examples = tuple(Example(one) for one in functions)
        yield Symbolic(f"aten::{name}", function, tolerance=2e-5, examples=examples, of_torch=True)
