"""Models for the routes, in a file of their own with a helper beside it: TorchScript reads their source."""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests.torchscript._routed_helpers import halved, scale_for


class Linear(nn.Module):
    """Every route is right; the first is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class Gate(nn.Module):
    """A branch that the trace of one input freezes."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.mean() > 0):
            return x * 2
        return x - 1


class Unscriptable(nn.Module):
    """What TorchScript refuses: keyword arguments collected by name."""

    def forward(self, x: Tensor, **kwargs: float) -> Tensor:
        return x + sum(kwargs.values())


class GateWithin(nn.Module):
    """One submodule has to be scripted, another cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.gate = Unscriptable(), Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.before(x)) + 1


class GateAtTheTop(nn.Module):
    """The model's own forward has to be scripted, what it holds cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Unscriptable()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if bool(y.sum() > 0):
            y = y * 3
        return y


class HelperWithin(nn.Module):
    """A function two files away has to be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.before = Unscriptable()

    def forward(self, x: Tensor) -> Tensor:
        return halved(self.before(x))


class Scaled(nn.Module):
    """The helper gives a Python number, which no trace can take from a script."""

    def forward(self, x: Tensor) -> Tensor:
        return x * scale_for(x.shape[1])


class Everywhere(nn.Module):
    """All of it leaks and compiles: the script of the whole."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.shape[1])
        for row in x:
            if bool(row.sum() > 0):
                total = total + row
        return total


class Area(nn.Module):
    """Only the exporter of torch.export translates it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.trapezoid(x)


class EvenRows(nn.Module):
    """torch.export decides by the example's size, and says for which sizes that holds."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + torch.trapezoid(x).sum()
        return y * 2 if len(x) % 2 == 0 else y


class Rare(nn.Module):
    """Right on the given inputs by every route that freezes, and wrong on negative ones."""

    def __init__(self) -> None:
        super().__init__()
        self.known = {"up": 2.0, "down": -5.0}  # a dict that TorchScript cannot look a computed name up in

    def forward(self, x: Tensor) -> Tensor:
        name = "".join(["up" if math.isfinite(float(x.sum())) and float(x.sum()) > 0 else "down"])
        return x * self.known[name]


class Crashes(nn.Module):
    """The compiler follows the attribute for ever, and takes its process with it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    @property
    def shape_of(self) -> int:
        os._exit(7)

    def forward(self, x: Tensor) -> Tensor:
        return torch.trapezoid(x) if self.ended == 0 else x


class Hangs(nn.Module):
    @property
    def depth(self) -> int:
        time.sleep(60)
        return 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.trapezoid(x)


class Pair(NamedTuple):
    mean: Tensor
    parts: list[Tensor]


class Many(nn.Module):
    """Keyword inputs, an optional one between, and nested outputs."""

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, *, scale: Tensor
    ) -> dict[str, Pair]:
        y = x * scale
        if mask is not None:
            y = y * mask
        if bias is not None:
            y = y + bias
        return {"out": Pair(y.mean(0), [y, y.sum(1)])}


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(x))


class EarlyExit(nn.Module):
    """A loop that is left early, over modules, which TorchScript refuses; and a size that decides."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise ValueError("not finite")
        for block in self.blocks:
            x = block(x)
            if x.abs().mean().item() < 0.5:
                break
        return x if len(x) > 3 else -x


class Arithmetic(nn.Module):
    """Numbers go out of torch, and come back."""

    def forward(self, x: Tensor) -> Tensor:
        peak = max(float(x.max()), 0.1)
        count = int(x.abs().sum()) // 2
        rows = np.tanh(x.detach().numpy()).sum(axis=1)
        return x * math.sqrt(peak) + torch.tensor([peak, count]).sum() + torch.from_numpy(rows)[:, None]


class Collatz(nn.Module):
    """Too many ways."""

    def forward(self, x: Tensor) -> Tensor:
        n = int(x.abs().sum() * 100) + 1
        steps = [n := (n // 2 if n % 2 == 0 else 3 * n + 1) for _ in range(40)]
        return x * steps[-1]
