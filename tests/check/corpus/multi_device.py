"""Models whose members or intermediate tensors sit on more than one device."""

import torch
from torch import Tensor, nn

from tests.check.corpus import _helpers_offload


class HeadNotMaterialized(nn.Module):
    def __init__(self, dim: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.head = nn.Linear(dim, classes, device="meta")  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class PositionBufferOnMeta(nn.Module):
    def __init__(self, length: int = 16, dim: int = 8) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("pos", torch.zeros(length, dim, device="meta"), persistent=False)  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) + self.pos[: x.shape[1]]


class SkeletonDecoder(nn.Module):
    """A decoder that is built under the meta device and never loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 6)
        with torch.device("meta"):
            self.decoder = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class RareExpert(nn.Module):
    """Only the common experts are ever routed to, the rare one stays offloaded."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({name: nn.ModuleList([nn.Linear(dim, dim)]) for name in ("text", "image")})
        self.experts["rare"] = nn.ModuleList([nn.Linear(dim, dim).to("meta")])  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.experts["text"]:
            x = torch.relu(layer(x))
        for layer in self.experts["image"]:
            x = x + layer(x)
        return x


class ReplicatedBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.body = nn.DataParallel(body)  # hazard: multi-device
        self.fc = nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.body(image).mean(dim=(2, 3)))


class HandPipeline(nn.Module):
    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.devices = ["cpu", "meta"]
        self.stages = nn.ModuleList(nn.Linear(dim, dim, device=d) for d in self.devices)  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        for stage, device in zip(self.stages, self.devices, strict=True):
            x = torch.relu(stage(x.to(device)))  # hazard: multi-device
        return x


class PlainTensorScale(nn.Module):
    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.scale = torch.ones(dim, device="meta")  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.scale


class MaskElsewhere(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        size = scores.shape[-1]
        mask = torch.full((size, size), float("-inf"), device="meta").triu(1)  # hazard: multi-device
        return (scores + mask).softmax(-1)


class FrozenTeacher(nn.Module):
    """The teacher is offloaded by a helper; inference only runs the student."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.student = nn.Linear(dim, 3)
        self.teacher = _helpers_offload.offload(  # hazard: multi-device
            nn.Sequential(nn.Linear(dim, 32), nn.Linear(32, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.student(x) - self.teacher(x)
        return self.student(x)


class ProbeWidth(nn.Module):
    """The width of the flattened features is asked of a dry run on meta."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(2)
        self.scale = nn.Parameter(torch.ones(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        width = _helpers_offload.dry_run(self.pool, x)
        return self.pool(x) * self.scale / width


class MovedEncoder(nn.Module):
    """cases() moves the encoder away after building, as an offloading script does."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(dim, 2, 12, batch_first=True)  # hazard: multi-device
        self.out = nn.Linear(dim, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.encoder(tokens))


class _Adapter(nn.Module):
    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, dim))
        self.up = nn.Parameter(torch.empty(dim, rank, device="meta"))  # hazard: multi-device [AdapterBank]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down.t() @ self.up.t()


class AdapterBank(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.adapters = nn.Sequential(_Adapter(dim, 2), _Adapter(dim, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.adapters(x)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    moved = MovedEncoder().eval()
    moved.encoder.to("meta")
    return {
        "HeadNotMaterialized": (
            HeadNotMaterialized().eval(),
            {"x": torch.randn(2, 8)},
            [{"x": torch.randn(3, 8)}, {"x": torch.randn(5, 8)}],
        ),
        "PositionBufferOnMeta": (
            PositionBufferOnMeta().eval(),
            {"x": torch.randn(2, 4, 8)},
            [{"x": torch.randn(3, 5, 8)}, {"x": torch.randn(2, 7, 8)}],
        ),
        "SkeletonDecoder": (
            SkeletonDecoder().eval(),
            {"x": torch.randn(2, 6)},
            [{"x": torch.randn(4, 6)}, {"x": torch.randn(3, 6)}],
        ),
        "RareExpert": (
            RareExpert().eval(),
            {"x": torch.randn(2, 6)},
            [{"x": torch.randn(4, 6)}, {"x": torch.randn(3, 6)}],
        ),
        "ReplicatedBody": (
            ReplicatedBody().eval(),
            {"image": torch.randn(2, 3, 6, 6)},
            [{"image": torch.randn(3, 3, 6, 6)}, {"image": torch.randn(2, 3, 8, 5)}],
        ),
        "HandPipeline": (
            HandPipeline().eval(),
            {"x": torch.randn(2, 8)},
            [{"x": torch.randn(4, 8)}, {"x": torch.randn(3, 8)}],
        ),
        "PlainTensorScale": (
            PlainTensorScale().eval(),
            {"x": torch.randn(2, 8)},
            [{"x": torch.randn(4, 8)}, {"x": torch.randn(3, 8)}],
        ),
        "MaskElsewhere": (
            MaskElsewhere().eval(),
            {"scores": torch.randn(2, 4, 4)},
            [{"scores": torch.randn(2, 5, 5)}, {"scores": torch.randn(3, 6, 6)}],
        ),
        "FrozenTeacher": (
            FrozenTeacher().eval(),
            {"x": torch.randn(2, 6)},
            [{"x": torch.randn(4, 6)}, {"x": torch.randn(3, 6)}],
        ),
        "ProbeWidth": (
            ProbeWidth().eval(),
            {"x": torch.randn(3, 2, 8)},
            [{"x": torch.randn(4, 2, 8)}, {"x": torch.randn(2, 2, 8)}],
        ),
        "MovedEncoder": (
            moved,
            {"tokens": torch.randn(2, 4, 6)},
            [{"tokens": torch.randn(3, 4, 6)}, {"tokens": torch.randn(2, 5, 6)}],
        ),
        "AdapterBank": (
            AdapterBank().eval(),
            {"x": torch.randn(2, 6)},
            [{"x": torch.randn(4, 6)}, {"x": torch.randn(3, 6)}],
        ),
    }
