"""Broken ONNX files of a model x [batch, 16] -> y [batch, 3], by name, each with the words that its refusal must have."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from tests.engine.engine_graphs import info

RNG = np.random.default_rng(0)
W = RNG.normal(size=(16, 3)).astype(np.float32)
DOUBLES = W.astype(np.float64)
X, Y = info("x", ("batch", 16)), info("y", ("batch", 3))
FLOAT, HALF, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64
PRODUCT = make_node("MatMul", ["x", "w"], ["y"], "product")


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (X,),
    outputs: Sequence[onnx.ValueInfoProto] = (Y,),
    opset: int = 17,
    ir: int = 9,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    **weights: Any,
) -> onnx.ModelProto:
    held = [
        array if isinstance(array, TensorProto) else numpy_helper.from_array(np.asarray(array), name)
        for name, array in weights.items()
    ]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, held)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))


def product(weight: Any = W, **how: Any) -> onnx.ModelProto:
    return model([PRODUCT], w=weight, **how)


def with_one(value: float) -> np.ndarray:
    weight = W.copy()
    weight[3, 1] = value
    return weight


NAN = with_one(np.nan)


def scaled(*nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """The product times `k` [], which the nodes make."""
    return model(
        [*nodes, make_node("MatMul", ["x", "w"], ["h"], "product"), make_node("Mul", ["h", "k"], ["y"], "scale")],
        w=W,
        **weights,
    )


def quantized(kind: int | None, zero: int = 0, scale: float = 0.1, opset: int = 17) -> onnx.ModelProto:
    """x through Q/DQ of the type with a zero point, or of none."""
    held = {} if kind is None else {"z": helper.make_tensor("z", kind, [], [zero])}
    nodes = [
        make_node("QuantizeLinear", ["x", "s", *held], ["q"], "quantize"),
        make_node("DequantizeLinear", ["q", "s", *held], ["d"], "dequantize"),
        make_node("MatMul", ["d", "w"], ["y"], "product"),
    ]
    return model(nodes, w=W, s=np.float32(scale), opset=opset, **held)


def weight_of(kind: int, opset: int = 21) -> onnx.ModelProto:
    """The weight of a type, behind a DequantizeLinear."""
    held = helper.make_tensor("q", kind, [16, 3], np.arange(48) % 8)
    dequantize = make_node("DequantizeLinear", ["q", "s"], ["w"], "dequantize")
    return model([dequantize, PRODUCT], q=held, s=np.float32(0.1), opset=opset, ir=10)


def branch(name: str, *nodes: onnx.NodeProto, kind: int = FLOAT, shape: Any = ("batch", 3), **weights: Any):
    held = [numpy_helper.from_array(array, one) for one, array in weights.items()]
    return helper.make_graph(nodes, name, [], [info(name, shape, kind)], held)


def conditional(then: onnx.GraphProto, **weights: Any) -> onnx.ModelProto:
    """y is what the branch makes where the sum of x is negative, and else the product."""
    kept = branch("kept", make_node("MatMul", ["x", "w"], ["kept"], "kept"))
    nodes = [
        make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        make_node("Less", ["sum", "zero"], ["negative"], "less"),
        make_node("If", ["negative"], ["y"], "if", then_branch=then, else_branch=kept),
    ]
    return model(nodes, zero=np.float32(0), w=W, **weights)


def in_function(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """y = F(x), where F is a function of the model's own, a to b."""
    function = helper.make_function("local", "F", ["a"], ["b"], list(nodes), [helper.make_opsetid("", 17)])
    call = make_node("F", ["x"], ["y"], "call", domain="local")
    return model([call], domains=["local"], functions=[function])


def constant(array: np.ndarray) -> onnx.NodeProto:
    return make_node("Constant", [], ["k"], "constant", value=numpy_helper.from_array(array))


def changed(change: Callable[[onnx.ModelProto], Any], of: onnx.ModelProto | None = None) -> onnx.ModelProto:
    made = of or product()
    change(made)
    return made


def first(made: onnx.ModelProto) -> onnx.TensorProto:
    return made.graph.initializer[0]


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("model.onnx", "no model " * 50)
    return buffer.getvalue()


WHOLE = product(np.ones((16, 3), np.float32)).SerializeToString()
NO_ONNX = ("is no ONNX model", "Where a stage wrote it, remove it and run `dvc repro`.")
NO_MODEL = ("is no ONNX model", "it holds no graph")
INVALID = ("the graph is not valid ONNX", "Mend what wrote it")
HOLDS_NAN = ("holds NaN: 1 of ", "Repair the model's weights")
IN_DOUBLE = ("in float64", "would take it for float32", "Compute in float32")
NO_TYPE = ("TensorRT has no such type", "Use another type")
AS_INT8 = ("'quantize' quantizes to uint8", "TensorRT would take it for int8", "zero point of int8")
DAMAGED = ("weight 'w' is damaged", "Mend what wrote it")
UP = make_node("Cast", ["x"], ["d"], "up", to=DOUBLE)
DOWN = make_node("Cast", ["e"], ["y"], "down", to=FLOAT)

BYTES: Mapping[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("is no ONNX model: it is empty",)),
    "one byte": (b"\x08", NO_ONNX),
    "a tenth": (WHOLE[: len(WHOLE) // 10], NO_ONNX),
    "half": (WHOLE[: len(WHOLE) // 2], NO_ONNX),
    "all but the end": (WHOLE[: len(WHOLE) * 99 // 100], NO_ONNX),
    "random": (np.random.default_rng(1).bytes(5000), NO_ONNX),
    "zeros": (bytes(4000), NO_ONNX),
    "every 97th byte flipped": (bytes(b ^ 0xFF if i % 97 == 13 else b for i, b in enumerate(WHOLE)), NO_ONNX),
    "text": (b"model: mine\nweights: none\n" * 40, NO_ONNX),
    "a ZIP": (archive(), NO_ONNX),
    "a tensor": (numpy_helper.from_array(W, "w").SerializeToString(), NO_ONNX),
    "a graph without its model": (product().graph.SerializeToString(), NO_MODEL),
}

GRAPHS: Mapping[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = {
    "no nodes": (lambda: model([], outputs=[X]), ("the graph is empty: it has no nodes", "Export a model")),
    "no outputs": (lambda: product(outputs=[]), ("the graph is empty: it has no outputs", "Export a model")),
    # what the parser refuses
    "unknown operator": (
        lambda: model([make_node("Frobnicate", ["x", "w"], ["y"], "frob")], w=W),
        ("refuses 1 node: node 0 frob (Frobnicate): no such operator", "Rewrite them by a plugin"),
    ),
    "foreign domain": (
        lambda: model([make_node("Fused", ["x", "w"], ["y"], "f", domain="com.acme")], w=W, domains=["com.acme"]),
        ("refuses 1 node: node 0 f (Fused): no such operator", "Rewrite them by a plugin"),
    ),
    "types that differ": (
        lambda: scaled(k=np.ones(3, np.int64)),
        ("node 1 scale (Mul)", "must have same input types", "Rewrite them by a plugin"),
    ),
    "sizes that do not fit": (lambda: product(W[:15]), ("node 0 product (MatMul)", "must match")),
    "axis out of range": (
        lambda: model([make_node("Softmax", ["x"], ["h"], "soft", axis=7), PRODUCT], w=W),
        ("node 0 soft (Softmax)", "Provided axis is: 7"),
    ),
    "product of booleans": (
        lambda: model(
            [make_node("Less", ["x", "zero"], ["b"]), make_node("MatMul", ["b", "w"], ["y"], "product")],
            w=W,
            zero=np.float32(0),
        ),
        ("node 1 product (MatMul)", "has type Bool"),
    ),
    "sequence": (
        lambda: model(
            [
                make_node("SequenceConstruct", ["x", "x"], ["s"], "sequence"),
                make_node("ConcatFromSequence", ["s"], ["c"], "concat", axis=0),
                make_node("MatMul", ["c", "w"], ["y"]),
            ],
            w=W,
        ),
        ("refuses 2 nodes", "sequence (SequenceConstruct)", "concat (ConcatFromSequence)"),
    ),
    "optional": (
        lambda: model(
            [
                make_node("Optional", ["x"], ["o"], "optional"),
                make_node("OptionalGetElement", ["o"], ["c"], "get"),
                make_node("MatMul", ["c", "w"], ["y"]),
            ],
            w=W,
        ),
        ("refuses 2 nodes", "optional (Optional)"),
    ),
    "zero point that is not 0": (lambda: quantized(TensorProto.INT8, 5), ("quantize (QuantizeLinear)", "zero point")),
    "scale of 0": (lambda: quantized(TensorProto.INT8, 0, 0.0), ("quantize (QuantizeLinear)", "must all be positive")),
    "branches of two types": (
        lambda: conditional(
            branch("t", make_node("MatMul", ["x", "w"], ["m"]), make_node("Cast", ["m"], ["t"], to=HALF), kind=HALF)
        ),
        ("node 2 if (If)", "must have inputs of same type"),
    ),
    # what the builder refuses
    "branches of two ranks": (
        lambda: conditional(branch("t", make_node("ReduceSum", ["x"], ["t"], keepdims=0), shape=())),
        ("tensorrt_rtx cannot build the graph", "equal ranks", "choose another engine.backend"),
    ),
    "branches of two sizes": (
        lambda: conditional(branch("t", make_node("MatMul", ["x", "v"], ["t"]), v=W[:, :2]), v=W[:, :2]),
        ("tensorrt_rtx cannot build the graph", "choose another engine.backend"),
    ),
    # what is no valid ONNX
    "cycle": (
        lambda: model([make_node("Add", ["x", "b"], ["a"]), make_node("Relu", ["a"], ["b"]), PRODUCT], w=W),
        (*INVALID, "input 'b' of node"),
    ),
    "nodes out of order": (
        lambda: model([make_node("MatMul", ["r", "w"], ["y"], "product"), make_node("Relu", ["x"], ["r"])], w=W),
        (*INVALID, "input 'r' of node: name: product"),
    ),
    "tensor that nothing makes": (lambda: model([PRODUCT]), (*INVALID, "input 'w' of node: name: product")),
    "output that nothing makes": (lambda: product(outputs=[info("z", (3,))]), (*INVALID, "output 'z'")),
    "attribute that the operator has not": (
        lambda: model([make_node("Relu", ["x"], ["r"], "relu", slope=0.3), PRODUCT], w=W),
        (*INVALID, "slope for operator Relu"),
    ),
    "attribute of another type": (
        lambda: model([make_node("Softmax", ["x"], ["h"], "soft", axis="one"), PRODUCT], w=W),
        (*INVALID, "soft : axis", "STRING"),
    ),
    "input too few": (lambda: model([make_node("MatMul", ["x"], ["y"], "product")]), (*INVALID, "Node(product)")),
    "If without branches": (
        lambda: model([make_node("If", ["c"], ["y"], "if")], c=np.array(True)),
        (*INVALID, "else_branch' is missing"),
    ),
    "tensor made twice": (
        lambda: model([PRODUCT, make_node("Relu", ["y"], ["y"])], w=W),
        (*INVALID, "'y' has been used as output names multiple times"),
    ),
    "input named twice": (lambda: product(inputs=[X, X]), (*INVALID, "'x' has been used as graph input names")),
    "weight named twice": (
        lambda: changed(lambda made: made.graph.initializer.append(first(made))),
        (*INVALID, "w initializer name is not unique"),
    ),
    "input without a shape": (
        lambda: product(inputs=[helper.make_tensor_value_info("x", FLOAT, None)]),
        (*INVALID, "'shape'"),
    ),
    "IR too new": (lambda: product(ir=99), (*INVALID, "ir_version 99")),
    "IR missing": (lambda: changed(lambda made: made.ClearField("ir_version")), (*INVALID, "ir_version")),
    "opset too new": (lambda: product(opset=99), ("opset 99 is too new", "knows 9 to 25", "export.opset")),
    "opset newer than the parser": (lambda: product(opset=26), ("opset 26 is too new", "knows 9 to 25")),
    "opset too old": (lambda: product(opset=8), ("opset 8 is too old", "knows 9 to 25", "export.opset")),
    "no opset": (lambda: changed(lambda made: made.ClearField("opset_import")), ("opset 1 is too old",)),
    # damaged weights
    "weight cut": (
        lambda: changed(lambda made: setattr(first(made), "raw_data", first(made).raw_data[:50])),
        (*INVALID, "50 bytes"),
    ),
    "weight too long": (
        lambda: changed(lambda made: setattr(first(made), "raw_data", first(made).raw_data * 2)),
        (*DAMAGED, "size 96"),
    ),
    "large weight cut": (
        lambda: changed(
            lambda made: setattr(first(made), "raw_data", first(made).raw_data[:-40]),
            model([PRODUCT], inputs=[info("x", ("batch", 20_000))], w=np.ones((20_000, 3), np.float32)),
        ),
        (*DAMAGED, "size 59990"),
    ),
    "weight of no type": (lambda: changed(lambda made: first(made).ClearField("data_type")), (*INVALID, "data_type")),
    "weight of an unheard type": (lambda: changed(lambda made: setattr(first(made), "data_type", 99)), DAMAGED),
    "weight of negative size": (
        lambda: changed(lambda made: first(made).dims.__setitem__(0, -16)),
        (*INVALID, "Negative dimension"),
    ),
    "weight of 2**40 rows": (lambda: changed(lambda made: first(made).dims.__setitem__(0, 2**40)), INVALID),
    "metadata damaged": (
        lambda: changed(lambda made: made.metadata_props.add(key="qntz.made_from", value="{no json")),
        ("metadata qntz.made_from: is damaged", "run `dvc repro`"),
    ),
    # NaN and infinity, of which TensorRT says nothing
    "NaN in a weight": (lambda: product(NAN), ("weight 'w'", *HOLDS_NAN)),
    "NaN in a half weight": (
        lambda: model(
            [make_node("Cast", ["x"], ["h"], to=HALF), make_node("MatMul", ["h", "w"], ["y"])],
            outputs=[info("y", ("batch", 3), HALF)],
            w=NAN.astype(np.float16),
        ),
        ("weight 'w'", *HOLDS_NAN),
    ),
    "NaN in a float8 weight": (
        lambda: model(
            [make_node("DequantizeLinear", ["q", "s"], ["w"]), PRODUCT],
            q=helper.make_tensor("q", TensorProto.FLOAT8E4M3FN, [16, 3], NAN.ravel()),
            s=np.float32(1),
            opset=19,
        ),
        ("weight 'q'", *HOLDS_NAN),
    ),
    "NaN in a scale": (lambda: quantized(TensorProto.INT8, 0, np.nan), ("weight 's'", *HOLDS_NAN)),
    "NaN in a branch": (
        lambda: conditional(branch("t", make_node("MatMul", ["x", "v"], ["t"]), v=NAN)),
        ("weight 'v'", *HOLDS_NAN),
    ),
    "NaN in a function": (
        lambda: in_function(constant(NAN), make_node("MatMul", ["a", "k"], ["b"])),
        HOLDS_NAN,
    ),
    "NaN in a Constant": (lambda: scaled(constant(np.float32([1, np.nan, 2]))), ("weight 'k'", *HOLDS_NAN)),
    "NaN in a number": (
        lambda: scaled(make_node("Constant", [], ["k"], "constant", value_float=float("nan"))),
        ("weight 'k'", *HOLDS_NAN),
    ),
    "NaN in a list": (
        lambda: scaled(make_node("Constant", [], ["k"], "constant", value_floats=[1.0, float("nan"), 2.0])),
        ("weight 'k' holds NaN: 1 of 3",),
    ),
    "NaN in an attribute": (
        lambda: model([make_node("LeakyRelu", ["x"], ["r"], "leaky", alpha=float("nan")), PRODUCT], w=W),
        ("alpha of LeakyRelu 'leaky'", *HOLDS_NAN),
    ),
    "NaN that fills": (
        lambda: scaled(
            make_node("ConstantOfShape", ["n"], ["k"], "fill", value=numpy_helper.from_array(np.float32([np.nan]))),
            n=np.array([3]),
        ),
        ("value of ConstantOfShape 'fill'", *HOLDS_NAN),
    ),
    "infinite weight": (lambda: product(with_one(-np.inf)), ("weight 'w' holds infinity: 1 of 48", "Repair")),
    "infinite weight that is transposed": (
        lambda: model([make_node("Transpose", ["v"], ["w"], "turn"), PRODUCT], v=with_one(np.inf).T.copy()),
        ("weight 'v' holds infinity: 1 of 48", "Repair"),
    ),
    "infinite half weight that is cast and reshaped": (
        lambda: model(
            [make_node("Cast", ["v"], ["c"], to=FLOAT), make_node("Reshape", ["c", "s"], ["w"]), PRODUCT],
            v=with_one(-np.inf).astype(np.float16).ravel(),
            s=np.array([16, 3]),
        ),
        ("weight 'v' holds infinity: 1 of 48", "Repair"),
    ),
    "infinite scale that is moved": (
        lambda: model(
            [
                make_node("Squeeze", ["r"], ["s"]),
                make_node("DequantizeLinear", ["q", "s"], ["v"], "wide", axis=0),
                make_node("Transpose", ["v"], ["w"]),
                PRODUCT,
            ],
            q=np.ones((3, 16), np.int8),
            r=np.float32([[1, np.inf, 1]]),
        ),
        ("weight 'r' holds infinity: 1 of 3", "Repair"),
    ),
    "infinite weight that a branch reads moved": (
        lambda: changed(
            lambda made: made.graph.node.insert(0, make_node("Transpose", ["u"], ["v"])),
            conditional(branch("t", make_node("MatMul", ["x", "v"], ["t"])), u=with_one(np.inf).T.copy()),
        ),
        ("weight 'u' holds infinity: 1 of 48", "Repair"),
    ),
    # float64, which TensorRT takes for float32
    "float64 input": (
        lambda: product(DOUBLES, inputs=[info("x", ("batch", 16), DOUBLE)], outputs=[info("y", ("batch", 3), DOUBLE)]),
        ("input 'x' is float64", "would take it for float32", "Cast it to float32"),
    ),
    "float64 within": (
        lambda: model([UP, make_node("MatMul", ["d", "w"], ["e"], "wide"), DOWN], w=DOUBLES),
        ("Cast 'up' computes", *IN_DOUBLE),
    ),
    "float64 constants": (
        lambda: scaled(
            make_node("Div", ["a", "b"], ["q"], "third"),
            make_node("Cast", ["q"], ["k"], to=FLOAT),
            a=np.float64(1),
            b=np.float64(3),
        ),
        ("Div 'third' computes", *IN_DOUBLE),
    ),
    "float64 compared": (
        lambda: scaled(
            make_node("Less", ["a", "b"], ["q"], "compare"),
            make_node("Cast", ["q"], ["k"], to=FLOAT),
            a=np.float64(1),
            b=np.float64(1 + 1e-12),
        ),
        ("Less 'compare' computes", *IN_DOUBLE),
    ),
    "float64 in a branch": (
        lambda: conditional(
            branch(
                "t",
                make_node("CastLike", ["x", "v"], ["d"], "up"),
                make_node("MatMul", ["d", "v"], ["e"], "wide"),
                make_node("CastLike", ["e", "x"], ["t"], "down"),
                v=DOUBLES,
            )
        ),
        ("CastLike 'up' computes", *IN_DOUBLE),
    ),
    "float64 in a function": (
        lambda: in_function(
            make_node("Cast", ["a"], ["d"], to=DOUBLE),
            constant(DOUBLES),
            make_node("MatMul", ["d", "k"], ["e"]),
            make_node("Cast", ["e"], ["b"], to=FLOAT),
        ),
        ("computes", *IN_DOUBLE),
    ),
    # other types
    "uint8": (lambda: quantized(TensorProto.UINT8, 128), AS_INT8),
    "uint8 with a zero point of 0": (lambda: quantized(TensorProto.UINT8), AS_INT8),
    "uint8 by ONNX's default": (lambda: quantized(None), (*AS_INT8, "no zero point")),
    "float8 of five bits of exponent": (
        lambda: quantized(TensorProto.FLOAT8E5M2, opset=19),
        ("weight 'z' is float8e5m2", *NO_TYPE),
    ),
    "uint4": (lambda: weight_of(TensorProto.UINT4), ("weight 'q' is uint4", *NO_TYPE)),
    "uint16": (lambda: weight_of(TensorProto.UINT16), ("weight 'q' is uint16", *NO_TYPE)),
    "string input": (
        lambda: product(inputs=[X, info("s", (1,), TensorProto.STRING)]),
        ("input 's' is string", *NO_TYPE),
    ),
    "sequence input": (
        lambda: product(inputs=[X, helper.make_tensor_sequence_value_info("s", FLOAT, (3,))]),
        ("input 's' is no tensor", "of the type sequence"),
    ),
    # what does not fit the model's configuration
    "input used as a shape": (
        lambda: model(
            [make_node("MatMul", ["x", "w"], ["h"]), make_node("Reshape", ["h", "s"], ["y"])],
            inputs=[X, info("s", (2,), INT64)],
            w=W,
        ),
        ("input 's' is used as a shape", "Make it a constant"),
    ),
    "input that nobody specified": (
        lambda: model([make_node("MatMul", ["z", "w"], ["y"])], inputs=[info("z", ("batch", 16))], w=W),
        ("input 'z' has no specification", "model.inputs has x"),
    ),
    "input of another dtype": (
        lambda: product(
            W.astype(np.float16), inputs=[info("x", ("batch", 16), HALF)], outputs=[info("y", ("batch", 3), HALF)]
        ),
        ("input 'x' is float16 in the graph", "model.inputs says float32"),
    ),
    "input of one size": (
        lambda: product(inputs=[info("x", (8, 16))], outputs=[info("y", (8, 3))]),
        ("input 'x' is [8, 16] in the graph", "[1, 16]"),
    ),
    "input of another width": (
        lambda: product(np.ones((17, 3), np.float32), inputs=[info("x", ("batch", 17))]),
        ("input 'x' is [-1, 17] in the graph", "[1, 16]"),
    ),
}
