"""Translations of matrix functions, which ONNX lacks, in elementary operators of torch."""

from collections.abc import Iterable

from qntz.hookspecs import hookimpl
from qntz.records import Example, Symbolic

SIZES = (((2, 3, 4, 6),), ((3, 2, 4, 7),), ((1, 5, 4, 9),))


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    from qntz.builtin._linalg_operators import OPERATORS

    for name, (function, *functions) in OPERATORS.items():
        examples = tuple(Example(one, shapes=SIZES) for one in functions)
        yield Symbolic(f"aten::{name}", function, tolerance=1e-4, examples=examples, of_torch=True)
