"""ONNX models as files: one, or beyond protobuf's 2 GB two, the graph and the weights that it refers to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from qntz.errors import ArtifactError, ExportError, one_line
from qntz.graph import graphs_of

LARGEST = 2**31 - 1  # bytes of one protobuf message
GRAPH = 2**26  # of them what is left for all but the weights that would stand outside
SMALL = 2**10  # bytes of a tensor that stays in the graph in any case
ALIGNED = 2**12  # offsets in the file of weights, which is mapped into memory
SUFFIX = ".data"
NONE = b"The graph beside this file holds its weights.\n"  # an artifact has to be there, and not empty


@dataclass(frozen=True)
class Packed:
    """A model's bytes, the same for the same model.

    Attributes:
        name: of the file, by which the graph finds its weights. data: its bytes. weights: those of the file beside it,
        `name` + ".data"; none where the model fits into one.
    """

    name: str
    data: bytes
    weights: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return len(self.data) + len(self.weights)

    def model(self) -> onnx.ModelProto:
        """The model, with its weights."""
        model = onnx.load_from_string(self.data)
        for tensor in _outside(model):
            told = {entry.key: entry.value for entry in tensor.external_data}
            start = int(told["offset"])
            _put_in(tensor, self.weights[start : start + int(told["length"])])
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
            data_of(path).write_bytes(self.weights)
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
    weights = bytearray()
    moved: list[tuple[onnx.TensorProto, bytes]] = []
    try:
        for tensor in _tensors(model):
            if len(tensor.raw_data) < SMALL:
                continue
            weights += bytes(-len(weights) % ALIGNED)
            raw, offset = tensor.raw_data, len(weights)
            weights += raw
            moved.append((tensor, raw))
            onnx.external_data_helper.set_external_data(tensor, name + SUFFIX, offset, len(raw))
            tensor.ClearField("raw_data")
        data = bytes(model.SerializeToString(deterministic=True))
        if len(data) > LARGEST:
            raise ValueError(f"{len(data)} bytes")
    except ValueError as error:  # protobuf's own limit, too
        why = f"what is no weight ends at 2 GB: {one_line(error)}"
        raise ExportError("the model is too large", where=name, why=why) from error
    finally:
        for tensor, raw in moved:
            _put_in(tensor, raw)
    return Packed(name, data, bytes(weights))


def _outside(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (one for one in _tensors(model) if one.data_location == onnx.TensorProto.EXTERNAL)


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
    return sum(len(tensor.raw_data) for tensor in _tensors(model))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in graphs_of(model.graph):
        yield from graph.initializer


def data_of(path: Path) -> Path:
    """The file of a model's weights beside it."""
    return path.with_name(path.name + SUFFIX)


def read_model(path: Path) -> onnx.ModelProto:
    """The ONNX model of a file, with its weights; raises ArtifactError where it is missing or none."""
    try:
        model = onnx.load(str(path))
    except FileNotFoundError:
        raise ArtifactError("is missing", where=str(path), do="Run `dvc repro`.") from None
    except Exception as error:
        raise ArtifactError("is no ONNX model", where=str(path), why=one_line(error)) from error
    for tensor in _tensors(model):
        tensor.ClearField("data_location")
    return model


def read_packed(path: Path) -> Packed:
    """The files of a model as they are; raises ArtifactError where they are missing."""
    beside = data_of(path)
    try:
        weights = beside.read_bytes() if beside.exists() else NONE
        return Packed(path.name, path.read_bytes(), b"" if weights == NONE else weights)
    except FileNotFoundError:
        raise ArtifactError("is missing", where=str(path), do="Run `dvc repro`.") from None


def size_at(path: Path) -> int:
    """Bytes of the files of a model."""
    beside = data_of(path)
    weights = beside.stat().st_size if beside.exists() else 0
    return path.stat().st_size + (weights if weights != len(NONE) else 0)
