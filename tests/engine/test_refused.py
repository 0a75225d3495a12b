"""What a parser refuses, as a table: node, operator, module, source line, why, and what helps."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from plugins.small_determinant import qntz_graph_passes
from qntz.builtin.tensorrt_rtx import qntz_backends
from qntz.config import EngineConfig
from qntz.engine import refused_table
from qntz.errors import BackendError
from qntz.origins import origins
from qntz.progress import Silent
from qntz.records import Provided, TensorSpec
from tests.engine.engine_graphs import info, saved


@pytest.fixture
def refused(tmp_path: Path) -> tuple[onnx.ModelProto, BackendError]:
    pytest.importorskip("tensorrt_rtx")
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "/body/relu/Relu"),
        helper.make_node("Det", ["r"], ["d"], "/body/first/Det"),
        helper.make_node("Unique", ["d"], ["y"], "/head/Unique"),
    ]
    path = saved(tmp_path / "odd.onnx", nodes, [info("x", (2, 3, 3))], [info("y", ("k",))])
    (rtx,) = qntz_backends()
    with pytest.raises(BackendError) as caught:
        rtx.build(path, [TensorSpec("x", "float32", (2, 3, 3), (2, 3, 3), (2, 3, 3))], EngineConfig(), Silent())
    return onnx.load(path), caught.value


def test_every_node_with_its_line_and_what_helps(refused, tmp_path: Path) -> None:
    model, error = refused
    assert [node[:3] for node in error.nodes] == [(1, "/body/first/Det", "Det"), (2, "/head/Unique", "Unique")]
    (tmp_path / "net.py").write_text("class Net:\n    def forward(self, x):\n        return self.first(x)\n")
    sources = {"/body/first/Det": {"module": "body.first", "statement": "net.py:Net.forward:0"}}
    passes = [Provided(one, "plugins/small_determinant.py") for one in qntz_graph_passes("simplify")]
    head, *rows = refused_table(error.nodes, model, origins(model, sources), passes, tmp_path)
    assert head.split("  ")[0] == "node"
    det, unique = rows
    for part in ("/body/first/Det  Det", "body.first", "net.py:3 in Net.forward", "the parser does not take it"):
        assert part in det
    assert det.endswith("graph pass small-determinant (of plugins/small_determinant.py): let it run (simplify.forbid)")
    assert "small-determinant" not in unique
    assert head.index("operator") == det.index(" Det ") + 1 == unique.index(" Unique ") + 1
