"""Good models by Python's idioms: partials, properties, closures, decorators, logging, tries, writes on own tensors."""

from __future__ import annotations

import functools
import logging
import operator
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from torch.nn.functional import scaled_dot_product_attention as fused_attention
except ImportError:
    fused_attention = None

log = logging.getLogger(__name__)

EPS = 1e-5
FILL = -1
GAINS = (0.299, 0.587, 0.114)
DTYPE = torch.float32
IMPLS: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "square": torch.square}


class PartialActs(nn.Module):
    """Torch's functions with options bound to them, composed in order."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        acts = [functools.partial(F.gelu, approximate="tanh"), functools.partial(torch.clamp, min=-1.0, max=1.0)]
        self.act = functools.reduce(lambda f, g: lambda x: g(f(x)), acts)
        self.layers = nn.ModuleList(map(functools.partial(nn.Linear, dim), (dim, dim, 3)))
        self.impl = IMPLS["square"]

    def forward(self, x: Tensor) -> Tensor:
        *body, last = self.layers
        out = functools.reduce(lambda h, layer: self.act(layer(h)), body, x)
        return last(self.impl(out))


class LearnedScale(nn.Module):
    """CLIP's temperature and a covariance by its factor: properties that compute from the parameters."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.log_temperature = nn.Parameter(torch.tensor(0.7))
        self.raw = nn.Parameter(torch.randn(dim, dim))

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(max=100.0)

    @property
    def factor(self) -> Tensor:
        low = self.raw.tril(-1)
        return low + torch.eye(self.dim, device=low.device) * F.softplus(self.raw)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        image, text = (F.normalize(x @ self.factor, dim=-1) for x in (image, text))
        return self.temperature * image @ text.t()


def make_norm(kind: str, groups: int, eps: float = EPS) -> Callable[[Tensor], Tensor]:
    """A function of the map alone, closed over the config."""
    count = 0
    if kind == "group":
        count = groups

    def norm(x: Tensor) -> Tensor:
        if not count:
            return x
        n, c = x.shape[:2]
        split = x.reshape(n, count, -1)
        mean, var = split.mean(-1, keepdim=True), split.var(-1, unbiased=False, keepdim=True)
        return ((split - mean) / torch.sqrt(var + eps)).reshape(n, c, *x.shape[2:])

    return norm


class ClosedOver(nn.Module):
    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = make_norm("group", groups=channels // 2)
        self.act = lambda x, slope=0.2: torch.where(x > 0, x, slope * x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def traced(label: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Logs a constant and forwards."""

    def wrap(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(function)
        def inner(*args: object, **kwargs: object) -> Tensor:
            log.debug("enter %s", label)
            try:
                return function(*args, **kwargs)
            finally:
                log.debug("leave %s", label)

        return inner

    return wrap


class Decorated(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.inner, self.outer = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    @staticmethod
    def glu(x: Tensor, *, dim: int = -1) -> Tensor:
        value, gate = x.chunk(2, dim=dim)
        return value * gate.sigmoid()

    @traced("Decorated.forward")
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.dim:
            raise ValueError(f"the last dimension must be {self.dim}")
        if not isinstance(x, Tensor) or not x.is_floating_point():
            warnings.warn("not a tensor of floats: try x.float() or torch.from_numpy(x)", stacklevel=2)
        return self.outer(self.glu(self.inner(x)))


class FusedOrPlain(nn.Module):
    """Attention by the fused function where this torch has it."""

    def __init__(self, dim: int = 6, heads: int = 2) -> None:
        super().__init__()
        if fused_attention is None:
            warnings.warn("no fused attention in this torch", stacklevel=2)
        self.heads = heads
        self.proj = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("q", "k", "v")})

    def plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / q.size(-1) ** 0.5).softmax(dim=-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        split = [p(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for p in self.proj.values()]
        attend = self.plain if fused_attention is None else fused_attention
        return attend(*split).transpose(1, 2).flatten(2)


class TemporalShift(nn.Module):
    """TSM: the writes are on a tensor that forward has made, the clone is the model's own."""

    def __init__(self, channels: int = 8, part: int = 4) -> None:
        super().__init__()
        self.fold = channels // part
        self.mix = nn.Linear(channels, channels)

    def forward(self, clip: Tensor) -> Tensor:
        out = torch.zeros_like(clip)
        out[:, :-1, : self.fold] = clip[:, 1:, : self.fold]
        out[:, 1:, self.fold : 2 * self.fold] = clip[:, :-1, self.fold : 2 * self.fold]
        out[:, :, 2 * self.fold :] = clip[:, :, 2 * self.fold :]
        x = clip.clone()
        x += self.mix(out)
        x[:, 0] = 0.5 * x[:, 0]
        return x.mul_(2.0).clamp_(min=FILL)


class WithConstants(nn.Module):
    """Constants of the module's file: floats of Python, tuples and a dtype."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(2, classes)
        self.register_buffer("blank", torch.full((1, 1), float(FILL), dtype=DTYPE))

    def forward(self, image: Tensor) -> Tensor:
        red, green, blue = image.to(DTYPE).unbind(dim=1)
        grey = sum(gain * plane for gain, plane in zip(GAINS, (red, green, blue), strict=True))
        std, mean = torch.std_mean(grey.flatten(1), dim=1)
        stats = torch.stack((mean, (std**2 + EPS) ** 0.5), dim=1)
        logits = self.head(stats) * (1 / 3) + 1e-3 * max(GAINS)
        return torch.cat((logits, self.blank.expand(image.shape[0], -1)), dim=1)


class FrozenTeacher(nn.Module):
    """A frozen backbone under no_grad, a dictionary of codes, and a check that the layers fit together."""

    def __init__(self, dim: int = 4, codes: int = 6) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(dim, dim), nn.Tanh()).requires_grad_(False)
        self.codes = nn.Parameter(torch.randn(codes, dim))
        self.sizes = [operator.attrgetter("out_features")(m) for m in self.teacher if isinstance(m, nn.Linear)]

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        return torch.cdist(z, self.codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.sizes[-1] != self.codes.size(1):
            raise RuntimeError("the codes do not fit the teacher")
        with torch.no_grad():
            z = self.teacher(x).detach()
        index = self.nearest(z)
        quantized = F.embedding(index, self.codes)
        return z + (quantized - z).detach() if self.training else quantized, index


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def one(name: str, *sizes: tuple[int, ...]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        example, *probes = ({name: torch.randn(size)} for size in sizes)
        return example, probes

    def pair(images: int, texts: int) -> dict[str, Tensor]:
        return {"image": torch.randn(images, 4), "text": torch.randn(texts, 4)}

    found = {
        "PartialActs": (PartialActs(), *one("x", (2, 5), (3, 5), (6, 5))),
        "LearnedScale": (LearnedScale(), pair(2, 3), [pair(4, 2), pair(3, 5)]),
        "ClosedOver": (ClosedOver(), *one("x", (2, 3, 5, 5), (3, 3, 6, 4), (2, 3, 7, 8))),
        "Decorated": (Decorated(), *one("x", (2, 4), (5, 4), (3, 4))),
        "FusedOrPlain": (FusedOrPlain(), *one("x", (2, 4, 6), (3, 5, 6), (2, 7, 6))),
        "TemporalShift": (TemporalShift(), *one("clip", (2, 4, 8), (3, 6, 8), (2, 3, 8))),
        "WithConstants": (WithConstants(), *one("image", (2, 3, 4, 4), (3, 3, 5, 4), (4, 3, 6, 6))),
        "FrozenTeacher": (FrozenTeacher(), *one("x", (2, 4), (3, 4), (5, 4))),
    }
    for model, _, _ in found.values():
        model.eval()
    return found
