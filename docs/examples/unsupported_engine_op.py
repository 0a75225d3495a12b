import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    """How much a batch of 2x2 maps enlarges an area."""

    def forward(self, matrix: Tensor) -> Tensor:
        return torch.linalg.det(matrix).abs()  # wrong


class Right(nn.Module):
    """How much a batch of 2x2 maps enlarges an area."""

    def forward(self, matrix: Tensor) -> Tensor:
        main = matrix[:, 0, 0] * matrix[:, 1, 1]
        return (main - matrix[:, 0, 1] * matrix[:, 1, 0]).abs()


EXAMPLE: dict[str, Tensor] = {"matrix": torch.randn(3, 2, 2)}
PROBES: list[dict[str, Tensor]] = [{"matrix": torch.randn(3, 2, 2)}, {"matrix": torch.randn(5, 2, 2)}]
