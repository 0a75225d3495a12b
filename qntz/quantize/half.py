"""float16 and bfloat16: every float32 tensor inside the graph becomes half, inputs and outputs stay float32.

Own code instead of a converter of onnxruntime.transformers or onnxconverter-common: those place Casts of subgraphs in
the wrong graph, clip constants without a word, append nodes out of order, and know no bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from qntz.errors import QuantizeError
from qntz.graph import inferred, nodes_of, subgraphs
from qntz.quantizable import node_names

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.3895313892515355e38}
SMALLEST = {TensorProto.FLOAT16: 2.0**-24, TensorProto.BFLOAT16: 2.0**-133}
DTYPE_ATTRIBUTES = ("to", "dtype")
# Found with TensorRT-RTX 1.7: its parser or builder takes these in float16 but not in bfloat16.
NOT_IN_BFLOAT16 = ("ConvTranspose", "GlobalLpPool", "HardSwish", "LpNormalization", "LpPool", "Mish", "Shrink")
FLOAT_BY_DEFAULT = ("RandomNormal", "RandomUniform", "SequenceEmpty")


@dataclass(frozen=True)
class Half:
    """The model in half precision; `float32`: the reason by node of those (of the main graph) whose results stay
    float32 although nobody asked for it; `constants`: what became of those that half cannot hold, by name."""

    model: onnx.ModelProto
    float32: dict[str, str]
    constants: dict[str, str]


def to_half(model: onnx.ModelProto, precision: str, keep: frozenset[str] = frozenset()) -> Half:
    """A copy of the model in half precision.

    A slot of an operator stays float32, with Casts around, where the operator's ONNX schema does not take float16
    (Range, the scales of Resize), and so do all slots of the nodes in `keep` (names as `quantizable.node_names` gives
    them; none that has a subgraph). For bfloat16 the same slots are chosen, although ONNX lists it for fewer operators:
    TensorRT takes it where ONNX takes float16, but for the operators in `NOT_IN_BFLOAT16`.

    Raises:
        QuantizeError: the type of a tensor of an operator that needs float32 cannot be inferred.
    """
    model = inferred(model)
    for node, name in zip(model.graph.node, node_names(model.graph), strict=True):
        node.name = name
    converter = _Converter(model, HALF[precision], keep)
    converter.convert()
    return Half(model, converter.float32, converter.told)


def rounded(values: np.ndarray, to: int) -> np.ndarray:
    """float32 values rounded to the nearest half (ties to even), finite ones clipped to its largest: float16, or
    bfloat16 as uint16 bits."""
    finite = np.isfinite(values)
    clipped = np.where(finite, np.clip(values, -LARGEST[to], LARGEST[to]), values).astype(np.float32)
    if to == TensorProto.FLOAT16:
        return clipped.astype(np.float16)
    bits = clipped.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(clipped), 0x7FC0, nearest).astype(np.uint16)


class _Converter:
    def __init__(self, model: onnx.ModelProto, to: int, keep: frozenset[str]) -> None:
        self.model, self.to, self.keep = model, to, keep
        self.opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self.told: dict[str, str] = {}
        self.float32: dict[str, str] = {}
        self.taken = {name for node in nodes_of(model.graph) for name in (*node.input, *node.output)}
        self.wide_constants: dict[str, str] = {}
        self.half_uses: set[str] = set()

    def convert(self) -> None:
        graph = self.model.graph
        before, after = self._cast_ends(graph)
        self._graph(graph, {}, is_main=True)
        nodes = [*before, *graph.node, *after]
        del graph.node[:]
        graph.node.extend(nodes)

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _cast_ends(self, graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
        """Casts behind the float32 inputs and before the float32 outputs; inside, the ends get other names."""
        floats = [v for v in (*graph.input, *graph.output) if v.type.tensor_type.elem_type == TensorProto.FLOAT]
        inner = {value.name: self._fresh(f"{value.name}_half") for value in floats}
        rename(graph, inner)
        inputs = {value.name for value in graph.input}
        before = [cast_node(v.name, inner[v.name], self.to) for v in graph.input if v.name in inner]
        after = [
            cast_node(inner[v.name], v.name, TensorProto.FLOAT)
            for v in graph.output
            if v.name in inner and v.name not in inputs
        ]
        self.half_uses |= {node.input[0] for node in after}
        # Their types are needed where an operator reads them as float32.
        for value in floats:
            info = onnx.ValueInfoProto.FromString(value.SerializeToString())
            info.name = inner[value.name]
            if info.name not in {known.name for known in graph.value_info}:
                graph.value_info.append(info)
        return before, after

    def _graph(self, graph: GraphProto, outer: Mapping[str, str], *, is_main: bool) -> None:
        types = {**outer, **dict(types_of(graph))}
        cast: dict[str, str] = {}
        nodes: list[NodeProto] = []
        for node in graph.node:
            for attribute in node.attribute:
                for subgraph in subgraphs(attribute):
                    self._graph(subgraph, types, is_main=False)
            nodes.extend(self._node(node, types, cast))
        del graph.node[:]
        graph.node.extend(nodes)
        if not is_main:
            self.half_uses |= {value.name for value in graph.output}
        self._constants(graph)
        values = [*graph.value_info] if is_main else [*graph.value_info, *graph.input, *graph.output]
        for value in values:
            retag(value.type, TensorProto.FLOAT, self.to)

    def _node(self, node: NodeProto, types: Mapping[str, str], cast: dict[str, str]) -> Iterator[NodeProto]:
        """The node in half, with the Casts that it needs. `cast` holds the float32 twins made so far in this graph."""
        schema = self._schema(node)
        asked = node.name in self.keep
        refused = self.to == TensorProto.BFLOAT16 and node.op_type in NOT_IN_BFLOAT16
        kept = schema is None or asked or refused
        after = []
        for i, name in enumerate(node.input):
            if not name or self._takes_half(schema, kept, "inputs", i, node, types.get(name)):
                self.half_uses.add(name)
            elif types.get(name) == "constant":
                node.input[i] = self.wide_constants.setdefault(name, self._fresh(f"{name}_float32"))
            else:
                if name not in cast:
                    cast[name] = self._fresh(f"{name}_float32")
                    self.half_uses.add(name)
                    yield cast_node(name, cast[name], TensorProto.FLOAT)
                node.input[i] = cast[name]
        for i, name in enumerate(node.output):
            if name and not self._takes_half(schema, kept, "outputs", i, node, types.get(name)):
                node.output[i] = self._fresh(f"{name}_float32")
                after.append(cast_node(node.output[i], name, self.to))
        if not after:
            self._attributes(node)
        elif not asked:
            half = TensorProto.DataType.Name(self.to).lower()
            self.float32[node.name] = f"{node.op_type} takes no {half} in {'TensorRT' if refused else 'ONNX'}"
        yield node
        yield from after

    def _schema(self, node: NodeProto) -> onnx.defs.OpSchema | None:
        domain = node.domain or "ai.onnx"
        try:
            return onnx.defs.get_schema(node.op_type, self.opsets[domain], "" if domain == "ai.onnx" else domain)
        except (onnx.defs.SchemaError, KeyError):
            return None

    def _takes_half(
        self, schema: onnx.defs.OpSchema | None, kept: bool, side: str, i: int, node: NodeProto, kind: str | None
    ) -> bool:
        """True where a slot may hold half, or holds no float32 anyway."""
        if kind == "constant":
            kind = "tensor(float)"
        if schema is not None:
            slots = getattr(schema, side)
            takes = slots[min(i, len(slots) - 1)].types
            if not kept and any("float16)" in one and "bfloat16)" not in one for one in takes):
                return True
            if not any("(float)" in one for one in takes):
                return True
        if kind is None:
            raise QuantizeError(
                f"the type of {(node.input if side == 'inputs' else node.output)[i]!r} is unknown",
                where=f"{node.op_type} {node.name}",
                why="the operator has to stay in float32 and ONNX cannot infer its types",
                do="Keep this engine in fp32, or add the types by a graph pass.",
            )
        return "(float)" not in kind

    def _attributes(self, node: NodeProto) -> None:
        present = {attribute.name for attribute in node.attribute}
        if node.op_type in FLOAT_BY_DEFAULT and "dtype" not in present:
            node.attribute.append(helper.make_attribute("dtype", TensorProto.FLOAT))
        if node.op_type == "ConstantOfShape" and "value" not in present:
            zero = numpy_helper.from_array(np.zeros(1, np.float32), "value")
            node.attribute.append(helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                self._round(attribute.t, node.output[0])
            elif attribute.name in DTYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT:
                attribute.i = self.to
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = numpy_helper.from_array(np.array(values, dtype=np.float32), "value")
                self._round(tensor, node.output[0])
                attribute.CopyFrom(helper.make_attribute("value", tensor))

    def _constants(self, graph: GraphProto) -> None:
        """Rounds the graph's float32 initializers; one that a float32 slot reads keeps a float32 twin."""
        kept = []
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                twin = self.wide_constants.get(tensor.name)
                if twin is not None:
                    wide = TensorProto.FromString(tensor.SerializeToString())
                    wide.name = twin
                    kept.append(wide)
                    if tensor.name not in self.half_uses:
                        continue
                self._round(tensor, tensor.name)
            kept.append(TensorProto.FromString(tensor.SerializeToString()))
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _round(self, tensor: TensorProto, name: str) -> None:
        values = numpy_helper.to_array(tensor)
        finite = values[np.isfinite(values)]
        clipped = int((np.abs(finite) > LARGEST[self.to]).sum())
        if clipped:
            self.told[name] = f"{clipped} of {values.size} values clipped to {LARGEST[self.to]:g}"
        # A lone constant guards against a division by zero (an epsilon): it must not become zero itself.
        if values.size == 1 and values.item() != 0 and abs(values.item()) < SMALLEST[self.to]:
            self.told[name] = f"{values.item():g} raised to {SMALLEST[self.to]:g}, the least above zero"
            values = np.full_like(values, np.copysign(SMALLEST[self.to], values.item()))
        data = rounded(values, self.to)
        tensor.CopyFrom(helper.make_tensor(tensor.name, self.to, values.shape, data.tobytes(), raw=True))


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Gives tensors other names wherever nodes and initializers mention them, subgraphs included; what the graph
    declares as inputs and outputs stays."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                rename(subgraph, names)
                for value in subgraph.output:
                    value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def cast_node(source: str, result: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{source}/Cast/{result}", to=to)


def types_of(graph: GraphProto) -> Iterator[tuple[str, str]]:
    """The values that a graph declares, with their types as ONNX schemas write them; float32 initializers are
    "constant", as they can be had in both precisions."""
    for value in (*graph.value_info, *graph.input, *graph.output):
        yield value.name, spelled(value.type)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            yield tensor.name, "constant"
        else:
            yield tensor.name, f"tensor({TensorProto.DataType.Name(tensor.data_type).lower()})"


def spelled(kind: onnx.TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return f"tensor({TensorProto.DataType.Name(kind.tensor_type.elem_type).lower()})"
    if which == "sequence_type":
        return f"seq({spelled(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({spelled(kind.optional_type.elem_type)})"
    return str(which)


def retag(kind: onnx.TypeProto, old: int, new: int) -> None:
    which = kind.WhichOneof("value")
    if which == "tensor_type" and kind.tensor_type.elem_type == old:
        kind.tensor_type.elem_type = new
    elif which == "sequence_type":
        retag(kind.sequence_type.elem_type, old, new)
    elif which == "optional_type":
        retag(kind.optional_type.elem_type, old, new)
