"""torch's TorchScript exporter: `if` and loops of a scripted model become `If` and `Loop`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qntz.config import OPSET
from qntz.errors import ExportError
from qntz.export.deferred import put_back, with_outputs, without_weights
from qntz.export.names import dynamic_axes
from qntz.records import Capture, Provided
from qntz.symbolics import lowered, registered


def of_script(captured: Capture, opset: int, symbolics: Sequence[Provided]) -> tuple[Any, dict[str, list[str]]]:
    """The ONNX model of a ScriptModule, and the paths of the modules that each symbolic was used in.

    Raises:
        ExportError: the exporter refuses an operator.
    """
    import onnx
    import torch

    from qntz.model import tensors

    order, golden = list(captured.shapes), captured.golden[0]
    module, put = lowered(captured.module, symbolics)
    # a module with what was put in is run, which may refuse to
    known = with_outputs(tensors(golden, list(golden))) if module is captured.module else contextlib.nullcontext()
    with (
        known,
        registered(symbolics, opset) as fired,
        without_weights() as weights,
        tempfile.TemporaryDirectory() as folder,
    ):
        path = Path(folder) / "model.onnx"  # beside which the exporter writes the weights of a model beyond 2 GB
        try:
            with warnings.catch_warnings(), torch.no_grad(), _no_output():
                warnings.simplefilter("ignore")  # the exporter's deprecation, and traces that the probes judge better
                torch.onnx.export(
                    module,
                    tensors(captured.probes[0], order),
                    str(path),
                    dynamo=False,
                    opset_version=opset,
                    input_names=order,
                    output_names=list(golden),
                    dynamic_axes=dynamic_axes(captured.shapes, captured.probes, captured.golden),
                    verbose=True,  # keeps of each node what it was made of
                )
        except Exception as error:
            more = "Raise export.opset, or rewrite the operator by a plugin (README, 'Your own rewrite')."
            raise ExportError(
                "the model cannot be exported",
                where=f"opset {opset}",
                why=_reason(error),
                do=more if opset <= OPSET else f"Set export.opset to {OPSET} or less, which this exporter ends at.",
            ) from error
        model = onnx.load(path)
    put_back(model, weights)
    return model, fired | put


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Drops what C++ writes to the process's standard output: on an unsupported operator, the whole graph."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _reason(error: Exception) -> str:
    """torch's own sentence, without the graph that it prints after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "not supported" in line or "Unsupported" in line or "unsupported" in line]
    if lines and lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        lines = lines[-1:]  # what a `raise` or `assert` says, after the code around it
    return (telling or lines or [type(error).__name__])[0][:300]
