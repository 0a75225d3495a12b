"""The same bytes from the same source: in two directories, in processes of their own, by each route; and what a moved line
changes, which is nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NET = """
import torch
from torch import Tensor, nn


def scaled(x: Tensor) -> Tensor:
    return x * 2


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        return scaled(x)


class Net(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.inner, self.last = nn.Linear(4, 5), inner, nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.inner(x)
        return self.last(x).softmax(-1)
"""
WORK = """
import hashlib, json, sys
from pathlib import Path

import torch
from net import Branch, Net
from torch import nn

from qntz.export import export
from qntz.simplify import simplify
from qntz.torchscript import capture

told = {}
for method in ("trace", "script", "mixed", "paths", "dynamo"):
    model = Net(Branch() if method in ("script", "mixed", "paths") else nn.Tanh())
    generator = torch.Generator().manual_seed(2)
    runs = [(torch.randn(n, 4, generator=generator),) for n in (3, 5)]
    runs.append((-runs[0][0],))
    captured = capture(model, runs[0], runs[1:], method=method)
    exported = export(captured, "model.onnx")
    small = simplify(Path("model.onnx"), captured.probes, captured.golden)
    digests = [hashlib.sha256(data).hexdigest() for data in (captured.archive, exported.data, small.data)]
    index = json.dumps([captured.statements, exported.sources], sort_keys=True)
    told[method] = [*digests, hashlib.sha256(index.encode()).hexdigest(), exported.sources]
print(json.dumps(told))
"""


def made_in(folder: Path, source: str, seed: str) -> dict[str, list]:
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(source)
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", WORK], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list]]:
    root = tmp_path_factory.mktemp("clones")
    moved = NET.replace("        if x.sum() > 0:", "        # a comment,\n\n        if x.sum() > 0:").replace(
        "class Net(nn.Module):", 'class Net(nn.Module):\n    """A docstring."""\n'
    )
    return [
        made_in(root / "a", NET, "1"),
        made_in(root / "elsewhere/deeper/b", NET, "2"),
        made_in(root / "c", moved, "3"),
    ]


@pytest.mark.parametrize("method", ["trace", "script", "mixed", "paths", "dynamo"])
def test_clones_make_the_same_bytes_and_index(clones: list[dict[str, list]], method: str) -> None:
    first, second, moved = (one[method] for one in clones)
    assert first == second
    assert first == moved


@pytest.mark.parametrize(
    ("method", "operator", "statement"),
    [
        ("trace", "Tanh", "net.py:Net.forward:1"),
        ("trace", "Softmax", "net.py:Net.forward:2"),
        ("script", "If", "net.py:Branch.forward:0"),
        ("script", "Mul", "net.py:scaled:0"),
        ("mixed", "If", "net.py:Branch.forward:0"),
        ("mixed", "Softmax", "net.py:Net.forward:2"),
        ("paths", "Softmax", "net.py:Net.forward:2"),
        ("dynamo", "Tanh", "net.py:Net.forward:1"),
        ("dynamo", "Softmax", "net.py:Net.forward:2"),
    ],
)
def test_each_node_knows_its_statement(
    clones: list[dict[str, list]], method: str, operator: str, statement: str
) -> None:
    sources = clones[0][method][4].values()
    assert {one["statement"] for one in sources if one["operator"] == operator} == {statement}
