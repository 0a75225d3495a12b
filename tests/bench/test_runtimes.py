"""One interface over PyTorch's runtimes and ONNX Runtime's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qntz.builtin.onnxruntime import OnnxRuntimeBackend
from qntz.config import EngineConfig
from qntz.errors import ArtifactError, BackendError, ModelError
from qntz.runtimes import TorchRunner, bind, load_engine
from tests.engine.engine_graphs import WEIGHT, linear

RNG = np.random.default_rng(5)


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, *, by: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x * by}


def test_the_module_and_its_capture_run_alike() -> None:
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    module = torch.nn.Linear(5, 3).eval()
    for one in (module, torch.jit.trace(module, torch.zeros(2, 5)), torch.export.export(module, (torch.zeros(4, 5),))):
        bound = bind(TorchRunner(one, ("input",)), {"input": x})
        bound.start()
        bound.wait()
        wanted = x @ module.weight.detach().numpy().T + module.bias.detach().numpy()
        np.testing.assert_allclose(bound.outputs()["output"], wanted, rtol=1e-5, atol=1e-6)
        bound.close()


def test_what_forward_takes_by_name() -> None:
    x, by = np.full((2, 3), 4, np.float32), np.array(0.5, np.float32)
    np.testing.assert_array_equal(TorchRunner(Scaled(), ("x", "by")).run({"x": x, "by": by})["y"], x / 2)


def test_inputs_that_a_model_refuses() -> None:
    with pytest.raises(ModelError, match="the model does not run: RuntimeError: mat1 and mat2"):
        TorchRunner(torch.nn.Linear(5, 3), ("input",)).run({"input": np.zeros((2, 4), np.float32)})


def test_a_session_that_is_not_where_it_was_asked_for(tmp_path: Path) -> None:
    import onnxruntime

    from qntz.ort import SessionRunner

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    with pytest.raises(BackendError, match="ONNX Runtime does not run on cuda: it takes CPUExecutionProvider"):
        SessionRunner(linear(tmp_path), device="cuda")


@pytest.mark.slow
def test_compiled_it_computes_the_same() -> None:
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU()).eval()
    runner = TorchRunner(module, ("input",), compiled=True)
    np.testing.assert_allclose(
        runner.run({"input": x})["output"], TorchRunner(module, ("input",)).run({"input": x})["output"], atol=1e-6
    )


def test_a_session_is_bound(tmp_path: Path) -> None:
    runner = OnnxRuntimeBackend().load(linear(tmp_path), EngineConfig(backend="onnxruntime"))
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    bound = bind(runner, {"x": x, "more": x})
    for _ in range(2):
        bound.start()
        bound.wait()
    np.testing.assert_allclose(bound.outputs()["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
    bound.close()
    with pytest.raises(BackendError, match="ONNX Runtime cannot run the graph: "):
        bind(runner, {"x": x[:, :4].copy()}).start()
    with pytest.raises(BackendError, match="ONNX Runtime does not take the inputs: no input 'x'"):
        bind(runner, {"y": x})


def test_an_engine_is_loaded_by_its_record(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(linear(tmp_path).read_bytes())
    record = tmp_path / "engine.json"
    record.write_text(json.dumps({"backend": "onnxruntime", "options": {"tf32": False}}))
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(load_engine(tmp_path, tmp_path).run({"x": x})["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
    record.write_text(json.dumps({"backend": "onnxruntim", "options": {}}))
    with pytest.raises(BackendError, match=r"model.engine: no backend 'onnxruntim'. Did you mean 'onnxruntime'?"):
        load_engine(tmp_path, tmp_path)
    for text, told in (
        ("[]", "is damaged: "),
        ('{"backend": "onnxruntime", "options": {"tf": 1}}', "is no record of "),
    ):
        record.write_text(text)
        with pytest.raises(ArtifactError, match=rf"engine.json: {told}"):
            load_engine(tmp_path, tmp_path)
    record.unlink()
    with pytest.raises(ArtifactError, match=r"engine.json: is missing"):
        load_engine(tmp_path, tmp_path)


class Plain:
    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": inputs["x"] + 1}


def test_a_runner_that_only_runs_is_bound_all_the_same() -> None:
    bound = bind(Plain(), {"x": np.zeros(3)})
    bound.start()
    bound.wait()
    np.testing.assert_array_equal(bound.outputs()["y"], [1, 1, 1])
