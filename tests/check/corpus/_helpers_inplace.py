"""Preprocessing helpers of the in-place cases."""

import torch
from torch import Tensor


def normalize_(image: Tensor, mean: float, std: float) -> Tensor:
    return image.sub_(mean).div_(std)  # hazard: inplace-on-input [NormalizedImage]


def add_special(ids: Tensor, bos: int) -> Tensor:
    first = ids.narrow(1, 0, 1)
    first.fill_(bos)  # hazard: inplace-on-input [ForcedBos]
    return ids


class ClipOutliers:
    def __init__(self, bound: float) -> None:
        self.bound = bound

    def __call__(self, x: Tensor) -> Tensor:
        torch.clamp(x, -self.bound, self.bound, out=x)  # hazard: inplace-on-input, unsupported-onnx-op [CallableClip]
        return x
