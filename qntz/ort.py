"""ONNX Runtime on the CPU: the reference that every ONNX artifact is run under."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from qntz.errors import ExportError, one_line
from qntz.packed import Packed
from qntz.records import Arrays

if TYPE_CHECKING:
    import onnxruntime

DISABLE, BASIC, EXTENDED, ALL = "disable", "basic", "extended", "all"


Model = "Path | bytes | Packed | onnx.ModelProto"
_SHARED = 2**10  # bytes of a weight that is handed over in place, and not copied with the graph


def session(model: Model, *, threads: int = 0, optimize: str = ALL) -> onnxruntime.InferenceSession:
    """A CPU session. Raises ExportError where the model is refused.

    Args:
        model: of one in memory the weights are used where they are. threads: within an operator, 0 for one a core.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle workers must not burn the CPU
    level = {
        DISABLE: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        BASIC: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        EXTENDED: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        ALL: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    options.graph_optimization_level = level[optimize]
    where = str(model) if isinstance(model, Path) else "the model"
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(model, onnx.ModelProto):
                data, weights = _apart(model)
                values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
                options.add_external_initializers(list(values), list(values.values()))
                opened = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
                opened.qntz_weights = values  # which it does not own
                return opened
            if isinstance(model, Packed) and model.weights:
                model = model.write(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            source = str(model) if isinstance(model, Path) else model if isinstance(model, bytes) else model.data
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError("ONNX Runtime refuses the graph", where=where, why=one_line(error)) from error


def _apart(model: onnx.ModelProto) -> tuple[bytes, dict[str, np.ndarray]]:
    """The bytes of a model that names its large weights, and these by name; they are not copied."""
    bare = onnx.ModelProto(ir_version=model.ir_version)
    for field in ("opset_import", "functions", "metadata_props"):
        getattr(bare, field).extend(getattr(model, field))
    graph, weights = bare.graph, {}
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.kind not in "fiub" or len(raw := tensor.raw_data) < _SHARED or len(raw) % dtype.itemsize:
            graph.initializer.append(tensor)
            continue
        told = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        told.data_location = onnx.TensorProto.EXTERNAL
        told.external_data.add(key="location", value="in memory")
        weights[tensor.name] = np.frombuffer(raw, dtype).reshape(tuple(tensor.dims))
    return bytes(bare.SerializeToString()), weights


def run(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    """One run: arrays by input name in (inputs that the graph does not have are left out), outputs by name in order."""
    known = {argument.name for argument in session.get_inputs()}
    names = [argument.name for argument in session.get_outputs()]
    try:
        values = session.run(names, {name: array for name, array in inputs.items() if name in known})
    except Exception as error:
        shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items())
        raise ExportError("ONNX Runtime cannot run the graph", where=shapes, why=one_line(error)) from error
    return dict(zip(names, values, strict=True))


def run_all(model: Model, inputs: Sequence[Arrays], *, threads: int = 0) -> list[Arrays]:
    """The outputs of the model on each set of inputs."""
    opened = session(model, threads=threads)
    return [run(opened, one) for one in inputs]
