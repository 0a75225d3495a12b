"""Linear algebra of the cases of operators that ONNX lacks."""

import torch
from torch import Tensor


def whiten(x: Tensor) -> Tensor:
    centered = x - x.mean(dim=0)
    values, vectors = torch.linalg.eigh(centered.t() @ centered)  # hazard: unsupported-onnx-op [Whitening]
    return centered @ vectors * values.clamp(min=1e-3).rsqrt()


def rotate_half_complex(x: Tensor, angles: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())  # hazard: unsupported-onnx-op [ComplexRotary]
    turned = pairs * torch.polar(torch.ones_like(angles), angles)  # hazard: unsupported-onnx-op [ComplexRotary]
    return torch.view_as_real(turned).flatten(-2)  # hazard: unsupported-onnx-op [ComplexRotary]
