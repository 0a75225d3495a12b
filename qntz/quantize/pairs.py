"""Explicit Q/DQ as TensorRT takes it: symmetric, weights per channel, bias and graph outputs in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from qntz.errors import QuantizeError, one_line
from qntz.graph import inferred, nodes_of, subgraphs
from qntz.quantizable import WEIGHTED_OPS, Candidate, node_names
from qntz.quantize.ranges import scale_of
from qntz.quantize.weights import Weights


def with_pairs(
    model: onnx.ModelProto, chosen: Sequence[Candidate], ranges: Mapping[str, float], weights: Weights
) -> onnx.ModelProto:
    """A copy of the model with Q/DQ pairs before the inputs and weights of the chosen nodes.

    Other readers of a quantized activation keep the float one, but for the shortcut of a residual sum: an Add that a
    quantized Conv feeds reads the other operand quantized, so that TensorRT can fuse the sum into the convolution.

    Args:
        ranges: the largest magnitude of each activation that a chosen node reads. weights: of the same model.

    Raises:
        QuantizeError: ONNX Runtime's quantizer refuses the graph, or a scale of a weight is 0 in half precision.
    """
    model = inferred(model)
    for node, name in zip(model.graph.node, node_names(model.graph), strict=True):
        node.name = name
    originals = [node.name for node in model.graph.node]
    biases = _hidden_biases(model.graph)
    betas = {node.name: _beta(node) for node in model.graph.node if node.op_type == "Gemm"}
    outputs = {output.name for output in model.graph.output}
    quantized = _inserted(model, chosen, ranges)
    _restore_biases(quantized.graph, biases)
    _restore_outputs(quantized.graph, [tensor for tensor in ranges if tensor in outputs])
    by_name = {node.name: node for node in quantized.graph.node}
    for name, beta in betas.items():  # the quantizer resets beta, which only fits a quantized bias
        _set_beta(by_name[name], beta)
    _unshare(quantized.graph, chosen, ranges)
    _set_scales(quantized.graph, chosen, ranges, weights)
    _order(quantized.graph, originals)
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    return quantized


def _inserted(model: onnx.ModelProto, chosen: Sequence[Candidate], ranges: Mapping[str, float]) -> onnx.ModelProto:
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantType, add_infer_metadata

    if not chosen:
        return model
    require_free_names(model.graph, [*ranges, *(c.weight for c in chosen if c.weight is not None)])
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    add_infer_metadata(copy)  # types are inferred already; without this mark it would write the model to a file for it
    limits = {t: TensorData(lowest=np.float32(-amax), highest=np.float32(amax)) for t, amax in ranges.items()}
    try:
        return QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=limits,
            nodes_to_quantize=[candidate.node for candidate in chosen],
            nodes_to_exclude=[],
            op_types_to_quantize=list(WEIGHTED_OPS),
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(WEIGHTED_OPS),
            },
        ).quantize_model()
    except Exception as error:
        raise QuantizeError(
            "ONNX Runtime's quantizer refuses the graph", where="quantize", why=one_line(error)
        ) from error


def require_free_names(graph: onnx.GraphProto, tensors: Sequence[str]) -> None:
    """Refuses a graph that has a name which the quantizer gives to its own: it would take the model's for it."""
    taken = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    taken |= {name for node in graph.node for name in node.output}
    endings = ("_scale", "_zero_point", "_quantized", "_QuantizeLinear_Input", "_QuantizeLinear_Output")
    for tensor in tensors:
        for ending in (*endings, "_DequantizeLinear_Output"):
            if tensor + ending in taken:
                raise QuantizeError(
                    f"the name {tensor + ending!r} is taken",
                    where="quantize",
                    why=f"it is what the quantizer calls a part of {tensor!r}",
                    do="Rename that parameter or buffer of the model.",
                )


def dequantized(tensor: str) -> str:
    return f"{tensor}_DequantizeLinear_Output"


def _hidden_biases(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Takes from Gemms, and returns by node, the constant biases that are no vector of a value for each output: the
    quantizer reads them as one, although it leaves biases alone."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    hidden: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] in held and node.input[1] in held:
            transposed = any(one.name == "transB" and one.i for one in node.attribute)
            outputs = held[node.input[1]].dims[0 if transposed else 1]
            if list(held[node.input[2]].dims) != [outputs]:
                hidden[node.name] = held[node.input.pop()]
    return hidden


def _restore_biases(graph: onnx.GraphProto, hidden: Mapping[str, onnx.TensorProto]) -> None:
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.name in hidden:
            bias = hidden[node.name]
            node.input.append(bias.name)
            if bias.name not in known:
                known.add(bias.name)
                graph.initializer.append(bias)


def _restore_outputs(graph: onnx.GraphProto, tensors: Sequence[str]) -> None:
    """Gives graph outputs their float values back: the quantizer renames what makes them and puts Q/DQ behind it."""
    for tensor in tensors:
        renamed = {tensor: dequantized(tensor), f"{tensor}_QuantizeLinear_Input": tensor}
        for node in graph.node:  # of subgraphs the quantizer leaves the names alone
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


def _unshare(graph: onnx.GraphProto, chosen: Sequence[Candidate], ranges: Mapping[str, float]) -> None:
    """Lets nodes that are not quantized read the float tensor again, weights included, but for residual shortcuts."""
    quantized = {candidate.node for candidate in chosen}
    activations = {dequantized(tensor): tensor for tensor in ranges}
    weights = {dequantized(c.weight): c.weight for c in chosen if c.weight is not None}
    convolved = {
        node.output[0] for node in graph.node if node.name in quantized and node.op_type in ("Conv", "ConvTranspose")
    }
    for node in graph.node:
        if node.name in quantized or node.op_type == "DequantizeLinear":
            continue
        residual = node.op_type == "Add" and any(name in convolved for name in node.input)
        floats = weights if residual else {**weights, **activations}
        node.input[:] = [floats.get(name, name) for name in node.input]


def _set_scales(
    graph: onnx.GraphProto, chosen: Sequence[Candidate], ranges: Mapping[str, float], weights: Weights
) -> None:
    """Writes our scales, exactly (the quantizer's own arithmetic may round the last bit otherwise), and zero points of
    the format: the quantizer's are those of int8."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    format = weights.scaling.format
    scales = {tensor: np.array(scale_of(amax, format), np.float32) for tensor, amax in ranges.items()}
    scales.update({one.weight: weights.scales(one) for one in chosen if one.weight is not None})
    for tensor, exact in scales.items():
        held[f"{tensor}_scale"].CopyFrom(onnx.numpy_helper.from_array(exact, f"{tensor}_scale"))
        name = f"{tensor}_zero_point"
        zeros = bytes(exact.size)
        held[name].CopyFrom(onnx.helper.make_tensor(name, format.kind, exact.shape, zeros, raw=True))


def _order(graph: onnx.GraphProto, originals: Sequence[str]) -> None:
    """Puts the Q/DQ nodes, which the quantizer appends, before their first reader; the rest keeps its order."""
    known = set(originals)
    added = {output: node for node in graph.node if node.name not in known for output in node.output}
    ordered: list[onnx.NodeProto] = []
    placed: set[str] = set()

    def place(node: onnx.NodeProto) -> None:
        for name in _reads(node):
            if name in added and name not in placed:
                place(added[name])
        placed.update(node.output)
        ordered.append(node)

    for node in graph.node:
        if node.name in known:
            place(node)
    del graph.node[:]
    graph.node.extend(ordered)


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, what its subgraphs capture included."""
    inner = [name for a in node.attribute for g in subgraphs(a) for n in nodes_of(g) for name in n.input]
    return [*node.input, *inner]


def _beta(node: onnx.NodeProto) -> float | None:
    return next((attribute.f for attribute in node.attribute if attribute.name == "beta"), None)


def _set_beta(node: onnx.NodeProto, beta: float | None) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != "beta"]
    if beta is not None:
        kept.append(onnx.helper.make_attribute("beta", beta))
    del node.attribute[:]
    node.attribute.extend(kept)
