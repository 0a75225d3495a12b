"""Determinants of 2 by 2 and 3 by 3 matrices in products: ONNX has Det, and TensorRT's parser refuses it."""

from collections.abc import Iterator
from typing import Any

from qntz import hookimpl
from qntz.records import Example, GraphPass


@hookimpl
def qntz_graph_passes(phase: str) -> Iterator[GraphPass]:
    if phase == "simplify":
        yield GraphPass(
            name="small-determinant",
            apply=expand,
            tolerance=1e-4,
            examples=(
                Example(lambda x: determinants(x, 2), shapes=SHAPES),
                Example(lambda x: determinants(x, 3), shapes=SHAPES),
            ),
        )


SHAPES = (((2, 3, 3),), ((5, 3, 3),), ((1, 3, 3),))


def determinants(x: Any, size: int) -> Any:
    import torch

    return torch.det(x[:, :size, :size] + 2 * torch.eye(size))


def expand(model: Any) -> tuple[Any, int]:
    """The model with each such Det expanded along the first row, and how many there were."""
    from onnxscript.rewriter.pattern import RewriteRule

    from qntz.graph_passes import by_patterns

    return by_patterns(RewriteRule(lambda op, x: op.Det(x), expansion, is_small))(model)


def is_small(context: Any, x: Any, **_: Any) -> bool:
    """[..., 2, 2] or [..., 3, 3], where the graph tells."""
    return x.shape is not None and len(x.shape) >= 2 and x.shape[-1] == x.shape[-2] and x.shape[-1] in (2, 3)


def expansion(op: Any, x: Any, **_: Any) -> Any:
    size = x.shape[-1]

    def at(row: int, column: int) -> Any:
        line = op.Gather(x, op.Constant(value_int=row), axis=-2)
        return op.Gather(line, op.Constant(value_int=column), axis=-1)

    def minor(rows: tuple[int, int], columns: tuple[int, int]) -> Any:
        (a, b), (c, d) = rows, columns
        return op.Sub(op.Mul(at(a, c), at(b, d)), op.Mul(at(a, d), at(b, c)))

    if size == 2:
        return minor((0, 1), (0, 1))
    others = ((1, 2), (0, 2), (0, 1))
    first, second, third = (op.Mul(at(0, column), minor((1, 2), others[column])) for column in range(3))
    return op.Add(op.Sub(first, second), third)
