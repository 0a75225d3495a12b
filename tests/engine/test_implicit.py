"""int8 by a calibration cache, which TensorRT 10 alone has: the float graph, its ranges, and what is refused."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qntz.artifacts import ModelPaths, read_json
from qntz.builtin.onnxruntime import qntz_backends as onnxruntime_backends
from qntz.builtin.tensorrt_rtx import qntz_backends as rtx_backends
from qntz.config import Config, DimConfig, EngineConfig, InputConfig, ModelConfig, QuantizeConfig
from qntz.errors import BackendError, ConfigError
from qntz.progress import Silent
from qntz.quantize import Quantized, calibration_cache
from qntz.records import Built, TensorSpec
from stages.engine import work
from stages.entry import Job
from tests.engine.engine_graphs import info, linear, saved
from tests.engine.test_tensorrt_api import Bench, bench  # noqa: F401
from tests.quantize.conftest import Bench as Quantizing
from tests.quantize.conftest import Graphs, graphs, methods  # noqa: F401

CONFIG = EngineConfig("tensorrt", compute_capabilities=["sm89"], implicit_int8=True)
FILES = ("quantized.onnx", "calibration.cache")
SHAPES = {"mlp": (6,), "conv_net": (3, 6, 5), "attention": (4, 6)}
ten = pytest.mark.parametrize("bench", ["tensorrt-10.16.1.11"], indirect=True)


@dataclass
class Made:
    """A graph, what quantize made of it, and data that it was calibrated on."""

    model: onnx.ModelProto
    quantized: Quantized
    path: Path
    x: np.ndarray
    run: object

    def built(self, bench: Bench) -> tuple[Built, onnx.ModelProto]:  # noqa: F811
        sizes = self.x.shape[1:]
        spec = TensorSpec("x", "float32", (1, *sizes), (4, *sizes), (9, *sizes))
        built = bench.backend.build(self.path, [spec], CONFIG, Silent())
        return built, onnx.load_from_string(bytes(built.plan))


def made(graphs: Graphs, methods: dict, folder: Path, kind: str, change=lambda model: None, **config) -> Made:  # noqa: F811
    quantizing = Quantizing(folder, methods)
    model = getattr(graphs, kind)()
    change(model)
    x = graphs.rng.normal(0, 2, (16, *SHAPES[kind])).astype(np.float32)
    quantized = quantizing.quantized(model, quantizing.calibrated(model, x=x), precision="int8", **config)
    path = folder / "quantized.onnx"
    onnx.save(quantizing.written, path)
    (folder / "calibration.cache").write_bytes(calibration_cache(quantized))
    return Made(model, quantized, path, x, quantizing.run)


@ten
@pytest.mark.parametrize("kind", SHAPES)
def test_the_float_graph_is_built_with_the_ranges_of_the_cache(
    bench: Bench,  # noqa: F811
    graphs: Graphs,  # noqa: F811
    methods: dict,  # noqa: F811
    tmp_path: Path,
    kind: str,
) -> None:
    one = made(graphs, methods, tmp_path, kind, method="max")
    assert bench.backend.refusal(CONFIG, "int8") is None
    built, plan = one.built(bench)
    seen = bench.trt.seen
    assert {node.op_type for node in plan.graph.node} == {node.op_type for node in one.model.graph.node}
    np.testing.assert_array_equal(one.run(plan, x=one.x), one.run(one.model, x=one.x))
    header, *lines = seen["cache"].decode().splitlines()
    assert header == "TRT-101601-EntropyCalibration2"
    read = {name: struct.unpack(">f", bytes.fromhex(text))[0] for name, text in (line.split(": ") for line in lines)}
    assert read == {name: np.float32(amax / 127) for name, amax in one.quantized.ranges.items()}
    assert read.keys() <= {"x", *(name for node in plan.graph.node for name in node.output)}
    assert (seen["config"]._set, seen["flags"]) == ({"INT8"}, 0)
    assert built.inputs[0].max == (9, *SHAPES[kind])
    held = {tensor.name for tensor in plan.graph.initializer}
    assert not {name for name in held if name.endswith(("_scale", "_zero_point"))}


@ten
def test_rescaled_channels_and_corrected_biases_stay(
    bench: Bench,  # noqa: F811
    graphs: Graphs,  # noqa: F811
    methods: dict,  # noqa: F811
    tmp_path: Path,
) -> None:
    def uneven(model: onnx.ModelProto) -> None:
        """The first channel that the transposed convolution makes is 64 times as large as the others."""
        for tensor in model.graph.initializer:
            if tensor.name == "k3":
                values = numpy_helper.to_array(tensor).copy()
                values[:2, 0] *= 64
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    one = made(graphs, methods, tmp_path, "conv_net", uneven, rescale=True, correct_biases=True)
    (exponent, *others) = one.quantized.rescaled["up"]
    assert exponent > max(others)
    assert len(one.quantized.corrected) == 4
    _, plan = one.built(bench)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in plan.graph.initializer}
    assert len([name for name in held if "/bias_corrected/" in name]) == 4
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in one.model.graph.initializer}
    np.testing.assert_array_equal(held["k3"][:2, 0] * 2.0**exponent, before["k3"][:2, 0])
    np.testing.assert_array_equal(held["w"][0] / 2.0**exponent, before["w"][0])
    expected = one.run(one.model, x=one.x)  # what the biases make up for is as small as the rounding of weights
    np.testing.assert_allclose(one.run(plan, x=one.x), expected, atol=0.02 * np.abs(expected).max())


@ten
def test_half_precision_elsewhere_lets_the_builder_choose_it_too(
    bench: Bench,  # noqa: F811
    graphs: Graphs,  # noqa: F811
    methods: dict,  # noqa: F811
    tmp_path: Path,
) -> None:
    one = made(graphs, methods, tmp_path, "mlp", elsewhere="fp16")
    _, plan = one.built(bench)
    assert bench.trt.seen["config"]._set == {"INT8", "FP16"}
    lines = bench.trt.seen["cache"].decode().splitlines()[1:]
    scales = {name: text for name, _, text in (line.partition(": ") for line in lines)}
    made_by = {output: node for node in plan.graph.node for output in node.output}
    (cast,) = [name for name in scales if name in made_by and made_by[name].op_type == "Cast"]
    assert made_by[cast].input[0] == "x"  # the tensor that is read in half precision, and the one that the cache has
    assert scales[cast] == scales["x"]
    assert set(scales) == {"x", cast, "r"}
    np.testing.assert_allclose(one.run(plan, x=one.x), one.run(one.model, x=one.x), atol=0.05)


@ten
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("r: ", "other: ", "has no range of r"),
        ("r: ", "more: 3f800000\nr: ", "has ranges of what the graph does not quantize: more"),
        ("r: ", "r: 3f800000\n#: ", "has ranges of what the graph does not quantize: #"),
        ("TRT", "r: 3f800000\nx", None),
    ],
)
def test_a_cache_of_another_graph_is_refused(
    bench: Bench,  # noqa: F811
    graphs: Graphs,  # noqa: F811
    methods: dict,  # noqa: F811
    tmp_path: Path,
    old: str,
    new: str,
    told: str | None,
) -> None:
    one = made(graphs, methods, tmp_path, "mlp")
    cache = tmp_path / "calibration.cache"
    text = cache.read_text()
    if told is None:  # other ranges of the same tensors
        lines = [line if ":" not in line else line[:-8] + "3f800000" for line in text.splitlines()]
        cache.write_text("\n".join(lines) + "\n")
        told = "has other ranges than quantized.onnx of r, x"
    else:
        cache.write_text(text.replace(old, new))
    with pytest.raises(BackendError) as caught:
        one.built(bench)
    assert str(caught.value).startswith(f"{cache}: {told}: TensorRT takes ranges by the names of tensors")
    assert "cache" not in bench.trt.seen
    cache.unlink()
    with pytest.raises(BackendError, match=r"calibration\.cache: is missing or damaged"):
        one.built(bench)


@ten
def test_what_is_no_pair_is_refused(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    """A weight that is stored in int8, as a graph pass may write it."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wide"], name="widened"),
        helper.make_node("MatMul", ["x", "wide"], ["y"], name="product"),
    ]
    weights = {"w": np.ones((5, 3), np.int8), "s": np.float32(0.5)}
    path = saved(tmp_path / "quantized.onnx", nodes, [info("x", (2, 5))], [info("y", (2, 3))], **weights)
    (tmp_path / "calibration.cache").write_text("TRT-101600-EntropyCalibration2\n")
    spec = TensorSpec("x", "float32", (2, 5), (2, 5), (2, 5))
    with pytest.raises(
        BackendError, match=r"quantized\.onnx: widened cannot be taken out of the graph: TensorRT takes"
    ):
        bench.backend.build(path, [spec], CONFIG, Silent())


@ten
@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ((np.float32(0.5), np.float32(2)), "'x' is quantized by two scales"),
        ((np.full(5, 0.5, np.float32), np.full(5, 0.5, np.float32)), "rounded0, widened0, rounded1"),
    ],
)
def test_what_a_cache_cannot_hold_is_refused(bench: Bench, tmp_path: Path, scales: tuple, told: str) -> None:  # noqa: F811
    nodes, weights = [], {}
    for index, scale in enumerate(scales):
        axis = {"axis": 1} if scale.ndim else {}
        named = [f"s{index}", f"z{index}"]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", *named], [f"q{index}"], name=f"rounded{index}", **axis),
            helper.make_node("DequantizeLinear", [f"q{index}", *named], [f"d{index}"], name=f"widened{index}", **axis),
        ]
        weights |= {f"s{index}": scale, f"z{index}": np.zeros(scale.shape, np.int8)}
    nodes.append(helper.make_node("Add", ["d0", "d1"], ["y"]))
    path = saved(tmp_path / "quantized.onnx", nodes, [info("x", (2, 5))], [info("y", (2, 5))], **weights)
    (tmp_path / "calibration.cache").write_text("TRT-101600-EntropyCalibration2\nx: 40000000\n")
    with pytest.raises(BackendError) as caught:
        bench.backend.build(path, [TensorSpec("x", "float32", (2, 5), (2, 5), (2, 5))], CONFIG, Silent())
    assert told in str(caught.value)


@ten
def test_an_asymmetric_pair_is_refused(bench: Bench, graphs: Graphs, methods: dict, tmp_path: Path) -> None:  # noqa: F811
    one = made(graphs, methods, tmp_path, "mlp")
    model = onnx.load(one.path)
    (zero,) = [tensor for tensor in model.graph.initializer if tensor.name == "r_zero_point"]
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    onnx.save(model, one.path)
    with pytest.raises(BackendError, match="r_QuantizeLinear, r_DequantizeLinear cannot be taken out of the graph"):
        one.built(bench)


def test_only_tensorrt_10_has_it(bench: Bench) -> None:  # noqa: F811
    told = str(bench.backend.refusal(EngineConfig(bench.backend.name, ["sm89"], implicit_int8=True), "int8"))
    assert (
        told
        == {
            "tensorrt_rtx": "engine.implicit_int8: tensorrt_rtx has no implicit_int8: tensorrt has this option, up to version"
            " 10. Remove it: the int8 of quantize is explicit Q/DQ, which tensorrt_rtx takes.",
            "tensorrt": "None"
            if bench.trt.__version__.startswith("10.")
            else "engine.implicit_int8: tensorrt 11.4.0.106 has no implicit int8: TensorRT 10 has it. Remove it: the int8 of"
            " quantize is explicit Q/DQ, which every version takes.",
        }[bench.backend.name]
    )


@pytest.mark.parametrize("backends", [rtx_backends, onnxruntime_backends])
def test_it_is_refused_as_the_entry_is_composed(backends) -> None:
    (backend,) = backends()
    model = ModelConfig(factory={"_target_": "a.B"}, inputs={"x": InputConfig(shape=[1])})
    with pytest.raises(ConfigError, match=f"engine.implicit_int8: {backend.name} has no implicit_int8"):
        Config(model, quantize=QuantizeConfig("int8"), engine=EngineConfig(backend.name, implicit_int8=True))
    for precision in ("fp32", "fp16", "fp8", "int4"):
        with pytest.raises(ConfigError, match=rf"implicit_int8: there are no ranges of int8 in {precision}: TensorRT"):
            Config(model, quantize=QuantizeConfig(precision), engine=CONFIG)
    Config(model, quantize=QuantizeConfig("int8"), engine=CONFIG)


@ten
def test_without_it_nothing_is_implicit(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    spec = TensorSpec("x", "float32", (1, 5), (4, 5), (9, 5))
    bench.backend.build(linear(tmp_path), [spec], EngineConfig("tensorrt", ["sm89"]), Silent())
    assert "_int8_calibrator" not in bench.trt.seen["config"].__dict__
    assert bench.trt.seen["flags"] == 1 << 1


def stage(folder: Path) -> Job:
    model = types.SimpleNamespace(inputs={"x": InputConfig(shape=["n", 6])}, dims={"n": DimConfig(1, 4, 9)})
    config = types.SimpleNamespace(model=model, engine=CONFIG, quantize=QuantizeConfig("int8"))
    inputs = {"code": "c0de", "plugins": {}, "tools": {"onnx": onnx.__version__}}
    job = Job(folder, "engine", "net-int8", config, inputs, ModelPaths(folder, "net"))
    job.paths.folder.mkdir(parents=True)
    return job


@ten
@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL])
def test_a_builder_that_ends_leaves_no_graph_behind(
    bench: Bench,  # noqa: F811
    graphs: Graphs,  # noqa: F811
    methods: dict,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: signal.Signals,
) -> None:
    job = stage(tmp_path)
    made(graphs, methods, job.paths.folder, "mlp")
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))

    def ends(self, network, config):
        (graph,) = (tmp_path / "temp").rglob("float.onnx")
        graph.rename(tmp_path / "was there")
        os.kill(os.getpid(), end)

    monkeypatch.setattr(bench.trt.Builder, "build_serialized_network", ends)
    with pytest.raises(BackendError, match=rf"the builder ended: signal {end.name}\."):
        work(job)
    assert (tmp_path / "was there").is_file()
    assert list((tmp_path / "temp").iterdir()) == []


@ten
def test_the_stage_records_the_cache(bench: Bench, graphs: Graphs, methods: dict, tmp_path: Path) -> None:  # noqa: F811
    job = stage(tmp_path)
    paths = job.paths
    one = made(graphs, methods, paths.folder, "mlp")
    work(job)
    record = read_json(paths.engine_json)
    digests = {name: hashlib.sha256((paths.folder / name).read_bytes()).hexdigest() for name in FILES}
    assert {name: record["made_from"][name] for name in FILES} == digests
    assert record["options"]["implicit_int8"] is True
    # The network's own types: which layers run in int8 the builder decides.
    assert record["details"]["network_layers_by_precision"] == {"fp32": 4}
    plan = onnx.load_from_string(paths.plan.read_bytes())
    np.testing.assert_array_equal(one.run(plan, x=one.x), one.run(one.model, x=one.x))
