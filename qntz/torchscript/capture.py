"""Trace or script, and the comparison with the eager model on every probe that decides whether the capture counts."""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from qntz.compare import Difference, require_parity
from qntz.config import DimConfig
from qntz.errors import CaptureError, ModelError, ParityError, one_line
from qntz.model import WRAPPED, arrays_of, call, in_order, named_outputs, run_model, tensors, traceable
from qntz.records import Arrays, RewriteProof
from qntz.torchscript.archive import archive_bytes

METHODS = {"trace": "the traced module", "script": "the scripted module", "saved": "the saved module"}


@dataclass(frozen=True)
class Captured:
    """A captured model.

    Attributes:
        module: the ScriptModule. method: "trace", "script" or "saved" (it came as TorchScript). why: in words.
        order: the input names in the order of its parameters. golden: eager outputs by name, per input.
        parity: its worst difference from the eager model. warnings: what torch warned of, one each, sorted.
    """

    module: torch.jit.ScriptModule
    method: str
    why: str
    order: tuple[str, ...]
    golden: list[Arrays]
    parity: Difference
    warnings: tuple[str, ...] = field(default=())


def capture(
    module: torch.nn.Module,
    example_inputs: Arrays,
    probes: Sequence[Arrays] = (),
    *,
    dims: Mapping[str, DimConfig] | None = None,
    method: str = "trace",
    tolerance: float = 1e-4,
    original: torch.nn.Module | None = None,
) -> Captured:
    """Captures `module` by `method` and compares it with the eager model on the example and every probe.

    Args:
        example_inputs: arrays by input name; a trace is recorded with it. probes: further inputs.
        dims: the dynamic dimensions; unused by trace and script, which take any size.
        tolerance: worst |difference| over the largest magnitude of an output.
        original: the eager model that counts, where `module` is a rewritten copy of it; else `module` itself.

    Raises:
        CaptureError: torch refuses, or the capture's outputs are not the model's.
        ModelError: the eager model refuses the inputs, gives NaN, or is not deterministic.
    """
    eager = original if original is not None else module
    order = in_order(eager, list(example_inputs))
    inputs = [example_inputs, *probes]
    raw = call(eager, example_inputs, order)
    golden = [arrays_of(raw), *(run_model(eager, one, order) for one in probes)]
    _require_sane(golden, order)
    _require_repeatable(run_model(eager, example_inputs, order), golden[0])
    flat = isinstance(raw, torch.Tensor) or (type(raw) is tuple)
    if isinstance(module, torch.jit.ScriptModule):
        script, why, method, caught = module, "the model came as a saved TorchScript file", "saved", []
    else:
        script, why = None, f"torchscript.method is {method}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if method == "trace":
                script = _traced(module if flat else _Plain(module, order, flat), example_inputs, order)
            else:
                script = _scripted(module)
    if method != "trace":
        script = _settled(script, example_inputs, order, flat)
    outputs = [_run(script, one, order, method, list(golden[0])) for one in inputs]
    try:
        parity = require_parity(outputs, golden, tolerance, METHODS[method])
    except ParityError as error:
        advice = {"trace": "Set torchscript.method to script, or r", "script": "Set torchscript.method to trace, or r"}
        raise CaptureError(
            f"{method} captures another model",
            why=error.why,
            do=f"{advice.get(method, 'R')}ewrite what depends on the input's values or sizes.",
        ) from error
    told = sorted({str(w.message).splitlines()[0] for w in caught if issubclass(w.category, torch.jit.TracerWarning)})
    return Captured(script, method, why, tuple(order), golden, parity, tuple(told))


def _traced(module: torch.nn.Module, example: Arrays, order: Sequence[str]) -> torch.jit.ScriptModule:
    try:
        with torch.no_grad(), traceable():
            # check_trace only repeats the example, the probes do more
            return torch.jit.trace(module, tensors(example, order), check_trace=False)
    except Exception as error:
        raise CaptureError(
            "the model cannot be traced", why=one_line(error), do="Set torchscript.method to script."
        ) from error


def _scripted(module: torch.nn.Module) -> torch.jit.ScriptModule:
    try:
        return torch.jit.script(module)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        place = next((line for line in lines if line.startswith("File ")), "")
        raise CaptureError(
            "the model cannot be scripted",
            where=place.removeprefix("File ").replace('"', "").replace(", line ", ":"),
            why=lines[0] if lines else type(error).__name__,
            do="Set torchscript.method to trace, or write that part so that TorchScript takes it.",
        ) from error


class _Plain(torch.nn.Module):
    """A model called with exactly these inputs, that returns a tensor or a tuple of tensors: what a dict, list or named
    tuple holds, in its order."""

    def __init__(self, model: torch.nn.Module, order: Sequence[str], flat: bool) -> None:
        super().__init__()
        setattr(self, WRAPPED, model)

        def forward(*inputs: torch.Tensor) -> Any:
            outputs = model(*inputs)
            return outputs if flat else tuple(named_outputs(outputs).values())

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # what the trace names its inputs by
        forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in order])  # type: ignore[attr-defined]
        self.forward = forward


def _settled(
    script: torch.jit.ScriptModule, example: Arrays, order: Sequence[str], flat: bool
) -> torch.jit.ScriptModule:
    """The scripted module itself, or a trace around it, in which its control flow stays: where it has optional
    arguments, which the exporter refuses as None and else keeps as ONNX optionals, or outputs that are no tensors."""
    arguments = script.forward.schema.arguments[1:]
    optional = [argument for argument in arguments if isinstance(argument.type, torch._C.OptionalType)]
    if flat and len(arguments) == len(order) and not optional:
        return script
    try:
        # read again: a module that was frozen in this process cannot be put into another
        inner = torch.jit.load(io.BytesIO(archive_bytes(script)))
        with torch.no_grad():
            return torch.jit.trace(_Plain(inner, order, flat), tensors(example, order), check_trace=False)
    except Exception as error:
        raise CaptureError(
            "the scripted model cannot be given plain inputs and outputs",
            why=one_line(error),
            do="Let forward take no optional arguments, and return a tensor or a tuple of tensors.",
        ) from error


def _run(
    script: torch.jit.ScriptModule, inputs: Arrays, order: Sequence[str], method: str, names: Sequence[str]
) -> Arrays:
    """The capture's outputs under the eager model's names, which a tuple has lost."""
    try:
        outputs = list(run_model(script, inputs, order).values())
    except ModelError as error:
        raise CaptureError(
            f"{method} captures a model that refuses inputs which the eager model takes",
            where=error.where,
            why=error.why,
            do="A size was frozen: set torchscript.method to script, or take sizes from x.shape as they are.",
        ) from error
    if len(outputs) != len(names):
        raise CaptureError(f"{method} captures {len(outputs)} outputs, the eager model has {len(names)}")
    return dict(zip(names, outputs, strict=True))


def reference_outputs(eager: torch.nn.Module, batches: Sequence[Arrays], order: Sequence[str]) -> list[Arrays]:
    """The eager model's outputs on the test data, by name, batch by batch; raises ModelError where they hold NaN."""
    outputs = [run_model(eager, inputs, order) for inputs in batches]
    _require_numbers(outputs, "batch of test data")
    return outputs


def _require_numbers(runs: Sequence[Arrays], inputs: str) -> None:
    for index, outputs in enumerate(runs):
        for name, array in outputs.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ModelError(
                    f"the model's own output {name!r} holds NaN on {inputs} {index}", do="Check its weights."
                )


def _require_sane(golden: Sequence[Arrays], inputs: Sequence[str]) -> None:
    _require_numbers(golden, "probe")
    for name in golden[0]:
        if name in inputs:
            raise ModelError(
                f"output {name!r} has the name of an input",
                why="an ONNX graph cannot tell them apart",
                do="Rename the input, or return a dict with another key.",
            )
        if all(outputs[name].size == 0 for outputs in golden):
            raise ModelError(
                f"output {name!r} is empty on every probe",
                why="what is never computed cannot be compared",
                do="Give probes that fill it (model.probes.file), or test data.",
            )


def _require_repeatable(again: Arrays, first: Arrays) -> None:
    if any(not np.array_equal(again[name], array) for name, array in first.items()):
        raise ModelError(
            "the model is not deterministic",
            why="the same input gave two outputs",
            do="Remove randomness from forward.",
        )


def record(
    captured: Captured, proofs: Sequence[RewriteProof], tolerance: float, eager: torch.nn.Module
) -> dict[str, Any]:
    """torchscript.json: the method and why, the parity, what every rewrite did, and the model's size."""
    return {
        "method": captured.method,
        "why": captured.why,
        "parity": captured.parity.as_dict(),
        "tolerance": tolerance,
        "probes": len(captured.golden),
        "rewrites": [asdict(proof) for proof in proofs],
        "warnings": list(captured.warnings),
        "parameters": sum(parameter.numel() for parameter in eager.parameters()),
    }
