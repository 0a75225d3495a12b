"""A model that really is beyond 2 GB, from torch to the half-precision graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from qntz import ort
from qntz.artifacts import write_model
from qntz.config import QuantizeConfig
from qntz.export import export
from qntz.packed import data_of, read_packed, size_at
from qntz.plugins import load
from qntz.quantize import quantize, runnable
from qntz.simplify import simplify
from qntz.torchscript import capture

WIDTH = 16_500  # two layers of which have 2 * 4 * 16,500 ** 2 bytes = 2.18e9


class Wide(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.mark.slow
def test_beyond_two_gigabytes(tmp_path: Path) -> None:
    net = Wide().eval()
    given = [{"x": torch.randn(2, WIDTH)}, {"x": torch.randn(3, WIDTH)}]
    captured = capture(net, given[0], given[1:], rewrites=[])
    assert captured.method == "trace"
    export(captured, tmp_path / "model.onnx")
    probes, golden = captured.probes, captured.golden
    del captured
    assert size_at(tmp_path / "model.onnx") > 8 * WIDTH**2 > 2**31
    assert data_of(tmp_path / "model.onnx").stat().st_size > 2**31
    small = simplify(tmp_path / "model.onnx", probes, golden)
    assert small.parity.error < 1e-5
    write_model(tmp_path / "simplified.onnx", small.file)
    del small
    onnx.checker.check_model(tmp_path / "simplified.onnx", full_check=True)
    quantize(
        tmp_path / "simplified.onnx",
        {},
        tmp_path / "quantized.onnx",
        QuantizeConfig(precision="fp16"),
        methods=load(tmp_path).records("qntz_threshold_methods"),
    )
    assert 4 * WIDTH**2 < size_at(tmp_path / "quantized.onnx") < 2**31
    other = {"x": np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]}
    with torch.no_grad():
        wanted = net(torch.from_numpy(other["x"])).numpy()
    (got,) = ort.run_all(tmp_path / "simplified.onnx", [other])[0].values()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    (got,) = ort.run_all(runnable(read_packed(tmp_path / "quantized.onnx")), [other])[0].values()
    np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())
