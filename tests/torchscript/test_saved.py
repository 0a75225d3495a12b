"""A model that comes as a file, TorchScript or an exported program, where nobody has its source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qntz import ort

NET = """
import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor, *, shift: Tensor) -> dict[str, Tensor]:
        y = torch.relu(self.linear(x)) + shift
        return {"y": y, "sum": y.sum(-1)}


class Plain(Net):
    def forward(self, x: Tensor, shift: Tensor):
        y = torch.relu(self.linear(x)) + shift
        if y.sum() > 3:
            y = y * 2
        return y, y.sum(-1)
"""
SAVE = """
import torch, numpy as np
from net import Net, Plain
x, shift = torch.linspace(-2, 2, 12).reshape(3, 4), torch.tensor([0.5, 2.0])
more = torch.linspace(-1, 3, 20).reshape(5, 4)
torch.jit.script(Plain().eval()).save("plain.ts")
rows = torch.export.Dim("rows")
shapes = {"x": {0: rows}, "shift": None}
torch.export.save(torch.export.export(Net().eval(), (x,), {"shift": shift}, dynamic_shapes=shapes), "net.pt2")
given = {"x": x, "shift": shift, "more": more}
for name, model in (("plain.ts", Plain()), ("net.pt2", Net())):
    for key in ("x", "more"):
        with torch.no_grad():
            out = model(given[key], shift=shift)
        given[f"{name}:{key}"] = (out["y"] if isinstance(out, dict) else out[0])
np.savez("given.npz", **{name: value.numpy() for name, value in given.items()})
"""
USE = """
import sys, json, numpy as np
from pathlib import Path
from qntz.artifacts import digest_file
from qntz.export import export
from qntz.model import load_model
from qntz.torchscript import capture
given = np.load("given.npz")
told = {}
for name in ("plain.ts", "net.pt2"):
    model = load_model(None, None, name, Path("."), digest_file(Path(name)))
    runs = [{"x": given[key], "shift": given["shift"]} for key in ("x", "more")]
    captured = capture(model, runs[0], runs[1:])
    exported = export(captured, name + ".onnx")
    told[name] = [captured.method, captured.why, list(captured.order), exported.operators]
assert "net" not in sys.modules
print(json.dumps(told))
"""


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    (folder / "net.py").write_text(NET)
    run(SAVE, folder)
    (folder / "net.py").unlink()
    (folder / "told.json").write_text(run(USE, folder))
    return folder


@pytest.mark.parametrize(("name", "operator"), [("plain.ts", "If"), ("net.pt2", "Relu")])
def test_it_enters_at_the_export(folder: Path, name: str, operator: str) -> None:
    method, why, order, operators = json.loads((folder / "told.json").read_text())[name]
    assert method == "saved"
    assert why.startswith("the model came as a saved ")
    assert order == ["x", "shift"]
    assert operator in operators
    given = np.load(folder / "given.npz")
    for key in ("x", "more"):
        inputs = {"x": given[key], "shift": given["shift"]}
        got = ort.run_all(folder / f"{name}.onnx", [inputs])[0]
        np.testing.assert_allclose(next(iter(got.values())), given[f"{name}:{key}"], rtol=1e-5, atol=1e-6)
