"""Which channels of a graph's activations may be scaled without changing what it computes, and which constants take the
scales up. Calibrate and quantize share it.

A weighted operator makes channels that are free: its weight may be divided by a positive factor for each of them, if
all that read them can be multiplied by it. They are followed forwards through the graph, by element-wise operators that
are linear for positive factors, poolings, transpositions, reshapes and the right side of a product, to the weights that
take the factors up again. What else reads them fixes them; sums tie them to one another. It is cross-layer equalization
(Nagel et al., 2019, arXiv:1906.04721) and SmoothQuant's folding (Xiao et al., 2022, arXiv:2211.10438), over any number
of readers and writers, residual sums included.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from qntz.graph import nodes_of, subgraphs, without_weights
from qntz.quantizable import node_names

DIVIDED = "qntz.divided"  # a key of the model's metadata
FIXED = 0  # the channel that all fixed ones are tied to


@dataclass(frozen=True)
class Layout:
    """Where the channels lie in a tensor.

    Attributes:
        axes: the axes that tell the channel, rising. index: the channel by the position along these axes, integers of
            that shape; FIXED where it cannot be scaled.
    """

    axes: tuple[int, ...]
    index: np.ndarray

    def at(self, shape: Sequence[int]) -> np.ndarray:
        """`index` in a form that broadcasts with a tensor of the shape."""
        return self.index.reshape([shape[axis] if axis in self.axes else 1 for axis in range(len(shape))])


@dataclass(frozen=True)
class Constant:
    """An initializer that takes scales up.

    Attributes:
        node, slot: the node by its position in the graph, and the position of the initializer among its inputs.
        layout: of the initializer, once it is expanded to `shape`. sign: 1 where it is multiplied by the channel's
            scale, -1 where it is divided.
    """

    node: int
    slot: int
    shape: tuple[int, ...]
    layout: Layout
    sign: int


@dataclass(frozen=True)
class Scalable:
    """What may be scaled.

    Attributes:
        channels: how many there are, FIXED included. layouts: by tensor, of those with a channel that is not fixed.
        constants: all that have to be scaled along with the channels. made: the channels of a node, by its name, each
        as what it is tied to.
    """

    channels: int
    layouts: dict[str, Layout]
    constants: list[Constant]
    made: dict[str, np.ndarray]

    def by_node(self, exponents: np.ndarray) -> dict[str, list[int]]:
        """The exponents of the channels that nodes make, of nodes with one that is not 0, for a record."""
        found = {name: exponents[channels].tolist() for name, channels in self.made.items()}
        return {name: numbers for name, numbers in found.items() if any(numbers)}

    def exponents(self, by_node: Mapping[str, Sequence[int]]) -> np.ndarray:
        """The inverse of `by_node`, int64 by channel; raises KeyError or ValueError for a record of another graph."""
        exponents = np.zeros(self.channels, dtype=np.int64)
        for name, numbers in by_node.items():
            exponents[self.made[name]] = np.asarray(numbers)
        return exponents


def scalable(model: onnx.ModelProto) -> Scalable:
    """The scalable channels of the top-level graph."""
    found = _Found(model)
    for index, node in enumerate(model.graph.node):
        found.visit(index, node)
    return found.result()


def add_divided(model: onnx.ModelProto, by_node: Mapping[str, Sequence[int]]) -> None:
    """Notes in the model's metadata what `divide` did to it, as `Scalable.by_node` has it."""
    model.metadata_props.add(key=DIVIDED, value=json.dumps(by_node, sort_keys=True, separators=(",", ":")))


def divided(model: onnx.ModelProto) -> dict[str, list[int]]:
    """What `add_divided` noted; empty where nothing is."""
    return dict(json.loads(next((entry.value for entry in model.metadata_props if entry.key == DIVIDED), "{}")))


def divide(model: onnx.ModelProto, found: Scalable, exponents: np.ndarray) -> None:
    """Divides each channel by 2 to the power of its exponent, integers by channel, in the constants of the model that
    `found` is of. A constant that others read too is copied. Raises ValueError where a constant leaves float32."""
    exponents = np.where(np.arange(found.channels) == FIXED, 0, exponents)
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in nodes_of(graph) for name in node.input)
    scales: dict[tuple[int, int], np.ndarray] = {}
    for one in found.constants:
        if exponents[one.layout.index].any():
            scale = np.exp2(one.sign * exponents[one.layout.at(one.shape)].astype(np.float64))
            scales[one.node, one.slot] = scales.get((one.node, one.slot), 1.0) * scale
    for (index, slot), scale in scales.items():
        node = graph.node[index]
        tensor = held[node.input[slot]]
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            scaled = np.asarray(values * scale, dtype=np.float32)
        if not np.isfinite(scaled).all():
            raise ValueError(f"{tensor.name!r} leaves float32")
        if uses[tensor.name] > 1:
            uses[tensor.name] -= 1
            tensor = graph.initializer.add(name=f"{tensor.name}/divided/{node.output[0]}/{slot}")
            node.input[slot] = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(scaled), tensor.name))


@dataclass
class _Found:
    model: onnx.ModelProto
    layouts: dict[str, Layout] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    made: dict[int, np.ndarray] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=lambda: {FIXED})  # those that are known to be, so far
    count: int = 1

    def __post_init__(self) -> None:
        graph = self.model.graph
        told = onnx.shape_inference.infer_shapes(without_weights(self.model), data_prop=True).graph
        self.shapes = {
            value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
            for value in (*told.value_info, *told.input, *told.output)
            if value.type.tensor_type.HasField("shape") and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        shown = {value.name for value in (*graph.input, *graph.output)}  # a caller may give them, or sees them
        self.weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in shown}
        self.uses = Counter(name for node in nodes_of(graph) for name in node.input)
        self.outputs = {output.name for output in graph.output}

    def visit(self, index: int, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                for inner in nodes_of(subgraph):
                    self.fix(*inner.input)
        handler = _HANDLERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        layouts = handler(self, index, node) if handler else None
        if layouts is None:
            self.fix(*node.input)
            return
        for name, layout in zip(node.output, layouts, strict=False):
            if layout is not None and self._fits(name, layout):
                self.layouts[name] = layout
                if name in self.outputs:
                    self.fix(name)
            elif layout is not None:
                self.tie(layout.index, FIXED)

    def result(self) -> Scalable:
        labels = self._labels()
        layouts = {}
        for name, layout in self.layouts.items():
            index = labels[layout.index]
            if (index != FIXED).any():
                layouts[name] = Layout(layout.axes, index)
        constants = []
        for one in self.constants:
            index = labels[one.layout.index]
            if (index != FIXED).any():
                layout = Layout(one.layout.axes, index)
                constants.append(Constant(one.node, one.slot, one.shape, layout, one.sign))
        names = node_names(self.model.graph)
        made = {names[node]: labels[channels] for node, channels in self.made.items()}
        return Scalable(self.count, layouts, constants, made)

    def _labels(self) -> np.ndarray:
        """The smallest of all channels that each one is tied to, itself included."""
        labels = np.arange(self.count)
        if not self.ties:
            return labels
        left = np.concatenate([pair[0] for pair in self.ties])
        right = np.concatenate([pair[1] for pair in self.ties])
        while True:
            before = labels.copy()
            lower = np.minimum(labels[left], labels[right])
            for side in (left, right):
                np.minimum.at(labels, labels[side], lower)
                np.minimum.at(labels, side, lower)
            labels = labels[labels]
            if (labels == before).all():
                return labels

    # what handlers ask for

    def fix(self, *names: str) -> None:
        for name in names:
            if name in self.layouts:
                self.tie(self.layouts[name].index, FIXED)
                self.fixed.update(self.layouts[name].index.ravel().tolist())

    def tie(self, one: np.ndarray, other: np.ndarray | int) -> None:
        a, b = np.broadcast_arrays(one, other)
        self.ties.append((a.ravel(), b.ravel()))

    def fresh(self, node: int, axis: int, size: int) -> Layout:
        """New channels along an axis of what the node gives."""
        self.count += size
        self.made[node] = np.arange(self.count - size, self.count)
        return Layout((axis,), self.made[node])

    def scale(self, node: int, slot: int, shape: Sequence[int], layout: Layout, sign: int) -> None:
        self.constants.append(Constant(node, slot, tuple(shape), layout, sign))

    def constant(self, name: str) -> np.ndarray | None:
        return onnx.numpy_helper.to_array(self.weights[name]) if name in self.weights else None

    def weight(self, name: str) -> list[int] | None:
        """The dimensions of an initializer of float32 that one node alone reads."""
        tensor = self.weights.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or self.uses[name] != 1:
            return None
        return list(tensor.dims)

    def vector(self, name: str) -> list[int] | None:
        """The dimensions of an initializer of float32, which is copied where it is scaled."""
        tensor = self.weights.get(name)
        return list(tensor.dims) if tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT else None

    def rank(self, name: str) -> int:
        return len(self.shapes[name]) if name in self.shapes else -1

    def _fits(self, name: str, layout: Layout) -> bool:
        shape = self.shapes.get(name)
        return shape is not None and all(
            axis < len(shape) and shape[axis] == size
            for axis, size in zip(layout.axes, layout.index.shape, strict=True)
        )


_Answer = Sequence[Layout | None] | None
"""The layouts of a node's outputs; None fixes all that it reads."""
_Handler = Callable[[_Found, int, onnx.NodeProto], _Answer]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = next((one for one in node.attribute if one.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def _along_first(channels: np.ndarray) -> Layout:
    return Layout((0,), channels)


def _convolution(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    shape, x = found.weight(node.input[1]), found.layouts.get(node.input[0])
    if shape is None or (len(node.input) > 2 and node.input[2] and found.vector(node.input[2]) is None):
        return None
    groups = _attribute(node, "group", 1)
    size = shape[0] if node.op_type == "Conv" else shape[1] * groups

    def grouped(channels: np.ndarray) -> Layout:
        """The layout of channels of which each group has the second axis, and the groups are along the first."""
        if groups == 1:
            return Layout((1,), channels)
        by_group = channels.reshape(groups, 1, shape[1])
        return Layout((0, 1), np.broadcast_to(by_group, (groups, shape[0] // groups, shape[1])).reshape(shape[:2]))

    inward, outward = (grouped, _along_first) if node.op_type == "Conv" else (_along_first, grouped)
    if x is not None and x.axes == (1,):
        found.scale(index, 1, shape, inward(x.index), 1)
    else:
        found.fix(node.input[0])
    made = found.fresh(index, 1, size)
    found.scale(index, 1, shape, outward(made.index), -1)
    if len(node.input) > 2 and node.input[2]:
        found.scale(index, 2, [size], Layout((0,), made.index), -1)
    return [made]


def _gemm(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    shape, x = found.weight(node.input[1]), found.layouts.get(node.input[0])
    bias = found.vector(node.input[2]) if len(node.input) > 2 and node.input[2] else []
    if shape is None or bias is None or (len(bias) > 1 and bias[0] != 1):
        return None
    inward, outward = (1, 0) if _attribute(node, "transB", 0) else (0, 1)
    if x is not None and x.axes == (1,) and not _attribute(node, "transA", 0):
        found.scale(index, 1, shape, Layout((inward,), x.index), 1)
    else:
        found.fix(node.input[0])
    made = found.fresh(index, 1, shape[outward])
    found.scale(index, 1, shape, Layout((outward,), made.index), -1)
    if len(node.input) > 2 and node.input[2]:
        found.scale(index, 2, [shape[outward]], Layout((0,), made.index), -1)
    return [made]


def _matmul(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    rank, shape = found.rank(node.input[0]), found.weight(node.input[1])
    x = found.layouts.get(node.input[0])
    if shape is None:
        return _product(found, node)
    if len(shape) != 2 or rank < 2:
        return None
    if x is not None and x.axes == (rank - 1,):
        found.scale(index, 1, shape, Layout((0,), x.index), 1)
    else:
        found.fix(node.input[0])
    made = found.fresh(index, rank - 1, shape[1])
    found.scale(index, 1, shape, Layout((1,), made.index), -1)
    return [made]


def _product(found: _Found, node: onnx.NodeProto) -> _Answer:
    """Of two activations: what the right one has along its last axis and along those of the batch goes through."""
    left, right = node.input
    y, rank = found.layouts.get(right), found.rank(right)
    if y is None or rank < 2 or rank != found.rank(left) or rank - 2 in y.axes:
        return None
    found.fix(left)
    return [y]


def _normalized(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    """Scale and shift by channel behind a normalization: of the last axis, or of the second."""
    found.fix(node.input[0])
    rank = found.rank(node.input[0])
    axis = 1
    if node.op_type == "LayerNormalization":
        axis = rank - 1
        if _attribute(node, "axis", -1) not in (-1, axis):
            return None
    shapes = [found.vector(name) for name in node.input[1:3] if name]
    if rank < 2 or not shapes or any(shape is None or len(shape) != 1 for shape in shapes):
        return None
    made = found.fresh(index, axis, shapes[0][0])  # type: ignore[index]
    for slot, shape in enumerate(shapes, start=1):
        found.scale(index, slot, shape or [], Layout((0,), made.index), -1)
    return [made]


def _same(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    """What treats each channel alike, and linearly for positive factors."""
    return [found.layouts.get(node.input[0])]


def _sloped(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    found.fix(node.input[1])
    return _same(found, index, node)


def _read_without_values(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    return []


def _clip(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    low = found.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    high = len(node.input) > 2 and node.input[2]
    return _same(found, index, node) if low is not None and float(low) == 0 and not high else None


def _pad(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x = found.layouts.get(node.input[0])
    pads, rank = found.constant(node.input[1]) if len(node.input) > 1 else None, found.rank(node.input[0])
    value = found.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    plain = len(node.input) < 4 and pads is not None and len(pads) == 2 * rank and value is not None and not value.any()
    if x is None or not plain or any(pads[axis] or pads[axis + rank] for axis in x.axes):  # type: ignore[index]
        return None
    return [x]


def _pooled(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x = found.layouts.get(node.input[0])
    return [x] if x is not None and x.axes == (1,) and len(node.output) == 1 else None


def _resized(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x = found.layouts.get(node.input[0])
    if _attribute(node, "extrapolation_value", 0.0):
        return None
    return [x] if x is not None and x.axes == (1,) else None  # _fits holds the number of channels against it


def _reduced(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x, rank = found.layouts.get(node.input[0]), found.rank(node.input[0])
    axes = found.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else _attribute(node, "axes", None)
    if x is None or axes is None:
        return None
    gone = {int(axis) % rank for axis in axes}
    if gone & set(x.axes):
        return None
    return [x if _attribute(node, "keepdims", 1) else _without(x, gone)]


def _without(layout: Layout, gone: set[int]) -> Layout:
    return Layout(tuple(axis - sum(one < axis for one in gone) for axis in layout.axes), layout.index)


def _squeezed(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x, rank = found.layouts.get(node.input[0]), found.rank(node.input[0])
    axes = found.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else _attribute(node, "axes", None)
    if x is None or axes is None:
        return None
    if node.op_type == "Squeeze":
        gone = {int(axis) % rank for axis in axes}
        return None if gone & set(x.axes) else [_without(x, gone)]
    added = {int(axis) % (rank + len(axes)) for axis in axes}
    kept = [axis for axis in range(rank + len(added)) if axis not in added]
    return [Layout(tuple(kept[axis] for axis in x.axes), x.index)]


def _transposed(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x, rank = found.layouts.get(node.input[0]), found.rank(node.input[0])
    if x is None:
        return None
    order = _attribute(node, "perm", list(range(rank))[::-1])
    places = [order.index(axis) for axis in x.axes]
    return [Layout(tuple(sorted(places)), x.index.transpose(np.argsort(places)))]


def _reshaped(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    """By what lies before the channels, where that stays; else by what lies behind them, where the sizes are known."""
    x = found.layouts.get(node.input[0])
    before, after = found.shapes.get(node.input[0]), found.shapes.get(node.output[0])
    if x is None or before is None or after is None:
        return None
    end = x.axes[-1] + 1
    if all(before[:end]) and before[:end] == after[:end]:
        return [x]
    first = x.axes[0]
    tail = before[first:]
    if not all(isinstance(size, int) and size for size in tail):
        return None
    size = math.prod(tail)
    for start in reversed(range(len(after))):
        behind = after[start:]
        if not all(isinstance(one, int) and one for one in behind) or math.prod(behind) > size:
            return None
        if math.prod(behind) == size:
            inner = Layout(tuple(axis - first for axis in x.axes), x.index)
            whole = np.broadcast_to(inner.at(tail), tail).reshape(behind)
            return [_compressed(whole, start)]
    return None


def _compressed(whole: np.ndarray, start: int) -> Layout:
    """The layout of a tensor whose axes from `start` on have these channels."""
    axes = []
    for axis in range(whole.ndim):
        first = whole.take([0], axis)
        if whole.shape[axis] > 1 and (whole != first).any():
            axes.append(axis)
        else:
            whole = first
    if not axes:
        axes = [whole.ndim - 1]
    return Layout(tuple(start + axis for axis in axes), whole.reshape([whole.shape[axis] for axis in axes]))


def _sum(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    """Of two activations, whose channels are tied, or of one and a constant, which takes the scales up."""
    rank = found.rank(node.output[0])
    if rank < 1:
        return None
    for slot in (0, 1):
        other = node.input[1 - slot]
        x = _shifted(found, node.input[slot], rank)
        if other not in found.weights or x is None:
            continue
        shape = found.vector(other)
        if shape is None:
            return None
        whole = [1] * (rank - len(shape)) + shape
        for axis, size in zip(x.axes, x.index.shape, strict=True):
            if whole[axis] not in (1, size):
                return None
            whole[axis] = size
        found.scale(index, 1 - slot, whole, x, -1)
        return [x]
    left, right = (_shifted(found, name, rank) for name in node.input)
    if left is None or right is None or left.axes != right.axes or left.index.shape != right.index.shape:
        return None
    found.tie(left.index, right.index)
    return [left]


def _shifted(found: _Found, name: str, rank: int) -> Layout | None:
    """The layout of a tensor that is broadcast to a rank."""
    x = found.layouts.get(name)
    shift = rank - found.rank(name)
    return None if x is None else Layout(tuple(axis + shift for axis in x.axes), x.index)


def _times(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    """One factor's channels go through; the other's are fixed. A vector that scales what has none makes some."""
    rank = found.rank(node.output[0])
    left, right = (_shifted(found, name, rank) for name in node.input)
    if left is not None and (right is None or node.op_type == "Div" or not found.fixed.issuperset(left.index.flat)):
        found.fix(node.input[1])
        return [left]
    if node.op_type == "Div":
        return None
    if right is not None:
        return [right]
    for slot in (0, 1):
        shape = found.vector(node.input[slot])
        if shape and math.prod(shape) == max(shape) > 1 and node.input[1 - slot] not in found.weights:
            axis = shape.index(max(shape))
            made = found.fresh(index, rank - len(shape) + axis, shape[axis])
            found.scale(index, slot, shape, Layout((axis,), made.index), -1)
            return [made]
    return None


def _joined(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    rank = found.rank(node.output[0])
    layouts = [found.layouts.get(name) for name in node.input]
    present = [one for one in layouts if one is not None]
    axis = _attribute(node, "axis", 0) % max(rank, 1)
    if not present or any(one.axes != present[0].axes for one in present):
        return None
    if axis not in present[0].axes:
        if len(present) < len(layouts) or any(one.index.shape != present[0].index.shape for one in present):
            return None
        for one in present[1:]:
            found.tie(present[0].index, one.index)
        return [present[0]]
    place = present[0].axes.index(axis)
    parts = []
    for name, one in zip(node.input, layouts, strict=True):
        size = found.shapes.get(name, [0] * rank)[axis]
        if one is None and not (isinstance(size, int) and size):
            return None
        sizes = [size if at == place else n for at, n in enumerate(present[0].index.shape)]
        parts.append(np.full(sizes, FIXED) if one is None else one.index)
    return [Layout(present[0].axes, np.concatenate(parts, place))]


def _split(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x, rank = found.layouts.get(node.input[0]), found.rank(node.input[0])
    axis = _attribute(node, "axis", 0) % max(rank, 1)
    if x is None:
        return None
    if axis not in x.axes:
        return [x] * len(node.output)
    sizes = [(found.shapes.get(name) or [0] * rank)[axis] for name in node.output]
    place = x.axes.index(axis)
    if not all(isinstance(size, int) and size for size in sizes) or sum(sizes) != x.index.shape[place]:
        return None
    return [Layout(x.axes, part) for part in np.split(x.index, np.cumsum(sizes)[:-1], place)]


def _gathered(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x, rank, taken = found.layouts.get(node.input[0]), found.rank(node.input[0]), found.constant(node.input[1])
    axis = _attribute(node, "axis", 0) % max(rank, 1)
    if x is None or taken is None or taken.ndim > 1:
        return None
    if axis not in x.axes:
        return [x if taken.ndim else _without(x, {axis})]
    place = x.axes.index(axis)
    index_ = x.index.take(taken, place)
    if taken.ndim:
        return [Layout(x.axes, index_)]
    axes = tuple(one for one in x.axes if one != axis)
    return [_without(Layout(axes, index_), {axis})] if axes else None


def _sliced(found: _Found, index: int, node: onnx.NodeProto) -> _Answer:
    x, rank = found.layouts.get(node.input[0]), found.rank(node.input[0])
    given = [found.constant(name) if name else None for name in node.input[1:]]
    if x is None or len(given) < 2:
        return None
    starts, ends = given[:2]
    axes = given[2] if len(given) > 2 else None
    steps = given[3] if len(given) > 3 else None
    if starts is None or ends is None or (len(node.input) > 3 and axes is None) or (len(given) > 3 and steps is None):
        return None if axes is None or {int(a) % rank for a in axes} & set(x.axes) else [x]
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    index_ = x.index
    for axis, start, end, step in zip(axes % rank, starts, ends, steps, strict=True):
        if axis in x.axes:
            if step < 0:
                return None
            cut: list[Any] = [slice(None)] * index_.ndim
            cut[x.axes.index(int(axis))] = slice(int(start), int(end), int(step))
            index_ = index_[tuple(cut)]
    return [Layout(x.axes, index_)]


_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(("LayerNormalization", "BatchNormalization", "InstanceNormalization"), _normalized),
    **dict.fromkeys(("Relu", "LeakyRelu", "Identity", "Neg", "Abs"), _same),
    **dict.fromkeys(("Shape", "Size"), _read_without_values),
    "PRelu": _sloped,
    "Clip": _clip,
    "Pad": _pad,
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pooled),
    "Resize": _resized,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduced),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeezed),
    "Transpose": _transposed,
    **dict.fromkeys(("Reshape", "Flatten"), _reshaped),
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys(("Mul", "Div"), _times),
    "Concat": _joined,
    "Split": _split,
    "Gather": _gathered,
    "Slice": _sliced,
}
