"""Numerical comparison of an artifact's outputs with the eager model's, with named tolerances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qntz.errors import ParityError
from qntz.records import Arrays


@dataclass(frozen=True)
class Difference:
    """The worst difference between two sets of runs: `error` over the largest magnitude, at `output` of `probe`."""

    error: float
    output: str
    probe: int
    shape: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        error = self.error if math.isfinite(self.error) else None
        return {"error": error, "output": self.output, "probe": self.probe, "shape": list(self.shape)}


def relative_error(actual: np.ndarray, expected: np.ndarray, largest: float | None = None) -> float:
    """Largest |actual - expected| over the largest |expected| (or over `largest`, where that is greater).

    Infinite where dtypes, shapes, NaN or infinities differ, and where integers or booleans differ at all.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return math.inf
    if expected.dtype.kind not in "fc":
        return 0.0 if np.array_equal(actual, expected) else math.inf
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, e = actual.astype(wide), expected.astype(wide)
    finite = np.isfinite(e)
    if not np.array_equal(a[~finite], e[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf
    if not finite.any():
        return 0.0
    difference = float(np.abs(a[finite] - e[finite]).max())
    largest = max(largest or 0.0, float(np.abs(e[finite]).max()))
    if difference == 0:
        return 0.0
    return difference / largest if largest > 0 else math.inf


def largest_magnitudes(runs: Sequence[Arrays]) -> dict[str, float]:
    """The largest finite magnitude of each floating output over all runs: what its errors are held against, since an
    output that is all but zero on one probe has nothing but rounding there."""
    largest: dict[str, float] = {}
    for run in runs:
        for name, array in run.items():
            finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind in "fc" else np.empty(0)
            largest[name] = max(largest.get(name, 0.0), float(finite.max()) if finite.size else 0.0)
    return largest


def sqnr_db(actual: np.ndarray, expected: np.ndarray) -> float:
    """Signal to quantization noise: 10 log10(sum expected^2 / sum (actual - expected)^2), in dB; inf where equal."""
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    noise, signal = float(np.square(a - e).sum()), float(np.square(e).sum())
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def differences(
    actual: Sequence[Arrays], expected: Sequence[Arrays], usual: Sequence[Arrays] | None = None
) -> list[Difference]:
    """Of each probe the worst `relative_error` of its outputs, each over the output's largest magnitude on any probe,
    or in the `usual` runs and this one; outputs are matched by name."""
    largest, found = largest_magnitudes(expected if usual is None else usual), []
    for probe, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
        worst = Difference(-1.0, "", probe, ())
        for name, reference in wanted.items():
            error = relative_error(got[name], reference, largest[name]) if name in got else math.inf
            if error > worst.error:
                worst = Difference(error, name, probe, tuple(got[name].shape) if name in got else ())
        found.append(worst)
    return found


def worst_difference(actual: Sequence[Arrays], expected: Sequence[Arrays]) -> Difference:
    """The worst of the `differences`; the first of them where several are."""
    return _worst(differences(actual, expected))


def _worst(found: Sequence[Difference]) -> Difference:
    return max(found, key=lambda one: one.error, default=Difference(-1.0, "", 0, ()))


def require_parity(
    actual: Sequence[Arrays],
    expected: Sequence[Arrays],
    tolerance: float,
    where: str,
    do: str = "",
    *,
    usual: Sequence[Arrays] | None = None,
    inputs: str = "probe",
) -> Difference:
    """The worst of the `differences`, where it is within the tolerance. inputs: what a run was of, for the message.

    Raises:
        ParityError: naming the output, the probe and the error.
    """
    worst = _worst(differences(actual, expected, usual))
    if not worst.error <= tolerance:
        wanted = tuple(expected[worst.probe][worst.output].shape)
        shapes = "" if wanted == worst.shape else f", shape {list(worst.shape)} instead of {list(wanted)}"
        raise ParityError(
            "differs from the eager model",
            where=where,
            why=f"output {worst.output!r} on {inputs} {worst.probe} is off by {worst.error:.3g} of its largest"
            " magnitude"
            f" (tolerance {tolerance:g}){shapes}",
            do=do,
        )
    return worst
