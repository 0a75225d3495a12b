"""Where simplified nodes come from: fused and renamed ones too."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from qntz.export import export
from qntz.origins import Origin, origins
from qntz.quantizable import candidates
from qntz.simplify import _onnxsim
from qntz.statements import line_of
from qntz.torchscript import capture


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first(x))  # the first
        return self.norm(self.second(inner).transpose(1, 2)).transpose(1, 2) + x  # the second


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x @ x.transpose(1, 2)  # the product


def line(mark: str) -> int:
    return (
        Path(__file__)
        .read_text()
        .splitlines()
        .index(next(t for t in Path(__file__).read_text().splitlines() if t.endswith(f"# {mark}")))
        + 1
    )


def told(method: str) -> None:
    """Prints modules and statements of the weighted nodes, in order, as JSON."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    exported = export(capture(Net().eval(), {"x": x}, [{"x": np.concatenate([x, x])}], method=method))
    model = _onnxsim(onnx.load_from_string(exported.data))
    come_from = origins(model, exported.sources)
    assert len(come_from) == len(model.graph.node)
    print(json.dumps([dataclasses.astuple(come_from[candidate.node]) for candidate in candidates(model)]))


@pytest.mark.parametrize("method", ["trace", "dynamo"])
def test_every_weighted_node_is_told_by_module_and_line(method: str) -> None:
    """In a process of its own, as stages are: torch's exporter shortens paths that it has met in a process before."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", f"from tests.test_origins import told; told({method!r})"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    modules = [f"blocks.{number}.{part}" for number in (0, 1) for part in ("first", "second")]
    assert [module for module, _ in found] == [*modules, ""]
    lines = [line_of(statement, root) for _, statement in found]
    wanted = [line(mark) for mark in ("the first", "the second", "the first", "the second", "the product")]
    assert [place and place[1] for place in lines] == wanted


def test_what_nothing_tells_of_has_no_origin() -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"], "r")], "g", [x], [y])
    assert origins(onnx.helper.make_model(graph), {}) == {"r": Origin()}
