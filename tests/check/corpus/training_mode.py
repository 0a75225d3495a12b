"""Models with a submodule, or the whole, left in training mode."""

import torch
from torch import Tensor, nn


class BatchNormAlwaysLive(nn.Module):
    """Test-time adaptation: the statistics are those of the batch, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)  # hazard: training-mode

    def train(self, mode: bool = True) -> "BatchNormAlwaysLive":
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(image)))


class MonteCarloDropout(nn.Module):
    def __init__(self, dim: int = 8, p: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 16)
        self.drop = nn.Dropout(p)  # hazard: training-mode
        self.fc2 = nn.Linear(16, 2)

    def train(self, mode: bool = True) -> "MonteCarloDropout":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.training = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(torch.relu(self.fc1(x))))


class NeverPutInEval(nn.Module):  # hazard: training-mode
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainTrainMode(nn.Module):  # hazard: training-mode
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.drop = nn.Dropout(0.3)  # hazard: training-mode [OneBlockAwake]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.tanh(self.fc(x)))


class OneBlockAwake(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class FineTuned(nn.Module):
    """The head is replaced after .eval(), so that the new one is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.head = nn.Linear(8, 10)

    def replace_head(self, classes: int) -> None:
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, classes))  # hazard: training-mode

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.trunk(x)))


class HiddenInList(nn.Module):
    """A plain list keeps the layer from .eval()."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self._regularizers = [nn.Dropout(0.4)]  # hazard: training-mode

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        for layer in self._regularizers:
            h = layer(h)
        return h


class _ShallowEval(nn.Module):
    def eval(self) -> "_ShallowEval":
        self.training = False
        return self


class OwnEval(_ShallowEval):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.drop = nn.Dropout1d(0.2)  # hazard: training-mode
        self.norm = nn.BatchNorm1d(6)  # hazard: training-mode

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.drop(self.embed(ids).transpose(1, 2)))


class RecurrentDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 5, num_layers=2, dropout=0.3, batch_first=True)  # hazard: training-mode

    def eval(self) -> "RecurrentDropout":
        super().eval()
        self.rnn.train()  # cudnn wants it for the gradient of the saliency map
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0].mean(dim=1)


class TeacherStudent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleDict()
        self.nets["teacher"] = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
        self.nets["student"] = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))  # hazard: training-mode

    def forward(self, x: Tensor) -> Tensor:
        return self.nets["teacher"](x) - self.nets["student"](x)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    one_awake = OneBlockAwake().eval()
    one_awake.blocks[1].drop.train()
    tuned = FineTuned().eval()
    tuned.replace_head(3)
    pair = TeacherStudent().eval()
    pair.nets["student"].train()
    return {
        "BatchNormAlwaysLive": (
            BatchNormAlwaysLive().eval(),
            {"image": torch.randn(2, 3, 6, 6)},
            [{"image": torch.randn(3, 3, 6, 6)}, {"image": torch.randn(2, 3, 5, 8)}],
        ),
        "MonteCarloDropout": (
            MonteCarloDropout().eval(),
            {"x": torch.randn(4, 8)},
            [{"x": torch.randn(3, 8)}, {"x": torch.randn(6, 8)}],
        ),
        "NeverPutInEval": (
            NeverPutInEval(),
            {"x": torch.randn(4, 6)},
            [{"x": torch.randn(3, 6)}, {"x": torch.randn(6, 6)}],
        ),
        "PlainTrainMode": (
            PlainTrainMode().train(),
            {"tokens": torch.randn(2, 4, 8)},
            [{"tokens": torch.randn(3, 4, 8)}, {"tokens": torch.randn(2, 6, 8)}],
        ),
        "OneBlockAwake": (
            one_awake,
            {"x": torch.randn(4, 6)},
            [{"x": torch.randn(3, 6)}, {"x": torch.randn(5, 6)}],
        ),
        "FineTuned": (
            tuned,
            {"x": torch.randn(4, 6)},
            [{"x": torch.randn(3, 6)}, {"x": torch.randn(5, 6)}],
        ),
        "HiddenInList": (
            HiddenInList().eval(),
            {"x": torch.randn(4, 6)},
            [{"x": torch.randn(3, 6)}, {"x": torch.randn(5, 6)}],
        ),
        "OwnEval": (
            OwnEval().eval(),
            {"ids": torch.randint(0, 10, (2, 5))},
            [{"ids": torch.randint(0, 10, (3, 5))}, {"ids": torch.randint(0, 10, (2, 7))}],
        ),
        "RecurrentDropout": (
            RecurrentDropout().eval(),
            {"x": torch.randn(2, 5, 4)},
            [{"x": torch.randn(3, 5, 4)}, {"x": torch.randn(2, 7, 4)}],
        ),
        "TeacherStudent": (
            pair,
            {"x": torch.randn(4, 6)},
            [{"x": torch.randn(3, 6)}, {"x": torch.randn(5, 6)}],
        ),
    }
