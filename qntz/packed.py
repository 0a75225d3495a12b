"""ONNX models as files: one, or beyond protobuf's 2 GB two, the graph and the weights that it refers to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper

from qntz.errors import ArtifactError, ExportError, one_line, unreadable

LARGEST = 2**31 - 1  # bytes of one protobuf message
GRAPH = 2**26  # of them what is left for all but the weights that would stand outside
SMALL = 2**10  # bytes of a tensor that stays in the graph in any case
ALIGNED = 2**12  # offsets in the file of weights, which is mapped into memory
SUFFIX = ".data"
GRAPH_FIELD = 7  # of ModelProto
INITIALIZER_FIELD = 5  # of GraphProto
RAW_FIELD, EXTERNAL_FIELD = 9, 13  # of TensorProto
LARGE = 2**16  # bytes of a weight; smaller ones may be shapes, which shape inference asks for
FIXED = {1: 8, 5: 4}  # bytes of protobuf's fields of a fixed size, by kind
NONE = b"The graph beside this file holds its weights.\n"  # an artifact has to be there, and not empty


@dataclass(frozen=True)
class Packed:
    """A model's bytes, the same for the same model.

    Attributes:
        name: of the file, by which the graph finds its weights. data: its bytes. weights: those of the file beside it,
        `name` + ".data", in pieces; none where the model fits into one.
    """

    name: str
    data: bytes
    weights: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return len(self.data) + sum(map(len, self.weights))

    def model(self) -> onnx.ModelProto:
        """The model, with its weights; raises ArtifactError where it is none, or they are not all there."""
        try:
            model = onnx.load_from_string(self.data)
        except Exception as error:  # protobuf's own
            raise _damaged(self.name, one_line(error)) from error
        starts = dict(zip(itertools.accumulate(map(len, self.weights), initial=0), self.weights, strict=False))
        for tensor in _outside(model):
            told = {entry.key: entry.value for entry in tensor.external_data}
            start, length = int(told["offset"]), int(told["length"])
            piece = starts.get(start)
            raw = (
                piece
                if piece is not None and len(piece) == length
                else b"".join(self.weights[:1])[start : start + length]
            )
            if len(raw) != length:
                raise _damaged(self.name + SUFFIX, f"{tensor.name} has {len(raw)} of its {length} bytes")
            _put_in(tensor, raw)
        return model

    def named(self, name: str) -> Packed:
        """The same for a file of another name."""
        if name == self.name or not self.weights:
            return Packed(name, self.data, self.weights)
        model = onnx.load_from_string(self.data)
        for tensor in _outside(model):
            next(entry for entry in tensor.external_data if entry.key == "location").value = name + SUFFIX
        return Packed(name, bytes(model.SerializeToString(deterministic=True)), self.weights)

    def write(self, folder: Path) -> Path:
        """Writes the files into a folder; the path of the first."""
        path = folder / self.name
        path.write_bytes(self.data)
        if self.weights:
            with data_of(path).open("wb") as file:
                file.writelines(self.weights)
        return path


def packed(model: onnx.ModelProto, name: str) -> Packed:
    """The model as files; raises ExportError where even the graph without its weights has 2 GB."""
    if _weight_bytes(model) + GRAPH <= LARGEST:
        try:
            data = bytes(model.SerializeToString(deterministic=True))
        except ValueError:  # protobuf's own limit
            data = b""
        if 0 < len(data) <= LARGEST:
            return Packed(name, data)
    return _split(model, name)


def _split(model: onnx.ModelProto, name: str) -> Packed:
    weights: list[bytes] = []
    end = 0
    graph = onnx.GraphProto()
    for one, value in model.graph.ListFields():
        if one.name != "initializer":
            _set(graph, one, value)
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < SMALL:
            graph.initializer.append(tensor)
            continue
        padding = -end % ALIGNED
        weights += [bytes(padding), raw] if padding else [raw]
        told = {"location": name + SUFFIX, "offset": end + padding, "length": len(raw)}
        graph.initializer.add(
            name=tensor.name,
            dims=tensor.dims,
            data_type=tensor.data_type,
            data_location=onnx.TensorProto.EXTERNAL,
            external_data=[onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in told.items()],
        )
        end += padding + len(raw)
    split = onnx.ModelProto()
    for one, value in model.ListFields():
        if one.name != "graph":
            _set(split, one, value)
    split.graph.CopyFrom(graph)
    try:
        data = bytes(split.SerializeToString(deterministic=True))
        if len(data) > LARGEST:
            raise ValueError(f"{len(data)} bytes")
    except ValueError as error:  # protobuf's own limit, too
        why = f"what is no weight ends at 2 GB: {one_line(error)}"
        raise ExportError("the model is too large", where=name, why=why) from error
    return Packed(name, data, tuple(weights))


def _set(message: Any, kind: Any, value: Any) -> None:
    if kind.is_repeated:
        getattr(message, kind.name).extend(value)
    elif kind.message_type is not None:
        getattr(message, kind.name).CopyFrom(value)
    else:
        setattr(message, kind.name, value)


def _outside(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (one for one in model.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL)


def _put_in(tensor: onnx.TensorProto, raw: bytes) -> None:
    tensor.raw_data = raw
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def is_large(model: onnx.ModelProto) -> bool:
    """Whether the model is more than one file, and no tool takes it as one message."""
    return _weight_bytes(model) + GRAPH > LARGEST


def size_of(model: onnx.ModelProto) -> int:
    """The bytes of a model, weights included; of a large one those of the weights."""
    return _weight_bytes(model) if is_large(model) else model.ByteSize()


def _weight_bytes(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def data_of(path: Path) -> Path:
    """The file of a model's weights beside it."""
    return path.with_name(path.name + SUFFIX)


def read_model(path: Path) -> onnx.ModelProto:
    """The ONNX model of a file, with its weights; raises ArtifactError where it is missing or none."""
    try:
        model = onnx.load(str(path), load_external_data=False)
        for tensor in external_data_helper._get_all_tensors(model):
            require_beside(tensor, path)
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except OSError as error:
        raise unreadable(path, error) from None
    except ArtifactError:
        raise
    except Exception as error:
        raise _damaged(path, one_line(error)) from error
    if not model.HasField("graph"):  # protobuf takes an empty file for any message, and unknown fields of another
        raise _damaged(path, "it holds no graph" if path.stat().st_size else "it is empty")
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
    return model


def require_beside(tensor: onnx.TensorProto, path: Path) -> None:
    """Raises ArtifactError for a weight of the model at `path` that lies elsewhere than in the file beside it: a graph
    must not have others read, or write, a file of its choice."""
    named = [entry.value for entry in tensor.external_data if entry.key == "location"]
    if tensor.data_location == onnx.TensorProto.EXTERNAL and named != [data_of(path).name]:
        raise _damaged(path, f"the weight {tensor.name} lies in {', '.join(named)!r}, not in {data_of(path).name}")


def read_frame(path: Path) -> onnx.ModelProto:
    """A model without its graph: metadata, opsets and what else stands around it. The file is mapped, and the graph
    passed over, so that the time does not grow with the weights.

    Raises:
        ArtifactError: the file is missing or no ONNX model.
    """
    import mmap

    from google.protobuf.message import DecodeError

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _frame(data)
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, IndexError, DecodeError) as error:
        raise _damaged(path, one_line(error)) from error


@dataclass(frozen=True)
class Weight:
    """A weight as it lies in a file: its element type as ONNX numbers it, its shape, and its bytes, mapped."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    data: memoryview


def read_bare(path: Path) -> tuple[onnx.ModelProto, list[Weight]]:
    """A model as `qntz.graph.without_weights` gives it, with its large weights as inputs, and those weights. The file
    is mapped: a look at the graph costs no copy of what it holds. Weights that lie beside the file stay in the model.

    Raises:
        ArtifactError: as `read_model`.
    """
    import mmap

    from google.protobuf.message import DecodeError

    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        model = _frame(data)
        (graph,) = [data[at:end] for _, end, number, at in _fields(data) if number == GRAPH_FIELD]
        kept, weights, beside = [], [], False
        for start, end, number, at in _fields(graph):
            weight = _large(graph[at:end]) if number == INITIALIZER_FIELD else None
            beside = beside or (number == INITIALIZER_FIELD and _is_beside(graph[at:end]))
            kept += [graph[start:end]] if weight is None else []
            weights += [weight] if weight is not None else []
        model.graph.ParseFromString(b"".join(kept))
        if beside:
            return read_model(path), []
    except (OSError, ValueError, IndexError, DecodeError):
        return read_model(path), []  # which says what is wrong
    known = {value.name for value in model.graph.input}
    for weight in weights:
        if weight.name not in known:
            model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return model, weights


def _frame(data: Any) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(b"".join(data[a:b] for a, b, number, _ in _fields(data) if number != GRAPH_FIELD))


def _large(tensor: memoryview) -> Weight | None:
    """A serialized tensor, where it has many bytes."""
    kept, raw = [], None
    for start, end, number, at in _fields(tensor):
        if number == RAW_FIELD and end - at > LARGE:
            raw = tensor[at:end]
        else:
            kept.append(tensor[start:end])
    if raw is None:
        return None
    told = onnx.TensorProto.FromString(b"".join(kept))
    return Weight(told.name, told.data_type, tuple(told.dims), raw)


def _is_beside(tensor: memoryview) -> bool:
    return any(number == EXTERNAL_FIELD for _, _, number, _ in _fields(tensor))


def _fields(data: Any) -> Iterator[tuple[int, int, int, int]]:
    """Where each field of a message of protobuf begins and ends, its number, and where its content begins."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = data[at]
            value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
            if byte < 0x80:
                return value, at
            if shift > 63:
                raise ValueError(f"a number without an end at byte {at}")

    start = 0
    while start < len(data):
        tag, at = varint(start)
        kind = tag & 7
        if kind == 0:
            _, end = varint(at)
        elif kind == 2:
            size, at = varint(at)
            end = at + size
        elif kind in FIXED:
            end = at + FIXED[kind]
        else:
            raise ValueError(f"a field of kind {kind} at byte {start}")
        if end > len(data):
            raise ValueError(f"it ends within the field at byte {start}")
        yield start, end, tag >> 3, at
        start = end


def read_packed(path: Path) -> Packed:
    """The files of a model as they are; raises ArtifactError where they are missing."""
    beside = data_of(path)
    try:
        weights = beside.read_bytes() if beside.exists() else NONE
        return Packed(path.name, path.read_bytes(), () if weights == NONE else (weights,))
    except OSError as error:
        raise unreadable(path, error) from None


def _damaged(path: Path | str, why: str) -> ArtifactError:
    do = "Where a stage wrote it, remove it and run `dvc repro`."
    return ArtifactError("is no ONNX model", where=str(path), why=why, do=do)


def size_at(path: Path) -> int:
    """Bytes of the files of a model; raises ArtifactError where it is missing."""
    beside = data_of(path)
    try:
        weights = beside.stat().st_size if beside.exists() else 0
        return path.stat().st_size + (weights if weights != len(NONE) else 0)
    except OSError as error:
        raise unreadable(path, error) from None
