"""A model that gives its inner tensors beside its outputs, for hardly more than it takes alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qntz import ort
from qntz.graph import graphs_of, nodes_of
from qntz.packed import packed
from qntz.records import Arrays

if TYPE_CHECKING:
    import onnx
    import onnxruntime

REORDER, BLOCKED = "ReorderOutput", "com.microsoft.nchwc"
LARGEST_BLOCK = 16  # channels; on some processors ONNX Runtime takes 8


class Tapped:
    """Runs a model on one core, in as many threads as call it at a time.

    ONNX Runtime holds the outputs of convolutions in blocks of channels, and would put what is asked for into the order
    of ONNX, which takes as long as counting it. So its optimised graph is taken without that: such a tensor's elements
    come in another order, all of them and no others.

    Attributes:
        inputs: the names and shapes of the model's own.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        """model: is emptied. tensors: of its top-level graph, inputs or not. Raises ExportError where ONNX Runtime
        refuses it."""
        fed = {value.name for value in model.graph.input}
        self._fed = [name for name in tensors if name in fed]
        self._outputs = {name: name for name in tensors if name not in fed}
        self._unordered: dict[str, str] = {}
        self._session = self._opened(model)
        self._block = _block_size() if self._unordered else 0
        self.inputs = {argument.name: list(argument.shape) for argument in self._session.get_inputs()}

    def block(self, tensor: str) -> int:
        """The channels of a block where the tensor's elements come in blocks of them, 0 where in ONNX's order."""
        return self._block if tensor in self._unordered else 0

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The tensors' elements by name, those of inputs that are given among them; raises ExportError as `ort.run`."""
        values = {name: inputs[name] for name in self._fed if name in inputs}
        if self._outputs:
            outputs = ort.run(self._session, inputs, list(self._outputs.values()))
            values |= {name: outputs[held] for name, held in self._outputs.items()}
        return values

    def _opened(self, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
        import onnx

        # As graph outputs they keep their names and values through every optimisation.
        present = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._outputs if name not in present)
        # ONNX Runtime gives blocked tensors of a graph and of its subgraphs one name, and refuses to read that again.
        nested = any(True for one in graphs_of(model.graph) if one is not model.graph)
        blocked = not nested and any(node.op_type == "Conv" for node in model.graph.node)
        file = packed(model, "tapped.onnx")
        model.Clear()  # so that the weights are held by one at a time
        if not blocked:
            return ort.session(file, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "optimised.onnx"
            session = ort.session(file, threads=1, written=written)
            optimised = onnx.load(written, load_external_data=False)
            self._unordered = _unordered(optimised, set(self._outputs) - present)
            if not self._unordered:
                return session
            del session, file
            self._outputs |= self._unordered
            onnx.save(optimised, written)
            return ort.session(written, threads=1, optimize=ort.DISABLE)


def _unordered(model: onnx.ModelProto, outputs: set[str]) -> dict[str, str]:
    """Makes the blocked tensors of an optimised graph its outputs, in place of those that are put in order for it and
    for nothing else; their names by those of the outputs. Blocks that are filled up with zeros are left alone."""
    import onnx

    graph = model.graph
    read = {name for node in nodes_of(graph) for name in node.input}
    unordered = {}
    for node in list(graph.node):
        if node.op_type != REORDER or node.domain != BLOCKED or node.output[0] not in outputs:
            continue
        channels = next(attribute.i for attribute in node.attribute if attribute.name == "channels")
        if channels % LARGEST_BLOCK == 0 and node.output[0] not in read:
            unordered[node.output[0]] = node.input[0]
            graph.node.remove(node)
    kept = [value for value in graph.output if value.name not in unordered]
    del graph.output[:]
    graph.output.extend(kept)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(unordered.values()))
    return unordered


def _block_size() -> int:
    """How many channels ONNX Runtime puts into a block on this processor: which element of a ramp comes second."""
    from onnx import TensorProto, helper

    node = helper.make_node(REORDER, ["x"], ["y"], domain=BLOCKED, channels=LARGEST_BLOCK)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, LARGEST_BLOCK, 1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([node], "ramp", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED, 1)])
    model.ir_version = 8
    ramp = np.arange(2 * LARGEST_BLOCK, dtype=np.float32).reshape(1, LARGEST_BLOCK, 1, 2)
    out = ort.run(ort.session(model.SerializeToString(), threads=1), {"x": ramp})["y"]
    return int(out[0, 0, 0, 1])
