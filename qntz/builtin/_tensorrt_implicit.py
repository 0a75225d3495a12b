"""int8 without Q/DQ in the graph, for TensorRT 10: a float graph, the ranges of its tensors from calibration.cache, and
the builder's own choice of the layers that run in int8.

The float graph is quantized.onnx with its Q/DQ pairs taken out: rescaled channels and corrected biases stay, and the
ranges are those that were measured as explicit Q/DQ. TensorRT takes them by the names of tensors, and passes over what
has none without a word: hence names and scales of both files are held against one another.
"""

from __future__ import annotations

import contextlib
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qntz.errors import BackendError

if TYPE_CHECKING:
    import onnx

CACHE = "calibration.cache"  # beside the graph, as quantize writes both
SHOWN = 3  # of tensors that do not fit


@dataclass(frozen=True)
class Implicit:
    """What an engine with implicit int8 is built of.

    Attributes:
        graph: the file of the float graph. scales: of its tensors, float32 as TensorRT's cache spells them. half:
            whether some of its tensors are float16.
    """

    graph: Path
    scales: Mapping[str, str]
    half: bool


@contextlib.contextmanager
def implicit_of(quantized: Path) -> Iterator[Implicit]:
    """The float graph of quantized.onnx in a temporary file, and its ranges of the calibration cache beside it.

    Raises:
        BackendError: the graph has a Q or DQ that is no pair of int8 with a constant scale, or the cache is not of this
            graph; the tensors are named. ArtifactError: the graph cannot be read, or the temporary file not be written.
    """
    from qntz.artifacts import write_model
    from qntz.packed import packed, read_model

    model = read_model(quantized)
    explicit = _take_out_pairs(model, str(quantized))
    scales = _agreed(explicit, _of_cache(quantized.with_name(CACHE)), model, str(quantized.with_name(CACHE)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        write_model(path, packed(model, path.name))
        yield Implicit(path, scales, _is_half(model))


def set_implicit(trt: ModuleType, options: Any, implicit: Implicit) -> None:
    """Lets the builder choose int8, by these ranges; and half precision where the graph has some."""
    options.set_flag(trt.BuilderFlag.INT8)
    if implicit.half:
        options.set_flag(trt.BuilderFlag.FP16)
    options.int8_calibrator = _calibrator(trt, _cache_of(trt, implicit.scales))


def _calibrator(trt: ModuleType, cache: bytes) -> Any:
    """A calibrator that has no data: the ranges are known."""

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, cache: Any) -> None:
            pass

    return Calibrator()


def _cache_of(trt: ModuleType, scales: Mapping[str, str]) -> bytes:
    """In the header the version that reads it: TensorRT does not promise to take another's."""
    major, minor, patch = (int(part) for part in re.findall(r"\d+", str(trt.__version__))[:3])
    lines = [f"TRT-{major * 10_000 + minor * 100 + patch}-EntropyCalibration2"]
    return "\n".join([*lines, *(f"{name}: {scales[name]}" for name in sorted(scales)), ""]).encode()


def _of_cache(path: Path) -> dict[str, str]:
    try:
        _, *lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        do = "Run `dvc repro`: quantize writes it."
        raise BackendError("is missing or damaged", where=str(path), why=f"{error}", do=do) from error
    return {name: digits for name, _, digits in (line.rpartition(": ") for line in lines if line)}


def _take_out_pairs(model: onnx.ModelProto, where: str) -> dict[str, str]:
    """Takes Q/DQ pairs out of the graph, in place; the scales of activations, by tensor, as a cache spells them."""
    from onnx import numpy_helper

    from qntz.graph import nodes_of

    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    quantizes = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    ends = {output.name for output in graph.output}
    quantized_again = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    instead: dict[str, str] = {}
    scales: dict[str, str] = {}
    for node in graph.node:
        pair = quantizes.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if pair is None or pair.input[1:] != node.input[1:] or not _is_symmetric_int8(pair, held):
            continue
        name = pair.input[0]
        if node.output[0] in ends or name in quantized_again:
            continue  # nothing could stand in its place
        if name not in held:  # of weights TensorRT finds the ranges itself
            scale = numpy_helper.to_array(held[pair.input[1]]).reshape(-1)
            if scale.size != 1:
                continue  # a cache has one range a tensor
            digits = struct.pack(">f", float(scale[0])).hex()
            if scales.setdefault(name, digits) != digits:
                what, why = f"{name!r} is quantized by two scales", "a calibration cache has one range a tensor"
                raise BackendError(what, where=where, why=why, do="Remove engine.implicit_int8.")
        instead[node.output[0]] = name
    kept = [node for node in graph.node if not (node.op_type == "DequantizeLinear" and node.output[0] in instead)]
    for node in nodes_of(graph):  # in subgraphs too, which may capture what stands outside
        node.input[:] = [instead.get(name, name) for name in node.input]
    read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    kept = [node for node in kept if node.op_type != "QuantizeLinear" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
    _require_no_pairs(model, where)
    _drop_unread(graph)
    return scales


def _is_symmetric_int8(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> bool:
    import onnx

    if len(node.input) != 3 or any(name not in held for name in node.input[1:]):
        return False
    zero = held[node.input[2]]
    return zero.data_type == onnx.TensorProto.INT8 and not onnx.numpy_helper.to_array(zero).any()


def _require_no_pairs(model: onnx.ModelProto, where: str) -> None:
    from qntz.graph import nodes_of

    left = [node.name for node in nodes_of(model.graph) if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if left:
        raise BackendError(
            f"{_some(left)} cannot be taken out of the graph",
            where=where,
            why="TensorRT takes no Q/DQ beside a calibration cache, and this is no pair in symmetric int8",
            do="Remove engine.implicit_int8, or the graph pass that puts it there.",
        )


def _drop_unread(graph: onnx.GraphProto) -> None:
    from qntz.graph import nodes_of

    read = {name for node in nodes_of(graph) for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    known = [value for value in graph.value_info if value.name in read]
    del graph.value_info[:]
    graph.value_info.extend(known)


def _agreed(
    explicit: Mapping[str, str], cache: Mapping[str, str], model: onnx.ModelProto, where: str
) -> dict[str, str]:
    """The scales by the graph's names; raises BackendError where the cache has others, or others' tensors.

    Beside half precision a tensor that a Cast makes has the range of what the Cast reads, whose name the cache has.
    """
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    named = {tensor: tensor if tensor in cache else casts.get(tensor, tensor) for tensor in explicit}
    missing = sorted(tensor for tensor, name in named.items() if name not in cache)
    foreign = sorted(cache.keys() - named.values())
    other = sorted(tensor for tensor, name in named.items() if name in cache and cache[name] != explicit[tensor])
    for tensors, what in (
        (missing, "has no range of"),
        (foreign, "has ranges of what the graph does not quantize:"),
        (other, "has other ranges than quantized.onnx of"),
    ):
        if tensors:
            why = "TensorRT takes ranges by the names of tensors, and tells of none that does not fit"
            do = "Run quantize again: both files are to be of one run."
            raise BackendError(f"{what} {_some(tensors)}", where=where, why=why, do=do)
    return {**explicit, **{name: explicit[tensor] for tensor, name in named.items()}}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _is_half(model: onnx.ModelProto) -> bool:
    import onnx

    from qntz.graph import graphs_of

    half = onnx.TensorProto.FLOAT16
    return any(
        any(tensor.data_type == half for tensor in graph.initializer)
        or any(a.name == "to" and a.i == half for node in graph.node if node.op_type == "Cast" for a in node.attribute)
        for graph in graphs_of(model.graph)
    )
