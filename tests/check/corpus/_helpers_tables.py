"""Tables of positions."""

import torch
from torch import Tensor

from tests.check.corpus import _helpers_transfer


def sinusoid(length: int, dim: int, device: str = "cpu") -> Tensor:
    """The encoding of the Transformer paper; dim must be even."""
    steps = torch.arange(length, dtype=torch.float32, device=device)  # hazard: captured-device [PositionedEncoder]
    rates = steps.new_tensor([10000.0 ** (-2 * i / dim) for i in range(dim // 2)])
    angles = steps.unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def merge_levels(outputs: dict[str, list[Tensor]]) -> Tensor:
    collected = _helpers_transfer.collect(outputs)
    return torch.cat([level.flatten(1) for levels in collected.values() for level in levels], dim=1)
