"""What needs a GPU: device memory by pycuda and by cuda-python, and engines on it. Not run elsewhere, and told so."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from qntz import cuda
from qntz.config import EngineConfig
from qntz.progress import Silent
from tests.engine.engine_graphs import BATCH, WEIGHT, linear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda.no_gpu_reason() is not None, reason=f"not run: {cuda.no_gpu_reason()}"),
]
RNG = np.random.default_rng(8)


@pytest.fixture(params=["pycuda", "cuda.bindings"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> cuda.Device:
    pytest.importorskip(request.param)
    monkeypatch.setattr(cuda, "_installed", lambda wanted: wanted == request.param)
    return cuda.open_device()


def test_memory_events_and_graphs(device: cuda.Device) -> None:
    sent = RNG.normal(size=(300, 500)).astype(np.float32)
    there, again = (cuda.DeviceArray(device, sent.shape, sent.dtype) for _ in range(2))
    first = device.mark()
    there.queue_fill(sent)
    back = there.queue_fetch()
    assert device.elapsed_ms(first, device.mark()) > 0
    device.synchronize()
    np.testing.assert_array_equal(back, sent)
    again.queue_fill(np.zeros_like(sent))
    device.synchronize()
    graph = cuda.Graph(device, lambda: again.queue_fill(sent))
    graph.launch()
    back = again.queue_fetch()
    device.synchronize()
    graph.close()
    np.testing.assert_array_equal(back, sent)
    used = cuda.used_memory()
    assert used is None or used > sent.nbytes


@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt"])
def test_an_engine_runs_bound_as_a_graph_and_without_copies(device: cuda.Device, name: str, tmp_path: Path) -> None:
    (backend,) = importlib.import_module(f"qntz.builtin.{name}").qntz_backends()
    config = EngineConfig(backend=name, compute_capabilities=[cuda.capability()])
    refused = backend.refusal(config, "fp32")
    if refused is not None:
        pytest.skip(str(refused))
    plan = tmp_path / "model.engine"
    plan.write_bytes(backend.build(linear(tmp_path), [BATCH], config, Silent()).plan)
    runner = backend.load(plan, config)
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    for graph in (False, True):
        with runner.bind({"x": x}, graph=graph) as bound:
            first = bound.mark()
            for _ in range(3):
                bound.start()
            assert bound.elapsed_ms(first, bound.mark()) > 0
            np.testing.assert_allclose(bound.outputs()["y"], x @ WEIGHT, rtol=1e-5, atol=1e-5)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("not run: PyTorch has no GPU here")
    given = torch.from_numpy(x).cuda()
    output = torch.as_tensor(runner.run_on_device({"x": given})["y"], device="cuda")
    np.testing.assert_allclose(output.cpu().numpy(), x @ WEIGHT, rtol=1e-5, atol=1e-5)


def test_the_driver_is_named() -> None:
    assert cuda.driver_version().partition(".")[0].isdigit()
    major, minor = cuda.cuda_version().split(".")
    assert (int(major) >= 11, int(minor) < 10) == (True, True)
