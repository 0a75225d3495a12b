"""A changed graph is proven to compute the same before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from qntz import ort
from qntz.errors import QuantizeError
from qntz.packed import packed
from qntz.records import Arrays

EQUAL = 1e-6  # of each element, or of the median magnitude
PROBES = 2


def prove_equal(before: Path, after: onnx.ModelProto, probes: Sequence[Arrays], what: str, where: str, do: str) -> None:
    """Runs both graphs on two probes, or on inputs made of the graph's types where there are none. Neither graph is
    optimized: the optimizers fuse one opset's operators otherwise than another's.

    Raises:
        QuantizeError: an output differs by more than the last bits of float32; `what` is said of it.
        ExportError: ONNX Runtime refuses the inputs.
    """
    probes = list(probes[:PROBES]) or [_made_inputs(after)]
    sessions = [ort.session(one, optimize=ort.DISABLE) for one in (before, packed(after, "after.onnx"))]
    for index, probe in enumerate(probes):
        wanted, got = (ort.run(session, probe) for session in sessions)
        for name, expected in wanted.items():
            if isinstance(expected, np.ndarray) and expected.dtype.kind == "f":
                tolerance = EQUAL * float(np.median(np.abs(expected))) if expected.size else 0.0
                equal = np.allclose(got[name], expected, rtol=EQUAL, atol=tolerance, equal_nan=True)
            else:
                equal = np.array_equal(got[name], expected)
            if not equal:
                raise QuantizeError(what, where=where, why=f"output {name!r} is another on probe {index}", do=do)


def _made_inputs(model: onnx.ModelProto) -> Arrays:
    """Inputs of the graph's types: two along each dimension without a number, normal numbers, ones, and true."""
    weights = {tensor.name for tensor in model.graph.initializer}
    random = np.random.RandomState(0)
    made: Arrays = {}
    for value in model.graph.input:
        if value.name not in weights:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            shape = [dim.dim_value or 2 for dim in kind.shape.dim]
            made[value.name] = (random.standard_normal(shape) if dtype.kind == "f" else np.ones(shape)).astype(dtype)
    return made
