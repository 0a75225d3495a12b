"""Models beyond protobuf's limit, which the tests lower: weights in a file of their own, through every stage."""

from __future__ import annotations

import errno
import re
import resource
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qntz import ort
from qntz import packed as packing
from qntz.artifacts import write_model
from qntz.calibrate import collect
from qntz.config import QuantizeConfig
from qntz.errors import ArtifactError, ExportError
from qntz.export import export
from qntz.packed import NONE, Packed, data_of, packed, read_frame, read_model, read_packed, size_at
from qntz.plugins import load
from qntz.quantize import quantize, runnable
from qntz.simplify import simplify
from qntz.torchscript import capture
from qntz.verify import layer_figures

X = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 64)


def product(*sizes: int) -> onnx.ModelProto:
    """x times weights of [64, size] each, summed over all of them."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((64, size), np.float32) for size in sizes]
    nodes, outputs = [], []
    for i in range(len(sizes)):
        nodes.append(helper.make_node("MatMul", ["x", f"w{i}"], [f"m{i}"], f"mul{i}"))
        nodes.append(helper.make_node("ReduceSum", [f"m{i}", "axis"], [f"s{i}"], f"sum{i}", keepdims=1))
        outputs.append(f"s{i}")
    nodes.append(helper.make_node("Sum", outputs, ["y"], "total"))
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [*tensors, numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected(model: onnx.ModelProto) -> np.ndarray:
    weights = [numpy_helper.to_array(one) for one in model.graph.initializer if one.name.startswith("w")]
    return sum((X @ weight).sum(1, keepdims=True) for weight in weights)


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 20 kB, of which the graph has 8."""
    monkeypatch.setattr(packing, "LARGEST", 20_000)
    monkeypatch.setattr(packing, "GRAPH", 8_000)


def test_a_model_that_fits_is_one_file(tmp_path) -> None:
    model = product(3, 4)
    write_model(tmp_path / "model.onnx", packed(model, "model.onnx"), both=True)
    assert data_of(tmp_path / "model.onnx").read_bytes() == NONE
    assert onnx.load(tmp_path / "model.onnx") == model
    assert read_packed(tmp_path / "model.onnx") == packed(model, "model.onnx")
    assert size_at(tmp_path / "model.onnx") == model.ByteSize()


def test_a_model_that_does_not_fit_is_two(low: None, tmp_path) -> None:
    model = product(40, 30, 2)  # 10,240, 7,680 and 512 bytes
    made = packed(model, "model.onnx")
    assert model == product(40, 30, 2)  # unchanged
    assert len(made.data) < 2_000
    assert sum(map(len, made.weights)) == 3 * 4096 + 7680  # the second begins at a page, the third stays in the graph
    assert made == packed(product(40, 30, 2), "model.onnx")
    write_model(tmp_path / "other.onnx", made)
    assert read_model(tmp_path / "other.onnx") == made.model() == model
    assert numpy_helper.to_array(onnx.load(tmp_path / "other.onnx").graph.initializer[1]).shape == (64, 30)
    again, other = read_packed(tmp_path / "other.onnx"), made.named("other.onnx")
    assert (again.name, again.data, again.weights[0]) == (other.name, other.data, b"".join(other.weights))
    assert again.model() == model
    assert size_at(tmp_path / "other.onnx") == made.size == len(made.data) + 3 * 4096 + 7680
    (got,) = ort.run_all(made, [{"x": X}])[0].values()
    np.testing.assert_allclose(got, expected(model), rtol=1e-5, atol=1e-4)
    (got,) = ort.run_all(tmp_path / "other.onnx", [{"x": X}])[0].values()
    np.testing.assert_allclose(got, expected(model), rtol=1e-5, atol=1e-4)


def test_a_temp_folder_that_is_full_is_no_bad_model(low: None, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = packed(product(40, 30, 2), "model.onnx")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ArtifactError) as caught:
            ort.session(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == (
        f"{tmp_path}: the model cannot be written: File too large. Free space there, or set TMPDIR to a folder that has some."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full", ["model.onnx", "model.onnx.data"])
def test_a_graph_and_its_weights_are_replaced_together(
    low: None, tmp_path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """Where one of them finds no space, both are what they were."""
    old, new = product(40, 30, 2), product(30, 40, 3)
    path = tmp_path / "model.onnx"
    write_model(path, packed(old, path.name), both=True)
    assert read_model(path) == old

    class NoSpace(type(path)):
        def open(self, mode="r", *args, **options):
            if "w" in mode and re.fullmatch(rf"\.{re.escape(full)}\.\d+\.tmp", self.name):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().open(mode, *args, **options)

    with pytest.raises(ArtifactError, match=rf"{re.escape(full)}: cannot be written: No space left on device"):
        write_model(NoSpace(path), packed(new, path.name), both=True)
    assert read_model(path) == old
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    write_model(path, packed(new, path.name), both=True)
    assert read_model(path) == new


def test_a_frame_is_all_but_the_graph(low: None, tmp_path) -> None:
    for sizes in ((3, 4), (40, 30, 2)):  # in one file, and in two
        model = product(*sizes)
        model.metadata_props.add(key="a", value="b" * 300)  # a length of two bytes
        model.model_version = 1 << 40
        write_model(tmp_path / "model.onnx", packed(model, "model.onnx"), both=True)
        model.ClearField("graph")
        assert read_frame(tmp_path / "model.onnx") == model


@pytest.mark.parametrize("data", [b"", b"\x3a", b"\x3a\x7fgraph", b"\xff\xff", b"\x0b", b"\x42\x02\x12\x7f"])
def test_a_frame_of_what_is_no_onnx_is_refused(data: bytes, tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model\.onnx: is no ONNX model"):
        read_frame(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"other\.onnx: is missing"):
        read_frame(tmp_path / "other.onnx")


def test_a_graph_that_alone_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGEST", 100)
    monkeypatch.setattr(packing, "GRAPH", 0)
    with pytest.raises(ExportError, match=r"model\.onnx: the model is too large"):
        packed(product(3), "model.onnx")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = torch.nn.Linear(64, 96), torch.nn.LayerNorm(96), torch.nn.Linear(96, 8)

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x)))).softmax(-1)


@pytest.mark.parametrize("method", ["trace", "dynamo"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_every_stage_takes_both_files(method: str, precision: str, low: None, tmp_path) -> None:
    net = Net().eval()
    probes = [{"x": X}, {"x": X[:1] * 2}, {"x": np.concatenate([X, X])}]
    captured = capture(net, probes[0], probes[1:], method=method, rewrites=[])
    exported = export(captured, tmp_path / "model.onnx", passes=())
    assert exported.file.weights
    small = simplify(
        tmp_path / "model.onnx",
        probes,
        captured.golden,
        passes=load(tmp_path).provided("qntz_graph_passes", phase="simplify"),
    )
    assert small.file.weights
    write_model(tmp_path / "simplified.onnx", small.file)
    histograms = collect(tmp_path / "simplified.onnx", probes) if precision == "int8" else {}
    config = QuantizeConfig(precision=precision)
    methods = load(tmp_path).records("qntz_threshold_methods")
    done = quantize(tmp_path / "simplified.onnx", histograms, tmp_path / "quantized.onnx", config, methods=methods)
    assert isinstance(done.file, Packed)
    with torch.no_grad():
        wanted = net(torch.from_numpy(X)).numpy()
    (got,) = ort.run_all(runnable(read_packed(tmp_path / "quantized.onnx")), [{"x": X}])[0].values()
    np.testing.assert_allclose(got, wanted, atol={"fp32": 1e-6, "fp16": 1e-3, "bf16": 1e-2, "int8": 3e-2}[precision])
    assert layer_figures(tmp_path / "simplified.onnx", runnable(done.file), probes[0])
    assert read_model(tmp_path / "quantized.onnx").graph.initializer


def kinds() -> onnx.ModelProto:
    """Weights of several types, one in a branch, one with a doc string, and fields before and after the graph."""
    rng = np.random.default_rng(1)
    arrays = {
        "half": rng.standard_normal((64, 40)).astype(np.float16),
        "double": rng.standard_normal((40, 30)),
        "whole": np.arange(600).reshape(30, 20),
        "truth": rng.random((50, 20)) > 0.5,
        "none": np.empty((0, 3), np.float32),
    }
    branches = []
    for factor in (1.0, -2.0):
        weight = numpy_helper.from_array(np.full(600, factor), "inner")
        node = helper.make_node("Mul", ["total", "inner"], ["y"])
        branches.append(helper.make_graph([node], "branch", [], [out("y")], [weight]))
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["low", "half"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["b", "double"], ["c"]),
        helper.make_node("Cast", ["whole"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["truth"], ["e"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["c", "d"], ["f"]),
        helper.make_node("ReduceSum", ["e"], ["g"], keepdims=0),
        helper.make_node("ReduceSum", ["f"], ["h"], keepdims=0),
        helper.make_node("Add", ["g", "h"], ["total"]),
        helper.make_node("Greater", ["total", "g"], ["large"]),
        helper.make_node("If", ["large"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors[1].doc_string = "with a field after the weights"
    graph = helper.make_graph(
        nodes,
        "kinds",
        [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [out("y")],
        tensors,
        doc_string="of the graph",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="qntz")
    helper.set_model_props(model, {"key": "value"})
    return model


def out(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)


@pytest.mark.parametrize("model", [product(64, 3000, 1), kinds()], ids=["product", "kinds"])
def test_a_models_bytes_are_protobufs_own(model: onnx.ModelProto) -> None:
    data = packed(model, "m.onnx").data
    assert data == model.SerializeToString(deterministic=True)


def test_a_file_without_its_weights_is_the_model_without_them(tmp_path: Path) -> None:
    from qntz.graph import without_weights
    from qntz.packed import read_bare

    large, small = np.arange(70_000, dtype=np.float32), np.arange(3, dtype=np.float32)
    nodes = [onnx.helper.make_node("Add", ["x", "large"], ["a"]), onnx.helper.make_node("Add", ["a", "large"], ["y"])]
    tensor = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "g",
            [tensor("x", 1, [70_000])],
            [tensor("y", 1, [70_000])],
            [onnx.numpy_helper.from_array(large, "large"), onnx.numpy_helper.from_array(small, "small")],
        )
    )
    path = tmp_path / "one.onnx"
    path.write_bytes(made.SerializeToString())
    bare, (weight,) = read_bare(path)
    assert bare == without_weights(made)
    assert (weight.name, weight.data_type, weight.dims) == ("large", 1, (70_000,))
    np.testing.assert_array_equal(np.frombuffer(weight.data, np.float32), large)


def test_a_number_without_an_end_is_no_model(tmp_path: Path) -> None:
    from qntz.packed import read_bare, read_frame

    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\xff" * 4_000_000)
    for read in (read_frame, read_bare):
        with pytest.raises(ArtifactError, match="bad.onnx: is no ONNX model: "):
            read(path)
