"""Good models of images: fixed windows and patches, grids from sizes, boxes and key points kept as tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class TinyViT(nn.Module):
    def __init__(self, image: int = 8, patch: int = 4, dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.image, self.patch, self.heads = image, patch, heads
        tokens = (image // patch) ** 2
        self.embed = nn.Linear(3 * patch * patch, dim)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.pos = nn.Parameter(torch.randn(1, tokens + 1, dim))
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)

    def patchify(self, x: Tensor) -> Tensor:
        p, g = self.patch, self.image // self.patch
        x = x.reshape(x.shape[0], 3, g, p, g, p)
        return torch.einsum("nchpwq->nhwpqc", x).reshape(x.shape[0], g * g, p * p * 3)

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 4, f"images of N, C, H, W, not {x.ndim} dimensions"
        x = self.embed(self.patchify(x))
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.pos
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attn = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return (x + (attn @ v).transpose(1, 2).reshape(b, n, c))[:, 0]


class ShiftedWindows(nn.Module):
    """Swin's attention over windows of a fixed map: index and mask are tables, made when the model is built."""

    def __init__(self, side: int = 8, window: int = 4, dim: int = 8, shift: int = 2) -> None:
        super().__init__()
        self.side, self.window, self.dim, self.shift = side, window, dim, shift
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.bias = nn.Parameter(torch.randn((2 * window - 1) ** 2))
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("index", apart[0] * (2 * window - 1) + apart[1], persistent=False)
        region = torch.zeros(1, side, side, 1)
        for i, rows in enumerate((slice(0, -window), slice(-window, -shift), slice(-shift, None))):
            for j, columns in enumerate((slice(0, -window), slice(-window, -shift), slice(-shift, None))):
                region[:, rows, columns] = 3 * i + j
        region = self.partition(region).squeeze(-1)
        self.register_buffer("mask", (region[:, None, :] != region[:, :, None]).float() * -100.0, persistent=False)

    def partition(self, x: Tensor) -> Tensor:
        w, g, c = self.window, self.side // self.window, x.shape[-1]
        return x.view(-1, g, w, g, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)

    def forward(self, x: Tensor) -> Tensor:
        w, g = self.window, self.side // self.window
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        q, k, v = self.qkv(self.partition(x)).chunk(3, dim=-1)
        attn = q @ k.transpose(1, 2) / self.dim**0.5 + self.bias[self.index.view(-1)].view(w * w, w * w)
        attn = (attn.view(-1, g * g, w * w, w * w) + self.mask).view(-1, w * w, w * w)
        x = (attn.softmax(-1) @ v).view(-1, g, g, w, w, self.dim).permute(0, 1, 3, 2, 4, 5)
        return torch.roll(x.reshape(-1, self.side, self.side, self.dim), (self.shift, self.shift), (1, 2))


class SqueezeExcite(nn.Module):
    """EfficientNet's block; stochastic depth and its random numbers belong to training."""

    def __init__(self, channels: int = 8, reduction: int = 4, drop_path: float = 0.2) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.expand = nn.Conv2d(channels // reduction, channels, 1)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        out = F.hardswish(self.bn(self.depthwise(x)))
        gate = self.expand(F.relu(self.reduce(out.mean(dim=(2, 3), keepdim=True))))
        out = out * F.hardsigmoid(gate)
        if self.training and self.drop_path > 0.0:
            keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) > self.drop_path
            out = out * keep / (1.0 - self.drop_path)
        return x + out


class UpDown(nn.Module):
    """U-Net on sides that are multiples of four."""

    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width << i, width << i + 1, 3, 2, 1) for i in range(depth))
        self.up = nn.ModuleList(nn.Conv2d(3 * (width << i), width << i, 3, padding=1) for i in reversed(range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips: list[Tensor] = []
        for layer in self.down:
            skips.append(x)
            x = F.leaky_relu(layer(x), 0.1)
        for layer, skip in zip(self.up, skips[::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu(layer(torch.cat([x, skip], dim=1)), 0.1)
        return x


class BoxDecoder(nn.Module):
    """FCOS's head: the grid follows the map's size, the best boxes are taken with topk and gather."""

    def __init__(self, channels: int = 4, classes: int = 3, stride: int = 8, keep: int = 5) -> None:
        super().__init__()
        self.cls = nn.Conv2d(channels, classes, 3, padding=1)
        self.reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.stride, self.keep = stride, keep

    def forward(self, feats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, w = feats.shape[-2:]
        ys, xs = torch.meshgrid(
            torch.arange(h, device=feats.device), torch.arange(w, device=feats.device), indexing="ij"
        )
        centres = (torch.stack((xs, ys), dim=-1).reshape(1, -1, 2).to(feats.dtype) + 0.5) * self.stride
        left_top, right_bottom = (self.reg(feats).exp() * self.stride).flatten(2).transpose(1, 2).split(2, dim=-1)
        boxes = torch.cat((centres - left_top, centres + right_bottom), dim=-1).clamp(min=0.0)
        scores, labels = self.cls(feats).sigmoid().flatten(2).max(dim=1)
        scores, order = scores.topk(self.keep, dim=1)
        return boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)), scores, labels.gather(1, order)


class KeypointHead(nn.Module):
    """The peak of each heat map, refined by the offset found at the peak; nothing leaves the tensor."""

    def __init__(self, channels: int = 4, points: int = 3) -> None:
        super().__init__()
        self.points = points
        self.heat = nn.Conv2d(channels, points, 1)
        self.offset = nn.Conv2d(channels, 2 * points, 1)

    def forward(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        n, _, _, w = feats.shape
        heat = self.heat(feats).flatten(2)
        score, peak = heat.sigmoid().max(dim=-1)
        x, y = peak % w, torch.div(peak, w, rounding_mode="floor")
        offsets = self.offset(feats).view(n, self.points, 2, -1)
        fine = offsets.gather(-1, peak[:, :, None, None].expand(-1, -1, 2, 1)).squeeze(-1)
        at = torch.stack((x, y), dim=-1).float() + fine.tanh() * 0.5
        return torch.where((score > 0.5).unsqueeze(-1), at, torch.full_like(at, -1.0)), score


class FakeQuantConv(nn.Module):
    """Weights and activations on an int8 grid, held in float32, as in training that is aware of quantization."""

    QMIN, QMAX = -128, 127

    def __init__(self, cin: int = 3, cout: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1)
        self.register_buffer("scale", torch.tensor(0.05))
        self.register_buffer("zero_point", torch.tensor(3.0))

    def quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor | float = 0.0) -> Tensor:
        q = torch.clamp(torch.round(x / scale + zero_point), self.QMIN, self.QMAX)
        return (q - zero_point) * scale

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        per_channel = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True) / self.QMAX
        x = self.quantize(x, self.scale, self.zero_point)
        return F.conv2d(x, self.quantize(weight, per_channel), self.conv.bias, padding=self.conv.padding)


class SubPixelUpscaler(nn.Module):
    def __init__(self, factor: int = 2, width: int = 6) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.focus = nn.Conv2d(12, width, 3)
        self.act = nn.PReLU(width)
        self.tail = nn.Conv2d(width, 3 * (2 * factor) ** 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = image - self.mean
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], dim=1)
        x = self.act(self.focus(F.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = F.pixel_shuffle(self.tail(F.pad(x, [1] * 4, value=0.0)), 2 * self.factor)
        return (x + self.mean).clamp(0.0, 1.0)


class GroupedBottleneck(nn.Module):
    """ResNeXt's block with a weight norm, channel shuffle, BatchNorm and Dropout in eval mode."""

    def __init__(self, channels: int = 8, groups: int = 4, project: bool = False) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups
        self.conv = parametrizations.weight_norm(nn.Conv2d(channels, channels, 3, padding=1, groups=groups))
        self.bn = nn.BatchNorm2d(channels, momentum=0.01)
        self.drop = nn.Dropout2d(0.3)
        self.short = nn.Conv2d(channels, channels, 1) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.size()
        if c != self.channels:
            raise ValueError(f"{self.channels} channels expected")
        y = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.drop(self.bn(self.conv(y)))
        return F.relu(y + self.short(x), inplace=True).mean(dim=[2, 3]).view(x.shape[0], -1)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(name: str, *shapes: tuple[int, ...]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        example, *probes = ({name: torch.randn(shape)} for shape in shapes)
        return example, probes

    found = {
        "TinyViT": (TinyViT(), *sized("x", (2, 3, 8, 8), (3, 3, 8, 8), (5, 3, 8, 8))),
        "ShiftedWindows": (ShiftedWindows(), *sized("x", (2, 8, 8, 8), (3, 8, 8, 8), (4, 8, 8, 8))),
        "SqueezeExcite": (SqueezeExcite(), *sized("x", (2, 8, 6, 6), (3, 8, 5, 7), (4, 8, 9, 4))),
        "UpDown": (UpDown(), *sized("x", (2, 3, 8, 8), (3, 3, 12, 8), (2, 3, 16, 20))),
        "BoxDecoder": (BoxDecoder(), *sized("feats", (2, 4, 4, 5), (3, 4, 6, 3), (2, 4, 5, 7))),
        "KeypointHead": (KeypointHead(), *sized("feats", (2, 4, 5, 6), (3, 4, 7, 4), (4, 4, 3, 8))),
        "FakeQuantConv": (FakeQuantConv(), *sized("x", (2, 3, 5, 5), (3, 3, 6, 4), (2, 3, 7, 7))),
        "SubPixelUpscaler": (SubPixelUpscaler(), *sized("image", (2, 3, 8, 8), (3, 3, 6, 10), (2, 3, 12, 8))),
        "GroupedBottleneck": (GroupedBottleneck(), *sized("x", (2, 8, 5, 5), (3, 8, 6, 4), (4, 8, 3, 7))),
    }
    for model, _, _ in found.values():
        model.eval()
    return found
