"""What a configuration, a link or a graph names never leads a write out of build/, nor a read of weights elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qntz.artifacts import require_inside
from qntz.compose import compose
from qntz.errors import ArtifactError
from qntz.packed import packed, read_bare, read_model


def stage(project: Path, name: str, entry: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", entry], cwd=project, capture_output=True, text=True, timeout=120
    )


def test_a_link_below_build_that_leads_elsewhere_is_refused(project: Path, tmp_path_factory) -> None:
    compose(project)
    outside = tmp_path_factory.mktemp("outside")
    engine = "models/digits/engines/digits-int8"
    for linked in ("models", "models/digits", "models/digits/captured", "reports", engine):
        place = project / "build" / linked
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(outside)
        name, entry = ("quantize", "digits-int8") if linked == engine else ("simplify", "digits")
        done = stage(project, name, entry)
        place.unlink()
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {name} {entry}: build/{linked}")
        assert "leads out of build/: to " in done.stderr
        assert done.stderr.count("\n") == 1
        assert list(outside.iterdir()) == []
    (project / "victim.yaml").write_text((project / "build/config/models/digits.yaml").read_text())
    done = stage(project, "simplify", "../../../victim")  # by hand: compose takes no such name
    assert done.returncode == 2
    assert "'../../../victim' is no name" in done.stderr


@pytest.mark.parametrize("linked", ["config", "config/models", "memo"])
def test_compose_writes_through_no_link(project: Path, tmp_path_factory, linked: str) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept.yaml").write_text("kept")
    (project / "build" / linked).parent.mkdir(parents=True, exist_ok=True)
    (project / "build" / linked).symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"leads out of build/"):
        compose(project)
    assert [path.name for path in outside.iterdir()] == ["kept.yaml"]


def test_build_itself_may_be_a_link(project: Path, tmp_path_factory) -> None:
    disk = tmp_path_factory.mktemp("disk")
    (project / "build").symlink_to(disk)
    compose(project)
    assert (disk / "config/models/digits.yaml").is_file()
    require_inside(project, project / "build/models/digits/captured")


# graphs whose weights lie elsewhere


def graph(location: str, *, constant: bool = False) -> bytes:
    """x + w, w in an external file: as an initializer, or as a Constant's attribute."""
    weight = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if constant:
        node = helper.make_node("Constant", [], ["w"])
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(weight)
        made = helper.make_graph([node, *nodes], "g", [x], [y])
    else:
        made = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("location", ["../secret", "secret", "/etc/hostname", "a/../../secret", "", "m.onnx.data/../s"])
def test_weights_are_read_from_the_file_beside_the_graph_alone(tmp_path: Path, location: str, constant: bool) -> None:
    path = tmp_path / "model/m.onnx"
    path.parent.mkdir()
    for secret in (tmp_path / "secret", path.parent / "secret"):
        secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    path.write_bytes(graph(location, constant=constant))
    with pytest.raises(ArtifactError) as error:
        read_model(path)
    assert "m.onnx: is no ONNX model" in str(error.value)
    assert "\n" not in str(error.value)
    if not constant:
        with pytest.raises(ArtifactError):
            read_bare(path)


def test_a_link_in_the_place_of_the_weights_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "model/m.onnx"
    path.parent.mkdir()
    (tmp_path / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (path.parent / "m.onnx.data").symlink_to("../secret")
    path.write_bytes(graph("m.onnx.data"))
    with pytest.raises(ArtifactError, match=r"m\.onnx: is no ONNX model"):
        read_model(path)


def test_weights_beside_the_graph_are_read_and_written_where_the_path_says(tmp_path: Path) -> None:
    path = tmp_path / "model/m.onnx"
    path.parent.mkdir()
    (path.parent / "m.onnx.data").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    path.write_bytes(graph("m.onnx.data"))
    model = read_model(path)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), [0, 1, 2, 3])
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    model.graph.initializer[0].external_data.add(key="location", value="../written")  # left over from elsewhere
    assert packed(model, "again.onnx").write(path.parent) == path.parent / "again.onnx"
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == ["model/again.onnx"]
