"""Small nets, trained on the digits at 32 by 32, and made hard to quantize without a change of what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.digits.model import DigitsNet

DATA = Path("examples/digits/data")
SIZE = 32
FACTOR = 50.0  # of the channels that are made large, or their shift


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: float [N, L, width], to the same."""
        n, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(n, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weight = torch.softmax(query @ key.transpose(2, 3) * (width // self.heads) ** -0.5, -1)
        return self.output((weight @ value).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class SmallViT(nn.Module):
    """A vision transformer on patches of 8 by 8."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 8, stride=8)
        self.position = nn.Parameter(torch.randn(1, (SIZE // 8) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 [N, 1, 32, 32], -1..1. Returns logits float32 [N, 10]."""
        x = self.embed(image).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


NETS = {"conv": DigitsNet, "vit": SmallViT}
EPOCHS = {"conv": 15, "vit": 60}


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of "train" or "test", float32 [n, 1, 32, 32], -1..1, and their classes, int64 [n]."""
    with np.load(DATA / f"{part}.npz", allow_pickle=False) as arrays:
        image = torch.from_numpy(arrays["image"])
        large = F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        return (2 * large - 1).numpy(), arrays["target"].astype(np.int64)


def trained(name: str, seed: int = 0) -> nn.Module:
    """One of NETS, trained on the CPU, on images moved by up to two pixels."""
    torch.manual_seed(seed)
    images, targets = (torch.from_numpy(array) for array in digits("train"))
    net = NETS[name]()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=EPOCHS[name] * batches)
    net.train()
    for _ in range(EPOCHS[name]):
        for chosen in torch.randperm(len(images)).split(64):
            moved = F.pad(images[chosen], (2, 2, 2, 2), value=-1.0)
            down, right = torch.randint(0, 5, (2,)).tolist()
            given = net(moved[:, :, down : down + SIZE, right : right + SIZE])
            loss = F.cross_entropy(given, targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def hardened(name: str, net: nn.Module) -> dict[str, list[int]]:
    """Makes channels 50 times as large, and what reads them 50 times as small, in place; the channels by module."""
    random = np.random.RandomState(3)
    made: dict[str, list[int]] = {}

    def enlarge(place: str, writers: list[nn.Module], readers: list[nn.Module], count: int) -> None:
        size = writers[0].weight.shape[0]
        chosen = np.sort(random.choice(size, count, replace=False))
        for writer in writers:
            writer.weight[chosen] *= FACTOR
            if writer.bias is not None:
                writer.bias[chosen] *= FACTOR
        for reader in readers:
            reader.weight[:, chosen] /= FACTOR
        made[place] = chosen.tolist()

    for index, block in enumerate(net.blocks):
        where = f"blocks.{index}"
        if name == "conv":
            enlarge(f"{where}.norm1", [block.norm1], [block.conv2], 3)
            continue
        attention = block.attention
        enlarge(f"{where}.norm1", [block.norm1], [attention.query, attention.key, attention.value], 2)
        enlarge(f"{where}.norm2", [block.norm2], [block.widen], 2)
        enlarge(f"{where}.attention.value", [attention.value], [attention.output], 2)
    return made


@torch.no_grad()
def shifted(name: str, net: nn.Module) -> dict[str, list[int]] | None:
    """Moves channels by 50, and the biases of what reads them back, in place; the channels by module. No factor undoes
    that: the channel is as large as before in its own units. None for a convolution, whose padding is not moved."""
    if name == "conv":
        return None
    random = np.random.RandomState(3)
    made: dict[str, list[int]] = {}
    for index, block in enumerate(net.blocks):
        attention = block.attention
        for place, writer, readers in (
            (f"blocks.{index}.norm1", block.norm1, [attention.query, attention.key, attention.value]),
            (f"blocks.{index}.norm2", block.norm2, [block.widen]),
        ):
            chosen = np.sort(random.choice(len(writer.bias), 2, replace=False))
            writer.bias[chosen] += FACTOR
            for reader in readers:
                reader.bias -= FACTOR * reader.weight[:, chosen].sum(1)
            made[place] = chosen.tolist()
    return made


KINDS = {"easy": lambda name, net: {}, "hard": hardened, "shifted": shifted}
