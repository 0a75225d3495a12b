"""Models in which Python decides by the values of a tensor what runs next."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.check.corpus import _helpers_branching


class AutoRange(nn.Module):
    """Accepts images in 0..255 as well as in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        if image.max() > 1.0:  # hazard: data-dependent-control-flow
            image = image / 255.0
        return F.relu(self.conv(image))


class Equilibrium(nn.Module):
    """A deep-equilibrium block that iterates until it has converged."""

    def __init__(self, dim: int = 4, tol: float = 0.05, max_iter: int = 30) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.tol = tol
        self.max_iter = max_iter

    def forward(self, x: Tensor) -> Tensor:
        z, step = torch.tanh(x), 0
        residual = torch.tanh(self.inner(z) + x) - z
        while residual.norm() > self.tol and step < self.max_iter:  # hazard: data-dependent-control-flow
            z = z + residual
            residual = torch.tanh(self.inner(z) + x) - z
            step += 1
        return z


class RefinementSteps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.refine = nn.Linear(4, 4)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        for _ in range(int(steps)):  # hazard: data-dependent-control-flow
            x = x + 0.5 * self.refine(x)
        return x


class EarlyExitClassifier(nn.Module):
    """Stops at the first head that is sure of its rows (BranchyNet)."""

    def __init__(self, depth: int = 3, threshold: float = 0.6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(depth))
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        logits = x[:, :3]
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = torch.relu(block(x))
            logits = head(x)
            confidence = logits.softmax(dim=-1).amax(dim=-1).mean().item()
            if confidence > self.threshold:  # hazard: data-dependent-control-flow
                break
        return logits


class SparseExperts(nn.Module):
    """A mixture of experts that skips the experts to which no token goes."""

    def __init__(self, dim: int = 4, experts: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(dim, experts)
        self.experts = nn.ModuleList(nn.Linear(dim, dim) for _ in range(experts))

    def forward(self, tokens: Tensor) -> Tensor:
        choice = self.router(tokens).argmax(dim=-1)
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            mask = choice == index
            if not mask.any():  # hazard: data-dependent-control-flow
                continue
            out = out + expert(tokens) * mask.unsqueeze(-1).to(tokens.dtype)
        return out


class SafePeakNorm(nn.Module):
    def __init__(self, floor: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("floor", torch.tensor(floor))

    def forward(self, wave: Tensor) -> Tensor:
        peak = wave.abs().max() or self.floor  # hazard: data-dependent-control-flow
        return wave / peak


class ClippedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(5, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(_helpers_branching.prepare(features, limit=2.0))


def skip_silence(threshold: float) -> Callable:
    def decorate(forward: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
        @wraps(forward)
        def wrapper(self: nn.Module, wave: Tensor) -> Tensor:
            energy = wave.square().mean()
            if energy < threshold:  # hazard: data-dependent-control-flow [VoiceGate]
                return torch.zeros_like(wave)
            return forward(self, wave)

        return wrapper

    return decorate


class VoiceGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fir = nn.Conv1d(1, 1, 3, padding=1)

    @skip_silence(0.01)
    def forward(self, wave: Tensor) -> Tensor:
        return self.fir(wave)


class OverflowGuard(nn.Module):
    """A forward hook replaces overflowing activations, as training scripts for half precision do."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.proj.register_forward_hook(self._soften)

    @staticmethod
    def _soften(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out if out.abs().amax() < 50.0 else out.clamp(-50.0, 50.0)  # hazard: data-dependent-control-flow

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).tanh() + self.proj(x)


class TaskSwitch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tag = nn.Linear(4, 3)
        self.rank = nn.Linear(4, 3)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        match task.item():  # hazard: data-dependent-control-flow
            case 0:
                return self.tag(x).log_softmax(dim=-1)
            case 1:
                return self.rank(x)
            case _:
                return self.tag(x) + self.rank(x)


class SiamesePair(nn.Module):
    """Spares the second pass where both sides are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a = self.encoder(left)
        b = a if torch.equal(left, right) else self.encoder(right)  # hazard: data-dependent-control-flow
        return a * b


class PromptPooler(nn.Module):
    def __init__(self, special: tuple[int, ...] = (0, 2)) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.special = special

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        if ids[0, 0] in self.special:  # hazard: data-dependent-control-flow
            return hidden[:, 0]
        return hidden.mean(dim=1)


class VotingHeads(nn.Module):
    """Sums the heads that fire at all."""

    def __init__(self, heads: int = 3) -> None:
        super().__init__()
        self.base = nn.Linear(4, 2)
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        votes = {name: head(x) for name, head in self.heads.named_children()}
        firing = [vote for vote in votes.values() if vote.sum() > 0]  # hazard: data-dependent-control-flow
        return torch.stack([self.base(x), *firing]).sum(dim=0)


class JointScale(nn.Module):
    """Brings two signals to the range of the louder one."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        loudest = max(left.abs().amax(), right.abs().amax())  # hazard: data-dependent-control-flow
        return torch.cat([left, right], dim=-1) / loudest


class StopCriterion:
    def __init__(self, eos: int) -> None:
        self.eos = eos

    def __call__(self, generated: list[Tensor]) -> Tensor:
        return (torch.stack(generated, dim=1) == self.eos).any(dim=1).all()


class GreedyDecoder(nn.Module):
    def __init__(self, eos: int = 1, max_new: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 6)
        self.cell = nn.GRUCell(6, 6)
        self.stop = StopCriterion(eos)
        self.max_new = max_new

    def forward(self, start: Tensor, hidden: Tensor) -> Tensor:
        generated = [start]
        while len(generated) <= self.max_new and not self.stop(generated):  # hazard: data-dependent-control-flow
            hidden = self.cell(self.embed(generated[-1]), hidden)
            generated.append(hidden.argmax(dim=-1))
        return torch.stack(generated, dim=1)


class Lambda(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class SignedActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 4),
            Lambda(lambda t: F.relu(t) if t.mean() > 0 else F.elu(t)),  # hazard: data-dependent-control-flow
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class CholeskyWithJitter(nn.Module):
    """Gaussian-process layers raise the diagonal until the factorisation succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("eye", torch.eye(3))

    def forward(self, gram: Tensor) -> Tensor:
        jitter = 1e-3
        factor, info = torch.linalg.cholesky_ex(gram + jitter * self.eye)
        while info.any():  # hazard: data-dependent-control-flow
            jitter *= 10.0
            factor, info = torch.linalg.cholesky_ex(gram + jitter * self.eye)
        return factor


class MaskedReadout(nn.Module):
    def _usable(self, mask: Tensor) -> Tensor:
        return mask.sum() > 1

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if (usable := self._usable(mask)) and not mask.all():  # hazard: data-dependent-control-flow
            return (x * mask).sum(dim=0) / mask.sum()
        return x.mean(dim=0) * usable


class Thermostat(nn.Module):
    """The base of the controllers."""

    def regulate(self, x: Tensor) -> Tensor:
        state = {"temps": [x.mean(), x.amax()], "gain": 1.0}
        if state["temps"][1] > 2.0:  # hazard: data-dependent-control-flow [CoolingController]
            state["gain"] = 0.5
        return x * state["gain"]


class CoolingController(Thermostat):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.regulate(x))


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    ids = torch.tensor([[0, 3, 5], [4, 1, 7]])
    mask = torch.tensor([[1.0], [0.0], [1.0]])
    rows = torch.randn(3, 4)
    gram = torch.randn(3, 5)
    gram = gram @ gram.T
    built: dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]] = {
        "AutoRange": (
            AutoRange(),
            {"image": torch.rand(2, 3, 4, 4)},
            [{"image": torch.rand(2, 3, 4, 4)}, {"image": 255.0 * torch.rand(2, 3, 4, 4)}],
        ),
        "Equilibrium": (
            Equilibrium(),
            {"x": torch.randn(2, 4)},
            [{"x": 0.01 * torch.randn(2, 4)}, {"x": 3.0 * torch.randn(2, 4)}],
        ),
        "RefinementSteps": (
            RefinementSteps(),
            {"x": torch.randn(2, 4), "steps": torch.tensor(2)},
            [{"x": torch.randn(2, 4), "steps": torch.tensor(4)}, {"x": torch.randn(2, 4), "steps": torch.tensor(0)}],
        ),
        "EarlyExitClassifier": (
            EarlyExitClassifier(),
            {"x": torch.randn(2, 6)},
            [{"x": torch.randn(2, 6)}, {"x": 40.0 * torch.randn(2, 6)}],
        ),
        "SparseExperts": (
            SparseExperts(),
            {"tokens": torch.randn(2, 4)},
            [{"tokens": torch.randn(2, 4)}, {"tokens": 2.0 * torch.randn(2, 4)}, {"tokens": -torch.randn(2, 4)}],
        ),
        "SafePeakNorm": (
            SafePeakNorm(),
            {"wave": torch.randn(2, 6)},
            [{"wave": torch.randn(2, 6)}, {"wave": torch.zeros(2, 6)}],
        ),
        "ClippedEncoder": (
            ClippedEncoder(),
            {"features": 0.1 * torch.randn(2, 5)},
            [{"features": 0.2 * torch.randn(2, 5)}, {"features": 5.0 * torch.randn(2, 5)}],
        ),
        "VoiceGate": (
            VoiceGate(),
            {"wave": torch.randn(2, 1, 8)},
            [{"wave": torch.randn(2, 1, 8)}, {"wave": 0.001 * torch.randn(2, 1, 8)}],
        ),
        "OverflowGuard": (
            OverflowGuard(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(2, 4)}, {"x": 500.0 * torch.randn(2, 4)}],
        ),
        "TaskSwitch": (
            TaskSwitch(),
            {"x": torch.randn(2, 4), "task": torch.tensor(0)},
            [{"x": torch.randn(2, 4), "task": torch.tensor(1)}, {"x": torch.randn(2, 4), "task": torch.tensor(2)}],
        ),
        "SiamesePair": (
            SiamesePair(),
            {"left": rows, "right": rows.clone()},
            [{"left": rows, "right": -rows}, {"left": torch.randn(3, 4), "right": torch.randn(3, 4)}],
        ),
        "PromptPooler": (
            PromptPooler(),
            {"ids": ids},
            [{"ids": ids.flip(1)}, {"ids": torch.tensor([[2, 2, 6], [6, 0, 3]])}],
        ),
        "VotingHeads": (
            VotingHeads(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(2, 4)}, {"x": 3.0 * torch.randn(2, 4)}, {"x": -2.0 * torch.randn(2, 4)}],
        ),
        "JointScale": (
            JointScale(),
            {"left": torch.randn(2, 3), "right": 4.0 * torch.randn(2, 3)},
            [
                {"left": torch.randn(2, 3), "right": 4.0 * torch.randn(2, 3)},
                {"left": 4.0 * torch.randn(2, 3), "right": 0.5 * torch.randn(2, 3)},
            ],
        ),
        "GreedyDecoder": (
            GreedyDecoder(),
            {"start": torch.tensor([2, 3]), "hidden": torch.randn(2, 6)},
            [
                {"start": torch.tensor([4, 5]), "hidden": torch.randn(2, 6)},
                {"start": torch.tensor([1, 1]), "hidden": torch.randn(2, 6)},
            ],
        ),
        "SignedActivation": (
            SignedActivation(),
            {"x": torch.randn(2, 4)},
            [{"x": -3.0 * torch.ones(2, 4)}, {"x": 3.0 * torch.ones(2, 4)}],
        ),
        "CholeskyWithJitter": (
            CholeskyWithJitter(),
            {"gram": gram},
            [{"gram": 2.0 * gram}, {"gram": torch.diag(torch.tensor([1.0, 0.5, -0.2]))}],
        ),
        "MaskedReadout": (
            MaskedReadout(),
            {"x": torch.randn(3, 4), "mask": mask},
            [
                {"x": torch.randn(3, 4), "mask": mask.flip(0)},
                {"x": torch.randn(3, 4), "mask": torch.tensor([[0.0], [1.0], [0.0]])},
            ],
        ),
        "CoolingController": (
            CoolingController(),
            {"x": torch.rand(2, 4)},
            [{"x": torch.rand(2, 4)}, {"x": 6.0 * torch.rand(2, 4)}],
        ),
    }
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
