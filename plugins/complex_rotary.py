"""Rotary position embeddings written with complex numbers, rewritten in real arithmetic.

ONNX has no complex tensors, so `torch.polar` and `torch.view_as_complex` end an export. The product of two complex
numbers (a + bi)(cos + i sin) is (a cos - b sin) + i (a sin + b cos), which needs none.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qntz import hookimpl
from qntz.records import Example, ModuleRewrite

if TYPE_CHECKING:
    from torch import nn


@hookimpl
def qntz_module_rewrites() -> Iterator[ModuleRewrite]:
    yield ModuleRewrite(
        name="complex-rotary",
        match=is_complex_rotary,
        apply=in_real_arithmetic,
        tolerance=1e-5,
        examples=(Example(module=a_rotary, shapes=(((2, 3, 5, 8),), ((1, 3, 7, 8),), ((4, 3, 1, 8),))),),
    )


def a_rotary() -> "nn.Module":
    import torch
    from torch import Tensor, nn

    class ComplexRotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("inverse_frequencies", 10.0 ** -torch.arange(4.0))

        def forward(self, x: Tensor) -> Tensor:
            angle = torch.outer(torch.arange(x.shape[2]).float(), self.inverse_frequencies)
            pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)

    return ComplexRotary()


def is_complex_rotary(module: "nn.Module") -> bool:
    """A module of class ComplexRotary that turns pairs of neighbouring features by `inverse_frequencies`, [D / 2]."""
    return type(module).__name__ == "ComplexRotary" and hasattr(module, "inverse_frequencies")


def in_real_arithmetic(module: "nn.Module") -> "nn.Module":
    """The same turn without complex numbers; forward(x: float [N, H, L, D]) returns the same shape and dtype."""
    import torch
    from torch import Tensor, nn

    class RealRotary(nn.Module):
        def __init__(self, inverse_frequencies: Tensor) -> None:
            super().__init__()
            self.register_buffer("inverse_frequencies", inverse_frequencies.clone())

        def forward(self, x: Tensor) -> Tensor:
            position = torch.arange(x.shape[2], device=x.device)
            angle = torch.outer(position.float(), self.inverse_frequencies)
            cos, sin = torch.cos(angle), torch.sin(angle)
            # strided slices, not unflatten: a saved trace has lost the rank that the exporter wants for it
            real, imaginary = x.float()[..., 0::2], x.float()[..., 1::2]
            turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
            return turned.flatten(-2).to(x.dtype)

    return RealRotary(module.inverse_frequencies)
