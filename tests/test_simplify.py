"""Simplification: fewer nodes, the same outputs, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qntz import ort
from qntz.errors import ArtifactError, ExportError, ParityError, RewriteError
from qntz.records import GraphPass, Provided
from qntz.simplify import record, simplify

PROBES = [{"x": np.arange(n * 3, dtype=np.float32).reshape(n, 3)} for n in (1, 4)]


def foldable(tmp_path: Path) -> Path:
    """y = x * (2 + 3), with the sum still in the graph, and an Identity."""
    constants = [numpy_helper.from_array(np.float32([v]), n) for v, n in ((2, "two"), (3, "three"))]
    nodes = [
        helper.make_node("Add", ["two", "three"], ["five"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Mul", ["same", "five"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def expected() -> list:
    return [{"y": probe["x"] * 5} for probe in PROBES]


def test_constants_fold_and_the_outputs_stay(tmp_path: Path) -> None:
    simplified = simplify(foldable(tmp_path), PROBES, expected())
    assert simplified.operators_before == {"Add": 1, "Identity": 1, "Mul": 1}
    assert simplified.operators_after == {"Mul": 1}
    assert simplified.parity.error == 0
    np.testing.assert_array_equal(ort.run_all(simplified.data, PROBES)[1]["y"], PROBES[1]["x"] * 5)
    assert simplify(tmp_path / "model.onnx", PROBES, expected()).data == simplified.data


@pytest.mark.parametrize("method", ["onnxsim", "onnxslim", "none"])
def test_each_method_tells_what_it_folded(tmp_path: Path, method: str) -> None:
    path = foldable(tmp_path)
    simplified = simplify(path, PROBES, expected(), method=method)
    told = record(simplified, 1e-4)["folded"]
    assert (told["name"], told["nodes"][0], told["bytes"][0]) == (method, 3, path.stat().st_size)
    folds = {"Add": [1, 0], "Identity": [1, 0]}
    assert (told["nodes"][1], told["operators"]) == ((3, {}) if method == "none" else (1, folds))
    np.testing.assert_array_equal(ort.run_all(simplified.data, PROBES)[1]["y"], PROBES[1]["x"] * 5)
    assert simplify(path, PROBES, expected(), method=method).data == simplified.data


def attention(tmp_path: Path) -> tuple[Path, list, list]:
    """Attention of two heads as torch exports it, with probes and the eager outputs."""
    torch.manual_seed(0)
    layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key, value = (layer(x).view(x.shape[0], 5, 2, 4).transpose(1, 2) for layer in self.layers[:3])
            weight = torch.softmax(query @ key.transpose(2, 3) * 0.5, -1)
            return self.layers[3]((weight @ value).transpose(1, 2).reshape(x.shape[0], 5, 8))

    x = torch.randn(3, 5, 8)
    dims = {"x": {0: "n"}, "y": {0: "n"}}
    kwargs = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": dims, "opset_version": 17, "dynamo": False}
    torch.onnx.export(Net(), (x,), str(tmp_path / "model.onnx"), **kwargs)
    return tmp_path / "model.onnx", [{"x": x.numpy()}], [{"y": Net()(x).detach().numpy()}]


@pytest.mark.parametrize("method", ["onnxsim", "onnxslim"])
def test_attention_stays_in_operators_that_every_runtime_takes(tmp_path: Path, method: str) -> None:
    simplified = simplify(*attention(tmp_path), method=method)
    assert simplified.operators_after["MatMul"] >= 2
    assert {node.domain for node in onnx.load_from_string(simplified.data).graph.node} == {""}


def test_operators_of_onnx_runtime_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qntz.simplify._FOR_ONNXRUNTIME", ())
    with pytest.raises(ExportError) as caught:
        simplify(*attention(tmp_path))
    assert str(caught.value) == (
        "simplified.onnx: onnxsim brings in an operator of com.microsoft, Attention: only ONNX Runtime takes it."
        " Set simplify.method to another: onnxslim, none."
    )


def test_a_pass_tells_what_it_folded(tmp_path: Path) -> None:
    def twice(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
        (last,) = model.graph.node
        last.output[0] = "once"
        model.graph.node.append(helper.make_node("Identity", ["once"], ["y"]))
        return model, 1

    (told,) = simplify(foldable(tmp_path), PROBES, expected(), passes=[Provided(GraphPass("twice", twice), "p")]).passes
    assert (told["nodes"], told["operators"], told["error"]) == ([1, 2], {"Identity": [0, 1]}, 0.0)


def test_other_outputs_than_the_eager_models_are_refused(tmp_path: Path) -> None:
    wrong = [{"y": run["y"] * 1.001} for run in expected()]
    with pytest.raises(ParityError) as error:
        simplify(foldable(tmp_path), PROBES, wrong)
    assert "simplified.onnx: differs from the eager model: output 'y' on probe" in str(error.value)
    assert simplify(foldable(tmp_path), PROBES, wrong, tolerance=2e-3).parity.error == pytest.approx(1e-3, rel=0.01)


def test_a_pass_that_changes_the_outputs_is_refused(tmp_path: Path) -> None:
    def spoil(model):
        model.graph.node[0].op_type = "Add"
        return model, 1

    with pytest.raises(RewriteError, match="p: graph pass 'spoil' changes what the graph computes: y is off by"):
        simplify(foldable(tmp_path), PROBES, expected(), passes=[Provided(GraphPass("spoil", spoil), "p")])


def test_a_required_pass_has_to_fire(tmp_path: Path) -> None:
    idle = Provided(GraphPass("idle", lambda model: (model, 0)), "plugins/idle.py")
    assert simplify(foldable(tmp_path), PROBES, expected(), passes=[idle]).passes[0]["fired"] == 0
    with pytest.raises(RewriteError, match="idle"):
        simplify(foldable(tmp_path), PROBES, expected(), passes=[idle], require=["idle"])


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = foldable(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=r"model\.onnx: is no ONNX model"):
        simplify(path, PROBES, expected())
