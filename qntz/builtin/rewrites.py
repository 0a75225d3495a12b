"""Rewrites of functions that a trace, or ONNX at a low opset, has nothing for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qntz.hookspecs import hookimpl
from qntz.records import Example, FunctionRewrite

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def qntz_function_rewrites() -> Iterable[FunctionRewrite]:
    yield FunctionRewrite(
        name="autograd-forward",
        functions={"torch.autograd.Function.apply": forward_alone},
        tolerance=0.0,
        examples=(Example(squared_relu),),
    )
    yield FunctionRewrite(
        name="grid-sample",
        functions={"torch.nn.functional.grid_sample": grid_sample},
        requires=("opset<16",),
        examples=tuple(
            Example(lambda x, g, mode=mode, edge=edge: sampled(x, g, mode, edge), shapes=MAPS, opset=15)
            for mode in ("bilinear", "nearest")
            for edge in ("zeros", "border", "reflection")
        ),
    )


class Context:
    """What the forward of an autograd.Function keeps for its backward, and nobody asks for."""

    needs_input_grad: tuple[bool, ...] = ()
    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None: ...
    def mark_dirty(self, *tensors: Any) -> None: ...
    def mark_non_differentiable(self, *tensors: Any) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


def forward_alone(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """torch.autograd.Function.apply without gradients: its forward as it is written, where a trace has a call into
    Python that cannot be saved."""
    from torch.autograd.function import Function

    if cls.setup_context is not Function.setup_context:  # forward without a context
        return cls.forward(*args, **kwargs)
    context = Context()
    context.needs_input_grad = (False,) * len(args)
    return cls.forward(context, *args, **kwargs)


def squared_relu(x: Tensor) -> Tensor:
    import torch

    class SquaredRelu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clamp(min=0) ** 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return gradient * 2 * x.clamp(min=0)

    return SquaredRelu.apply(x)


MAPS = (((2, 3, 4, 5), (2, 3, 6, 2)), ((1, 3, 6, 4), (1, 5, 2, 2)), ((3, 3, 3, 7), (3, 2, 2, 2)))


def sampled(x: Tensor, grid: Tensor, mode: str, edge: str) -> Tensor:
    import torch.nn.functional as functional

    return functional.grid_sample(x, grid, mode, edge, align_corners=edge == "border")


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """torch.nn.functional.grid_sample of [N, C, H, W] at [N, h, w, 2], by Gather: ONNX has it from opset 16 on."""
    import torch

    if input.dim() != 4 or mode not in ("bilinear", "nearest"):
        raise NotImplementedError(f"grid_sample of {input.dim() - 2} dimensions, {mode}")
    height, width = input.shape[2], input.shape[3]
    corners = bool(align_corners)
    x = _folded(_place(grid[..., 0], width, corners), width, padding_mode, corners)
    y = _folded(_place(grid[..., 1], height, corners), height, padding_mode, corners)
    if mode == "nearest":
        return _taken(input, y.round(), x.round())
    left, top = x.floor(), y.floor()
    right, bottom = left + 1, top + 1
    parts = (
        (top, left, (bottom - y) * (right - x)),
        (top, right, (bottom - y) * (x - left)),
        (bottom, left, (y - top) * (right - x)),
        (bottom, right, (y - top) * (x - left)),
    )
    return torch.stack([_taken(input, row, column) * weight[:, None] for row, column, weight in parts]).sum(0)


def _place(at: Tensor, size: Any, corners: bool) -> Tensor:
    """-1..1 to pixels."""
    return (at + 1) * ((size - 1) / 2) if corners else ((at + 1) * size - 1) / 2


def _folded(at: Tensor, size: Any, edge: str, corners: bool) -> Tensor:
    """What lies outside moved in, but for "zeros"."""
    import torch

    if edge == "reflection":
        low, span = (0.0, size - 1) if corners else (-0.5, size)
        away = torch.abs(at - low)
        turns = torch.floor(away / span)
        rest = away - turns * span
        at = torch.where(torch.remainder(turns, 2) == 0, rest + low, span - rest + low)
    return at if edge == "zeros" else torch.minimum(at.clamp(min=0), torch.ones_like(at) * (size - 1))


def _taken(input: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """[N, C, h, w]: the pixels at these rows and columns, [N, h, w]; zero outside."""
    import torch

    height, width = input.shape[2], input.shape[3]
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    at = torch.where(inside, row, torch.zeros_like(row)) * width + torch.where(inside, column, torch.zeros_like(column))
    index = at.to(torch.int64).flatten(1)[:, None].expand(-1, input.shape[1], -1)
    pixels = input.flatten(2).gather(2, index).unflatten(2, (row.shape[1], row.shape[2]))
    return pixels * inside[:, None].to(input.dtype)
