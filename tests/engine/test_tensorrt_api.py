"""One backend class against the recorded APIs of tensorrt 10, tensorrt 11 and tensorrt_rtx: build, load and run."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from qntz import cuda
from qntz.builtin import tensorrt, tensorrt_rtx
from qntz.config import EngineConfig
from qntz.errors import ArtifactError, BackendError
from qntz.progress import Silent
from qntz.records import Backend, TensorSpec
from tests.engine import fake_cuda, fake_tensorrt
from tests.engine.engine_graphs import BATCH, WEIGHT, control_flow, info, linear, saved

VERSIONS = ("tensorrt-10.16.1.11", "tensorrt-11.4.0.106", "tensorrt_rtx-1.7.1.116")
CONFIG = EngineConfig(workspace_bytes=1 << 20, optimization_level=2)
RNG = np.random.default_rng(3)


class Bench:
    """A backend over the stand-in of one version, with the stand-in GPU under it."""

    def __init__(self, version: str, monkeypatch: pytest.MonkeyPatch):
        self.gpu = fake_cuda.FakeCuda()
        self.trt = fake_tensorrt.make(version, self.gpu)
        name = self.trt.__name__
        monkeypatch.setitem(sys.modules, name, self.trt)
        shipped = {"tensorrt": tensorrt, "tensorrt_rtx": tensorrt_rtx}
        (self.backend,) = shipped[name].qntz_backends()

    def built(self, path: Path, *specs: TensorSpec, config: EngineConfig = CONFIG) -> Path:
        plan = path.with_suffix(".engine")
        plan.write_bytes(self.backend.build(path, specs, config, Silent()).plan)
        return plan


@pytest.fixture(params=VERSIONS)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(request.param, monkeypatch)
    runtime = fake_cuda.cuda_python(bench.gpu)
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", types.SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    monkeypatch.setattr(cuda, "_installed", lambda module: module == "cuda.bindings")
    monkeypatch.setattr(cuda, "no_gpu_reason", lambda: None)
    monkeypatch.setattr(cuda, "gpu_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(cuda, "capability", lambda: "sm89")
    return bench


def test_the_build_asks_what_this_version_has(bench: Bench, tmp_path: Path) -> None:
    here = dataclasses.replace(CONFIG, compute_capabilities=["sm89"])
    assert bench.backend.refusal(here, "fp32") is None
    built = bench.backend.build(linear(tmp_path), [BATCH], CONFIG, Silent())
    strongly_typed = {"tensorrt-10.16.1.11": 1}.get(f"{bench.trt.__name__}-{bench.trt.__version__}", 0)
    assert bench.trt.seen["flags"] == 1 << strongly_typed
    assert bench.trt.seen["pool"] == ("WORKSPACE", 1 << 20)
    assert bench.trt.seen["config"].builder_optimization_level == 2
    assert bench.trt.seen["plans"][built.plan] == [{"x": ((1, 5), (4, 5), (9, 5))}]
    assert built.version == bench.trt.__version__
    assert built.inputs == (BATCH,)
    assert built.outputs == (TensorSpec("y", "float32", (-1, 3), (-1, 3), (-1, 3)),)
    expected = "portable (tensorrt_rtx's default)" if bench.backend.name == "tensorrt_rtx" else "NVIDIA L4 (sm89)"
    assert built.target == expected


def test_nested_phases_drive_the_progress(bench: Bench, tmp_path: Path) -> None:
    steps = []

    class Kept:
        def step(self, phase: str, done: int, total: int) -> bool:
            steps.append((phase, done, total))
            return True

    bench.backend.build(linear(tmp_path), [BATCH], CONFIG, Kept())
    outer = [("outer", 0, 2), ("outer", 1, 2), ("outer", 2, 2), ("outer", 2, 2)]
    assert steps == [outer[0], ("inner", 0, 1), ("inner", 1, 1), ("inner", 1, 1), *outer[1:]]


def test_a_version_without_the_flag_gets_no_flag(bench: Bench, tmp_path: Path) -> None:
    bench.trt.NetworkDefinitionCreationFlag = types.SimpleNamespace(__members__={})
    bench.backend.build(linear(tmp_path), [BATCH], CONFIG, Silent())
    assert bench.trt.seen["flags"] == 0


def test_a_run_gives_the_graphs_numbers(bench: Bench, tmp_path: Path) -> None:
    runner = bench.backend.load(bench.built(linear(tmp_path), BATCH), CONFIG)
    for rows in (3, 1, 9):
        x = RNG.normal(size=(rows, 5)).astype(np.float32)
        outputs = runner.run({"x": np.asfortranarray(x), "left_out": x})
        gc.collect()
        assert list(outputs) == ["y"]
        np.testing.assert_allclose(outputs["y"], x.astype(np.float64) @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert bench.gpu.allocated == 6
    assert bench.gpu.memory == {}


class OnGpu:
    """A tensor on the stand-in GPU, as torch shows one."""

    def __init__(self, device: cuda.Device, array: np.ndarray):
        self._held = cuda.DeviceArray(device, array.shape, array.dtype)
        self._held.queue_fill(array)
        device.synchronize()
        self.shape, self.dtype = array.shape, f"torch.{array.dtype}"
        self.__cuda_array_interface__ = {**self._held.__cuda_array_interface__, "strides": None}


def test_what_lies_on_the_gpu_is_not_copied(bench: Bench, tmp_path: Path) -> None:
    runner = bench.backend.load(bench.built(linear(tmp_path), BATCH), CONFIG)
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    given = OnGpu(runner._device, x)
    before = bench.gpu.allocated
    outputs = runner.run_on_device({"x": given})
    assert bench.gpu.allocated == before + 1  # the output's
    output = outputs["y"]
    assert output.__cuda_array_interface__["shape"] == (4, 3)
    there = ctypes.string_at(output.__cuda_array_interface__["data"][0], 4 * 3 * 4)
    np.testing.assert_allclose(np.frombuffer(there, np.float32).reshape(4, 3), x @ WEIGHT, rtol=1e-5, atol=1e-6)
    del output, outputs, given
    gc.collect()
    assert bench.gpu.memory == {}


def test_what_lies_on_the_gpu_and_does_not_fit_is_refused(bench: Bench, tmp_path: Path) -> None:
    runner = bench.backend.load(bench.built(linear(tmp_path), BATCH), CONFIG)
    turned = OnGpu(runner._device, np.zeros((2, 5), np.float32))
    turned.__cuda_array_interface__["strides"] = (4, 8)
    with pytest.raises(BackendError, match="input 'x' is not contiguous: .*Give x.contiguous"):
        runner.run({"x": turned})
    half = OnGpu(runner._device, np.zeros((2, 5), np.float16))
    with pytest.raises(BackendError, match="input 'x' is float16: the engine takes float32"):
        runner.run({"x": half})


def test_a_bound_engine_runs_again_and_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = fake_cuda.GraphDriver(bench.gpu)
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    runner = bench.backend.load(bench.built(linear(tmp_path), BATCH), CONFIG)
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    for graph in (False, True):
        with runner.bind({"x": x}, graph=graph) as bound:
            first = bound.mark()
            for _ in range(3):
                bound.start()
            bound.wait()
            assert bound.elapsed_ms(first, bound.mark()) == 7.5
            np.testing.assert_allclose(bound.outputs()["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
            assert len(driver.launchable) == graph
        assert bench.gpu.memory == {}
    assert driver.launchable == driver.graphs == {}


def test_no_graph_of_an_output_whose_memory_moves(bench: Bench, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    path = saved(tmp_path / "nz.onnx", [node], [info("x", ("n", 5))], [info("y", (2, "k"), TensorProto.INT64)])
    runner = bench.backend.load(bench.built(path, BATCH), CONFIG)
    with pytest.raises(BackendError, match="does not run as a CUDA graph: the size of an output depends on values"):
        runner.bind({"x": np.ones((2, 5), np.float32)}, graph=True)
    assert bench.gpu.memory == {}


def test_control_flow_runs(bench: Bench, tmp_path: Path) -> None:
    fixed = TensorSpec("x", "float32", (2, 5), (2, 5), (2, 5))
    runner = bench.backend.load(bench.built(control_flow(tmp_path), fixed), CONFIG)
    x = np.arange(-8, 2, dtype=np.float32).reshape(2, 5)  # its sum is negative
    np.testing.assert_array_equal(runner.run({"x": x})["y"], -8 * x)


def test_an_output_whose_size_depends_on_values(bench: Bench, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"])
    path = saved(tmp_path / "nz.onnx", [node], [info("x", ("n", 5))], [info("y", (2, "k"), TensorProto.INT64)])
    runner = bench.backend.load(bench.built(path, BATCH), CONFIG)
    x = np.array([[0, 3, 0, 0, 1], [0, 0, 0, 2, 0]], dtype=np.float32)
    np.testing.assert_array_equal(runner.run({"x": x})["y"], [[0, 0, 1], [1, 4, 3]])
    assert runner.run({"x": 0 * x})["y"].shape == (2, 0)
    assert bench.gpu.memory == {}


def test_an_output_that_lies_on_the_host(bench: Bench, tmp_path: Path) -> None:
    node = helper.make_node("Shape", ["x"], ["host_shape"])
    path = saved(tmp_path / "shape.onnx", [node], [info("x", ("n", 5))], [info("host_shape", (2,), TensorProto.INT64)])
    runner = bench.backend.load(bench.built(path, BATCH), CONFIG)
    np.testing.assert_array_equal(runner.run({"x": np.zeros((7, 5), np.float32)})["host_shape"], [7, 5])


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "no input 'x'"),
        ({"x": np.zeros((2, 5))}, "input 'x' is float64: the engine takes float32"),
        ({"x": np.zeros((10, 5), np.float32)}, "input 'x' has shape [10, 5]: the engine takes [1, 5] to [9, 5]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    bench: Bench, tmp_path: Path, inputs: dict[str, np.ndarray], text: str
) -> None:
    runner = bench.backend.load(bench.built(linear(tmp_path), BATCH), CONFIG)
    with pytest.raises(BackendError) as caught:
        runner.run(inputs)
    assert text in str(caught.value)
    assert bench.gpu.memory == {}


def test_a_bfloat16_output_cannot_be_fetched(bench: Bench, tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    path = saved(tmp_path / "b.onnx", [node], [info("x", (2, 5))], [info("y", (2, 5), TensorProto.BFLOAT16)])
    fixed = TensorSpec("x", "float32", (2, 5), (2, 5), (2, 5))
    runner = bench.backend.load(bench.built(path, fixed), CONFIG)
    with pytest.raises(BackendError, match=r"tensor 'y' is BF16: NumPy has no such type\. Keep inputs and outputs in"):
        runner.run({"x": np.zeros((2, 5), np.float32)})


def test_a_plan_that_is_none_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.built(linear(tmp_path), BATCH)
    (tmp_path / "other.engine").write_bytes(b"another machine's")
    with pytest.raises(BackendError, match=r"other\.engine: the engine cannot be loaded: TensorRT gives no reason"):
        bench.backend.load(tmp_path / "other.engine", CONFIG)
    with pytest.raises(ArtifactError, match=r"none\.engine: is missing"):
        bench.backend.load(tmp_path / "none.engine", CONFIG)


def test_a_builder_that_refuses_is_quoted(bench: Bench, tmp_path: Path) -> None:
    bench.trt.refuse = "Error Code 4: no such thing. In build at /src/build.cpp:12)"
    with pytest.raises(BackendError, match="cannot build the graph: Error Code 4: no such thing"):
        bench.backend.build(linear(tmp_path), [BATCH], CONFIG, Silent())


def test_only_rtx_without_a_gpu_drops_what_is_said_of_the_driver(bench: Bench, tmp_path: Path) -> None:
    bench.trt.refuse = "catchCudaError: cudaError 35: CUDA driver version is insufficient"
    with pytest.raises(BackendError) as caught:
        bench.backend.build(linear(tmp_path), [BATCH], CONFIG, Silent())
    assert ("driver" in str(caught.value)) == (bench.backend.name == "tensorrt")


def test_capabilities_reach_the_builder_of_rtx_alone(bench: Bench, tmp_path: Path) -> None:
    config = EngineConfig(compute_capabilities=["sm120", "sm89"])
    refusal = bench.backend.refusal(config, "fp32")
    if bench.backend.name == "tensorrt":
        here = cuda.capability()
        assert str(refusal).startswith(
            f"engine.compute_capabilities: the GPU here is {here}, the engine's compute capability is sm120, sm89:"
        )
        assert "is none:" in str(bench.backend.refusal(EngineConfig(), "fp32"))
        assert bench.backend.refusal(EngineConfig(compute_capabilities=[here]), "fp32") is None
        other = next(c for c in ("sm80", "sm90") if c != here)
        assert bench.backend.why_not_run(EngineConfig(compute_capabilities=[other])) == (
            f"the engine is for {other}, the GPU here is {here}"
        )
        return
    assert refusal is None
    assert bench.backend.build(linear(tmp_path), [BATCH], config, Silent()).target == "sm120, sm89"
    assert bench.trt.seen["capabilities"] == {0: "SM120", 1: "SM89"}


def full(monkeypatch: pytest.MonkeyPatch, version: str | None) -> Backend:
    module = fake_tensorrt.make(version) if version else None
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    (backend,) = tensorrt.qntz_backends()
    return backend


def test_tensorrt_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = full(monkeypatch, "tensorrt-11.4.0.106")
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    assert str(backend.refusal(EngineConfig("tensorrt"), "fp32")) == (
        "engine.backend: tensorrt builds only on a machine with the target GPU: no CUDA GPU on this machine. Set"
        " engine.backend: tensorrt_rtx, which builds without one, or run this on a GPU machine."
    )


def test_tensorrt_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = full(monkeypatch, None).refusal(EngineConfig(), "fp32")
    assert "pip install 'qntz[gpu]'" in str(refusal)
    assert str(refusal).startswith("engine.backend: tensorrt ")


def test_another_major_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = full(monkeypatch, "tensorrt-11.4.0.106")
    sys.modules["tensorrt"].__version__ = "9.3.0"
    assert "tensorrt 9.3.0 is not known: qntz knows 10 and 11" in str(backend.refusal(EngineConfig("tensorrt"), "fp32"))


def test_the_stand_in_refuses_what_a_version_has_not() -> None:
    rtx, ten = fake_tensorrt.make("tensorrt_rtx-1.7.1.116"), fake_tensorrt.make("tensorrt-10.16.1.11")
    options = fake_tensorrt._create(ten, "IBuilderConfig", profiles=[])
    with pytest.raises(AttributeError, match="no 'set_compute_capability'"):
        options.set_compute_capability(1, 0)
    with pytest.raises(AttributeError, match="cannot be set"):
        options.num_compute_capabilities = 2
    with pytest.raises(TypeError, match="fit none of"):
        fake_tensorrt._create(rtx, "IExecutionContext").set_tensor_address("x", "not a number")
    with pytest.raises(TypeError, match="fit none of"):
        fake_tensorrt._create(rtx, "OnnxParser").parse_from_file(model="m", path="p")


def test_the_installed_rtx_is_the_recorded_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the backend touches on the stand-in, the real module has, with the recorded signature."""
    real = pytest.importorskip("tensorrt_rtx")
    version = "tensorrt_rtx-1.7.1.116"
    if f"tensorrt_rtx-{real.__version__}" != version:
        pytest.skip(f"{real.__version__} is installed, the record is of {version}")
    bench = Bench(version, monkeypatch)
    runtime = fake_cuda.cuda_python(bench.gpu)
    monkeypatch.setattr(cuda, "open_device", lambda: fake_device(runtime, monkeypatch))
    config = EngineConfig(workspace_bytes=1 << 20, optimization_level=2, compute_capabilities=["sm89"])
    plan = bench.built(linear(tmp_path), BATCH, config=config)
    bench.backend.load(plan, config).run({"x": np.zeros((2, 5), np.float32)})
    recorded = fake_tensorrt.recorded(version)["classes"]
    assert len(bench.trt.touched) > 30
    for kind, name in sorted(bench.trt.touched):
        member = getattr(getattr(real, kind), name)
        for signature in recorded[kind].get("methods", {}).get(name, ()):
            assert signature in member.__doc__.replace("tensorrt_rtx_bindings.tensorrt_rtx.", ""), (kind, name)
    for kind, record in recorded.items():
        for name, value in record.get("enum", {}).items():
            assert int(getattr(real, kind).__members__[name]) == value


def fake_device(runtime: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> cuda.Device:
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", types.SimpleNamespace(runtime=runtime))
    return cuda._CudaPython()
