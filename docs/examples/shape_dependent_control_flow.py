import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    """The mean of all steps so far, for each step."""

    def forward(self, x: Tensor) -> Tensor:
        means = [x[:, : step + 1].mean(dim=1) for step in range(x.shape[1])]  # wrong
        return torch.stack(means, dim=1)


class Right(nn.Module):
    """The mean of all steps so far, for each step."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(dim=1) / torch.ones_like(x).cumsum(dim=1)


EXAMPLE: dict[str, Tensor] = {"x": torch.rand(2, 5, 3)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.rand(2, 5, 3)}, {"x": torch.rand(3, 8, 3)}]
