"""Simplification: fewer nodes, the same outputs, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz import ort
from qntz.errors import ArtifactError, ParityError, RewriteError
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
