"""Models with statements of Python that TorchScript does not take."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class TryExcept(nn.Module):
    """The bias is optional, and its absence is found out the hard way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4, bias=False)
        self.gain = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        try:  # hazard: unsupported-python
            return y * self.gain + self.fc.bias
        except TypeError:
            return y * self.gain


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def windows(self, x: Tensor) -> Iterator[Tensor]:
        for start in range(x.shape[-1] - 2):
            yield x[..., start : start + 3]  # hazard: unsupported-python

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(window) for window in self.windows(x)], dim=1)


class SetOfSizes(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        sizes = {a.shape[0], b.shape[0]}  # hazard: unsupported-python
        return a + b if len(sizes) == 1 else a


class SetComprehension(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        widths = {part.shape[-1] for part in x.chunk(2, dim=-1)}  # hazard: unsupported-python
        return x / len(widths)


class WalrusResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if (hidden := self.fc(x)).shape[-1] == x.shape[-1]:  # hazard: unsupported-python
            hidden = hidden + x
        return hidden


class NestedFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        def split(t: Tensor) -> Tensor:  # hazard: unsupported-python
            return t.view(t.shape[0], 2, 2)

        return split(self.query(x)) @ split(self.key(x))


class LocalClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        class Output(NamedTuple):  # hazard: unsupported-python
            mean: Tensor
            raw: Tensor

        out = Output(self.fc(x), x)
        return out.mean - out.raw


class StarredAssignment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        *batch, dim = x.shape  # hazard: unsupported-python
        for layer in self.layers:
            x = layer(x)
        return x.view(-1, dim) / len(batch)


class ComputedAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i in range(3):
            setattr(self, f"layer{i}", nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            x = torch.relu(getattr(self, f"layer{i}")(x))  # hazard: unsupported-python
        return x


class ForElse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):  # hazard: unsupported-python
            x = self.fc(x)
        else:
            x = torch.relu(x)
        return x


class FormatSpec(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 4:
            raise ValueError(f"expected 4 features, got {x.shape[-1]:>4d}")  # hazard: unsupported-python
        return self.fc(x)


class LambdaInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        norm = lambda t: t / t.norm(dim=-1, keepdim=True)  # noqa: E731  # hazard: unsupported-python
        return self.fc(norm(x))


class DeletedAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.hidden = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.fc(x)
        y = self.hidden.relu()
        del self.hidden  # hazard: unsupported-python
        return y


class StarArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.similarity = nn.CosineSimilarity(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        options = {"dim": -1, "keepdim": True}
        return self.similarity(*x.split(3, dim=-1)).unsqueeze(-1) - x.mean(**options)  # hazard: unsupported-python


class TwoGenerators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.fc(a * b) for a in x.chunk(2, dim=-1) for b in x.chunk(2, dim=-1)]  # hazard: unsupported-python
        return torch.stack(rows)


class VariableKeywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, **options: Tensor) -> Tensor:  # hazard: unsupported-python
        y = self.fc(x)
        return y * options["gain"] if "gain" in options else y


class MatchOnRank(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        match x.dim():  # hazard: unsupported-python
            case 2:
                return x[:, None]
            case 3:
                return x.flatten(0, 1)
        return x


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(
        module: nn.Module, **tails: tuple[int, ...]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        inputs = [{name: torch.randn(n, *tail) for name, tail in tails.items()} for n in (4, 3, 5)]
        return module.eval(), inputs[0], inputs[1:]

    return {
        "TryExcept": sized(TryExcept(), x=(4,)),
        "Windows": sized(Windows(), x=(6,)),
        "SetOfSizes": sized(SetOfSizes(), a=(4,), b=(4,)),
        "SetComprehension": sized(SetComprehension(), x=(4,)),
        "WalrusResidual": sized(WalrusResidual(), x=(4,)),
        "NestedFunction": sized(NestedFunction(), x=(4,)),
        "LocalClass": sized(LocalClass(), x=(4,)),
        "StarredAssignment": sized(StarredAssignment(), x=(3, 4)),
        "ComputedAttribute": sized(ComputedAttribute(), x=(4,)),
        "ForElse": sized(ForElse(), x=(4,)),
        "FormatSpec": sized(FormatSpec(), x=(4,)),
        "LambdaInForward": sized(LambdaInForward(), x=(4,)),
        "DeletedAttribute": sized(DeletedAttribute(), x=(4,)),
        "StarArguments": sized(StarArguments(), x=(6,)),
        "TwoGenerators": sized(TwoGenerators(), x=(4,)),
        "VariableKeywords": sized(VariableKeywords(), x=(4,)),
        "MatchOnRank": sized(MatchOnRank(), x=(4,)),
    }
