"""The translations that qntz ships: exported from a saved capture, at other sizes, against eager; with its own refusals
where torch's exporter stands alone; and a plugin's of the same name goes before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qntz.builtin.symbolics import mT as matrix_transpose
from qntz.errors import ExportError
from qntz.export import export, record
from qntz.model import load_torchscript, run_model
from qntz.plugins import load
from qntz.records import Capture
from qntz.torchscript import archive_bytes, capture

RNG = np.random.default_rng(5)
PROBES = [{"x": RNG.standard_normal(shape).astype(np.float32)} for shape in ((2, 3, 8), (3, 5, 8), (1, 2, 8))]


class Heads(nn.Module):
    """Attention as it is written today: heads by unflatten, keys by mT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Middle(nn.Module):
    """A dimension in the middle, by a size that is computed."""

    def forward(self, x: Tensor) -> Tensor:
        windows = x.transpose(1, 2).unflatten(1, (x.shape[-1] // 2, 2))
        return windows.permute(0, 2, 3, 1).mT


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Layer(nn.Module):
    """torch's own attention, whose fused kernels for evaluation no exporter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def saved(module: nn.Module, tmp_path: Path) -> Capture:
    """The trace, written and read again."""
    golden = [run_model(module.eval(), probe, ["x"]) for probe in PROBES]
    captured = capture(module, PROBES[0], PROBES[1:], method="trace")
    path = tmp_path / "model.ts"
    path.write_bytes(archive_bytes(captured.module))
    shapes = {"x": ("batch", "length", 8)}
    return Capture(module=load_torchscript(path), shapes=shapes, probes=PROBES, golden=golden)


@pytest.mark.parametrize("make", [Heads, Middle, Layer])
def test_it_exports_from_a_saved_capture_and_is_right_at_other_sizes(make, tmp_path: Path, root: Path) -> None:
    torch.manual_seed(0)
    captured = saved(make(), tmp_path)
    shipped = load(root).provided("qntz_symbolics", opset=17)
    exported = export(captured, opset=17, tolerance=1e-5, symbolics=shipped)
    assert exported.parity.error < 1e-5
    if make is not Layer:
        with pytest.raises(ExportError):
            export(captured, opset=17, tolerance=1e-5, symbolics=())


def test_those_that_did_nothing_are_not_listed(tmp_path: Path, root: Path) -> None:
    captured = saved(Doubles(), tmp_path)
    shipped = load(root).provided("qntz_symbolics", opset=17)
    told = record(export(captured, opset=17, tolerance=1e-5, symbolics=shipped), 1e-5)
    assert told["symbolics"] == []


def test_a_plugins_own_goes_before_the_one_that_qntz_ships(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    source = """
from qntz.builtin.symbolics import mT as matrix_transpose
from qntz.hookspecs import hookimpl
from qntz.records import Symbolic


@hookimpl
def qntz_symbolics(opset):
    yield Symbolic(name="aten::mT", function=matrix_transpose)
"""
    (tmp_path / "plugins" / "mine.py").write_text(source)
    provided = {p.record.name: p.provider for p in load(tmp_path).provided("qntz_symbolics", opset=17)}
    assert provided["aten::mT"] == "plugins/mine.py"
    assert provided["aten::unflatten"] == "builtin/symbolics.py"
    shipped = {p.record.name: p.record.function for p in load(tmp_path / "none").provided("qntz_symbolics", opset=17)}
    assert shipped["aten::mT"] is matrix_transpose
