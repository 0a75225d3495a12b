"""Trace or script, and the comparison with the eager model on every probe that decides whether the capture counts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from qntz.compare import Difference, require_parity
from qntz.config import DimConfig
from qntz.errors import CaptureError, ModelError, ParityError, one_line
from qntz.model import in_order, run_model, tensors
from qntz.records import Arrays, RewriteProof


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
    golden = [run_model(eager, one, order) for one in inputs]
    _require_sane(eager, inputs, golden, order)
    if isinstance(module, torch.jit.ScriptModule):
        script, why, method, caught = module, "the model came as a saved TorchScript file", "saved", []
    else:
        script, why = None, f"torchscript.method is {method}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            script = _traced(module, example_inputs, order) if method == "trace" else _scripted(module)
    outputs = [_run(script, one, order, method) for one in inputs]
    try:
        parity = require_parity(
            outputs, golden, tolerance, f"the {method}d module" if method != "script" else "the scripted module"
        )
    except ParityError as error:
        other = "script" if method == "trace" else "trace"
        raise CaptureError(
            f"{method} captures another model",
            why=error.why,
            do=f"Set torchscript.method to {other}, or rewrite what depends on the input's values or sizes.",
        ) from error
    told = sorted({str(w.message).splitlines()[0] for w in caught if issubclass(w.category, torch.jit.TracerWarning)})
    return Captured(script, method, why, tuple(order), golden, parity, tuple(told))


def _traced(module: torch.nn.Module, example: Arrays, order: Sequence[str]) -> torch.jit.ScriptModule:
    try:
        with torch.no_grad():
            # strict=False lets dict outputs through; check_trace only repeats the example, the probes do more
            return torch.jit.trace(module, tensors(example, order), strict=False, check_trace=False)
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


def _run(script: torch.jit.ScriptModule, inputs: Arrays, order: Sequence[str], method: str) -> Arrays:
    try:
        return run_model(script, inputs, order)
    except ModelError as error:
        raise CaptureError(
            f"{method} captures a model that refuses inputs which the eager model takes",
            where=error.where,
            why=error.why,
            do="A size was frozen: set torchscript.method to script, or take sizes from x.shape as they are.",
        ) from error


def _require_sane(
    eager: torch.nn.Module, inputs: Sequence[Arrays], golden: Sequence[Arrays], order: Sequence[str]
) -> None:
    import numpy as np

    for probe, outputs in enumerate(golden):
        for name, array in outputs.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ModelError(f"the model's own output {name!r} holds NaN on probe {probe}", do="Check its weights.")
    again = run_model(eager, inputs[0], order)
    if any(not np.array_equal(again[name], array) for name, array in golden[0].items()):
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
