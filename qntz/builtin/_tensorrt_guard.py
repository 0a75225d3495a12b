"""What TensorRT would build without a word although it is wrong: refused before the build, from the ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qntz.config import OPSETS
from qntz.errors import BackendError, one_line
from qntz.guard import guarded

if TYPE_CHECKING:
    import onnx

    from qntz.packed import Weight

T = TypeVar("T")
BESIDE = 2**24  # bytes of large weights, from which on a process of its own pays
# Where an infinite value can only be a broken weight. Elsewhere it can be meant: a mask adds minus infinity.
WEIGHTED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN"),
    *("BatchNormalization", "LayerNormalization", "QuantizeLinear", "DequantizeLinear"),
)
# What NVIDIA's ONNX Opset Guide for TensorRT 11 states. The parser itself takes any number, and reads the operators as
# those that it knows.
PARSED = (9, 25)
# The types that TensorRT's parser takes (found by one constant and one input of each, TensorRT-RTX 1.7).
TYPES = (
    *("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "FLOAT8E4M3FN", "FLOAT4E2M1"),
    *("INT4", "INT8", "UINT8", "INT32", "INT64", "BOOL"),
)
INFINITE, SIGNLESS = {"float16": 0x7C00, "bfloat16": 0x7F80}, np.uint16(0x7FFF)  # infinity's bits; all but the sign
PACKED = ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")
ONNX, UNKNOWN = ("", "ai.onnx"), "unknown"  # domains; of the last ONNX's check asks nothing
SIZES = ("Shape", "Size")  # look at no value
# Move values, and so round them to float32 as the cast after them would.
MOVES = (
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
    *("Gather", "GatherElements", "GatherND", "Slice", "Split", "Concat"),
)
ADDED = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}  # inputs from which on they are added, as a mask is
NO_DOUBLE = "TensorRT has no float64 and would take it for float32"


def load_operators() -> None:
    """Loads what ONNX knows of its operators, by which a graph is checked: a table that it makes on first use."""
    import onnx

    onnx.defs.has("Identity", 1, "")


def build_guarded(path: Path, build: Callable[[], T]) -> T:
    """What `build` returns, which makes an engine of an ONNX file, where that file means what TensorRT will make of it.

    The values of large weights are looked at in a process beside the builder, which takes one core. (Not in a thread:
    the start of TensorRT and NumPy have been seen to wait for one another for ever.)

    Raises:
        ArtifactError: there is no such file, or it is no ONNX.
        BackendError: the graph has no nodes or no outputs, an opset that TensorRT does not know, is not valid ONNX, or
            holds a type that TensorRT lacks; an input or output is float64, or a node computes in it; a weight is
            damaged, NaN or infinite; something is quantized to uint8. Whatever else `build` raises.
    """
    from qntz.graph import graphs_of
    from qntz.packed import read_bare

    model, weights = read_bare(path)
    _require_graph(model, path)
    _require_opset(model, path)
    _require_valid(model, path)
    bare = _without_functions(model)
    graphs = list(graphs_of(bare.graph))
    _require_types(model, graphs, weights, path)
    _require_no_double(bare, graphs, path)
    _require_signed(graphs, path)
    if sum(len(weight.data) for weight in weights) < BESIDE:
        _require_finite(graphs, weights, path)
        return build()
    built: list[T] = []
    guarded(
        lambda _: _require_finite(graphs, weights, path),
        ended=lambda how: BackendError("the look at the weights ended", where=str(path), why=how, do="Run it again."),
        meanwhile=lambda: built.append(build()),
    )
    return built[0]


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _require_graph(model: onnx.ModelProto, path: Path) -> None:
    for kind, there in (("nodes", model.graph.node), ("outputs", model.graph.output)):
        if not there:
            do = "Export a model that computes something."
            raise BackendError("the graph is empty", where=str(path), why=f"it has no {kind}", do=do)


def _require_opset(model: onnx.ModelProto, path: Path) -> None:
    from qntz.graph import default_opset

    first, last = PARSED
    if not first <= (opset := default_opset(model)) <= last:
        raise BackendError(
            f"opset {opset} is too {'old' if opset < first else 'new'}",
            where=str(path),
            why=f"TensorRT's parser knows {first} to {last}, and would read its operators as those",
            do=f"Give export.opset a number of {OPSETS[0]} to {OPSETS[1]}, or mend what wrote the graph.",
        )


def _require_valid(model: onnx.ModelProto, path: Path) -> None:
    """ONNX's own check: the parser leaves out attributes that it does not know, and sorts what has no order. Operators
    that ONNX does not know are the parser's to judge, which may have a plugin for them."""
    import onnx

    from qntz.graph import nodes_of, without_weights

    judged = without_weights(model)
    for imports, holder in ((judged, judged.graph), *((function, function) for function in judged.functions)):
        opsets = {one.domain: one.version for one in imports.opset_import}
        opset = opsets.get("", opsets.get("ai.onnx", 1))
        for node in nodes_of(holder):
            if node.domain in ONNX:
                node.domain = "" if "" in opsets else "ai.onnx"
            own = node.domain in ONNX and onnx.defs.has(node.op_type, opset, "")
            if not own and (node.domain in ONNX or node.domain not in opsets):
                node.domain = UNKNOWN
        imports.opset_import.add(domain=UNKNOWN, version=1)
    try:
        onnx.checker.check_model(judged)
    except Exception as error:  # it has one of its own, and protobuf others
        why = " ".join(str(error).replace("==> Context: ", "").split())
        do = "Mend what wrote it: an exporter, or a graph pass of a plugin."
        raise BackendError("the graph is not valid ONNX", where=str(path), why=why, do=do) from error


def _require_types(model: onnx.ModelProto, graphs: list[onnx.GraphProto], weights: list[Weight], path: Path) -> None:
    import onnx

    known, heavy = onnx.TensorProto.DataType, {weight.name for weight in weights}
    found = [("input", value) for value in model.graph.input if value.name not in heavy]
    found += [("output", value) for value in model.graph.output]
    found = [(f"{kind} {value.name!r}", value) for kind, value in found]
    for what, value in found:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            named = str(kind).removesuffix("_type")
            do = "Give the model tensors, and let it return them."
            raise BackendError(f"{what} is no tensor", where=str(path), why=f"it is of the type {named}", do=do)
        if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            raise BackendError(
                f"{what} is float64", where=str(path), why=NO_DOUBLE, do="Cast it to float32 in the model."
            )
    typed = [(what, value.type.tensor_type.elem_type) for what, value in found]
    typed += [(what, tensor.data_type) for what, _, tensor in _constants(graphs)]
    typed += [(f"weight {weight.name!r}", weight.data_type) for weight in weights]
    for what, element in typed:
        if element in known.values() and known.Name(element) not in TYPES:
            raise BackendError(
                f"{what} is {known.Name(element).lower()}",
                where=str(path),
                why="TensorRT has no such type",
                do="Use another type in the model, or build with the backend onnxruntime.",
            )


def _require_no_double(bare: onnx.ModelProto, graphs: list[onnx.GraphProto], path: Path) -> None:
    """Refuses float64 that is computed with; a constant of it that is only cast away does no harm."""
    import onnx

    from qntz.graph import graphs_of

    double = onnx.TensorProto.DOUBLE
    if not _may_be_double(graphs, double):
        return
    try:
        inferred = list(graphs_of(onnx.shape_inference.infer_shapes(bare).graph))
    except onnx.shape_inference.InferenceError:  # an operator that ONNX does not know: the parser names it
        inferred = graphs
    names = {
        value.name
        for graph in inferred
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == double
    }
    names |= {tensor.name for graph in graphs for tensor in graph.initializer if tensor.data_type == double}
    for graph in graphs:
        for node in graph.node:
            cast = node.op_type == "Cast" and any(a.name == "to" and a.i == double for a in node.attribute)
            computes = node.op_type not in ("Constant", "Cast", *SIZES, *MOVES) and names & {*node.input, *node.output}
            if cast or computes:
                raise BackendError(
                    f"{node.op_type} {node.name!r} computes in float64",
                    where=str(path),
                    why=NO_DOUBLE,
                    do="Compute in float32 in the model, or build with the backend onnxruntime.",
                )


def _may_be_double(graphs: list[onnx.GraphProto], double: int) -> bool:
    """Whether a weight or constant is float64, or an attribute may name that type: nothing else makes one, and only
    then the types have to be inferred."""
    if any(tensor.data_type == double for _, _, tensor in _constants(graphs)):
        return True
    if any(value.type.tensor_type.elem_type == double for graph in graphs for value in graph.input):
        return True  # large weights stand among these
    return any(a.i == double for graph in graphs for node in graph.node for a in node.attribute)


def _require_finite(graphs: list[onnx.GraphProto], weights: list[Weight], path: Path) -> None:
    weighted = _weighted(graphs)
    for what, name, values in _floats(graphs, weights, path):
        if _is_finite(values):
            continue
        broken, kind = np.isnan(values), "NaN"
        if not broken.any() and name in weighted:
            broken, kind = ~np.isfinite(values), "infinity"
        if broken.any():
            raise BackendError(
                f"{what} holds {kind}",
                where=str(path),
                why=f"{int(broken.sum())} of {broken.size} elements",
                do="Repair the model's weights; TensorRT would build this without a word.",
            )


def _weighted(graphs: list[onnx.GraphProto]) -> set[str]:
    """What reaches a node of WEIGHTED as it is, or moved or cast alone."""
    found: set[str] = set()
    for graph in reversed(graphs):  # a subgraph reads what stands before it in the one that holds it
        for node in reversed(graph.node):
            kind = node.op_type
            if kind in WEIGHTED:
                found.update(node.input[: ADDED.get(kind, len(node.input))])
            elif (kind == "Cast" or kind in MOVES) and not found.isdisjoint(node.output):
                found.update(node.input)
    return found


def _is_finite(values: np.ndarray) -> bool:
    """True only where all values are finite, told in one pass over a large weight: of float32, and of what has a square
    in it, and of the 16-bit floats, whose exponent is all ones where they are not."""
    if values.dtype.name in INFINITE:
        return values.size == 0 or int((values.view(np.uint16) & SIGNLESS).max()) < INFINITE[values.dtype.name]
    if values.dtype != np.float32:
        return False
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(values.ravel(), values.ravel())))


def _require_signed(graphs: list[onnx.GraphProto], path: Path) -> None:
    """Refuses what ONNX quantizes to uint8, of which TensorRT makes int8: 200 becomes 127."""
    import onnx

    unsigned = {name for _, name, tensor in _constants(graphs) if tensor.data_type == onnx.TensorProto.UINT8}
    for graph in graphs:
        for node in graph.node:
            if node.op_type != "QuantizeLinear" or node.domain not in ONNX:
                continue
            named = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
            zero = node.input[2] if len(node.input) > 2 else ""
            if named == onnx.TensorProto.UINT8 or zero in unsigned or (not zero and not named):
                raise BackendError(
                    f"QuantizeLinear {node.name!r} quantizes to uint8",
                    where=str(path),
                    why=f"TensorRT would take it for int8{'' if zero or named else ', as it has no zero point'}",
                    do="Give it a zero point of int8, 0.",
                )


def _constants(graphs: list[onnx.GraphProto]) -> Iterator[tuple[str, str, onnx.TensorProto]]:
    """All tensors that stand in the graphs: (what it is, in words, the name by which nodes read it, the tensor)."""
    for graph in graphs:
        for tensor in graph.initializer:
            yield f"weight {tensor.name!r}", tensor.name, tensor
        for node in graph.node:
            for attribute in node.attribute:
                what, name = _held_by(node, attribute)
                for tensor in (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors):
                    yield what, name, tensor


def _floats(graphs: list[onnx.GraphProto], weights: list[Weight], path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """All floating values of the graphs and the large weights, as `_constants`; raises BackendError where one is
    damaged."""
    import onnx

    held: list[tuple[str, str, onnx.TensorProto | Weight]] = list(_constants(graphs))
    held += [(f"weight {one.name!r}", one.name, one) for one in weights]
    for what, name, one in held:
        try:
            values = onnx.numpy_helper.to_array(one) if isinstance(one, onnx.TensorProto) else _array(one)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            do = "Mend what wrote it: an exporter, or a graph pass of a plugin."
            raise BackendError(f"{what} is damaged", where=str(path), why=one_line(error), do=do) from error
        if values.dtype.name.startswith(("float", "bfloat")):
            yield what, name, values
    for graph in graphs:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type in (attribute.FLOAT, attribute.FLOATS):
                    numbers = attribute.floats if attribute.type == attribute.FLOATS else [attribute.f]
                    yield *_held_by(node, attribute), np.array(numbers, dtype=np.float32)


def _array(weight: Weight) -> np.ndarray:
    """The weight where it lies; of numbers that share a byte an empty array: they hold no NaN."""
    import onnx

    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
    if dtype.name in PACKED:
        return np.empty(0, np.uint8)
    return np.frombuffer(weight.data, dtype).reshape(weight.dims)


def _held_by(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> tuple[str, str]:
    if node.op_type == "Constant":
        return f"weight {node.output[0]!r}", node.output[0]
    return f"{attribute.name} of {node.op_type} {node.name!r}", ""
