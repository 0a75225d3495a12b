"""A captured model, and what is told of it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from qntz.compare import Difference
from qntz.errors import CaptureError
from qntz.records import Capture, RewriteProof
from qntz.rewrite import is_telling
from qntz.torchscript.archive import loaded


@dataclass(frozen=True)
class Tried:
    """A route that was tried and not taken: why not, and where in the model ("" where it is not told)."""

    method: str
    why: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Captured(Capture):
    """A captured model, and how it came about.

    Attributes:
        module: read from the file when it is first asked for; CaptureError where that is gone by then.
        method: a route's name, or "saved" (it came as TorchScript or as an exported program). why: in words.
        file: the module as torch.jit.load or torch.export.load reads it, the same bytes everywhere; it is there as long
        as the capture is.
        parity: the worst difference from the eager model on each probe. warnings: what torch warned of, sorted.
        tried: the routes that were tried before it. training: the submodules that were in training mode and were
        captured in evaluation mode. rewrites: what became of each.
    """

    module: Any = field(init=False, repr=False, compare=False)
    method: str
    why: str
    file: Path
    parity: tuple[Difference, ...]
    warnings: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    training: tuple[str, ...] = ()
    rewrites: tuple[RewriteProof, ...] = ()
    folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)  # that the file is in

    def __getattr__(self, name: str) -> Any:
        """The module, which is no attribute before."""
        if name != "module":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if not self.file.is_file():
            raise CaptureError(
                "the captured module's file is gone", where=str(self.file), do="Keep the first Captured, or the module."
            )
        module = loaded(self.file)
        object.__setattr__(self, "module", module)
        return module

    @property
    def archive(self) -> bytes:
        """The bytes of the file."""
        return self.file.read_bytes()

    @property
    def order(self) -> tuple[str, ...]:
        """The input names in the order in which the module takes them."""
        return tuple(self.shapes)

    @property
    def worst(self) -> Difference:
        """The worst difference on any probe."""
        return max(self.parity, key=lambda one: one.error)


def record(captured: Captured, tolerance: float, eager: torch.nn.Module) -> dict[str, Any]:
    """torchscript.json: the method and why, the parity, what every rewrite did (of those that qntz ships, where they
    concern the model), and the model's size."""
    return {
        "method": captured.method,
        "why": captured.why,
        "parity": captured.worst.as_dict(),
        "errors": [one.as_dict()["error"] for one in captured.parity],
        "tolerance": tolerance,
        "tried": [asdict(one) for one in captured.tried],
        "further": len(captured.further),
        "training": list(captured.training),
        "probes": len(captured.golden),
        "rewrites": [asdict(proof) for proof in captured.rewrites if is_telling(proof)],
        "warnings": list(captured.warnings),
        "parameters": sum(parameter.numel() for parameter in eager.parameters()),
    }
