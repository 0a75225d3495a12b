"""What calibration saw of the activations that an engine quantizes, beside the thresholds that quantize chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qntz.artifacts import ModelPaths, read_json, read_npz
from qntz.errors import ArtifactError
from qntz.histograms import BINS, Histogram

QUARTERS = 4
"""Bars of an octave, of equal width in the value: from 1 to 1.25, 1.5, 1.75 and 2 times a power of two."""
_FINE = 128 // QUARTERS  # bins of a histogram in a bar
_OCTAVES = 256  # exponents of a float32


@dataclass(frozen=True)
class Activation:
    """A quantized activation.

    Attributes:
        tensor: its name. amax: the threshold, the magnitude that becomes the largest number of the format.
        largest: the largest magnitude that was seen, exact. counts: of elements by magnitude, int64 [1024], the bars of
            `edges`; those below 2 ** -126 and zeros are in the first four.
        beyond: how many of the counted elements exceed the threshold, to a bin of 0.8 %.
        exponents: the least and the largest power of two by which its channels were divided before all this was
            measured, None where they were not. kept_db: the SQNR of its rounding, None where it is not on record.
    """

    tensor: str
    amax: float
    largest: float
    counts: np.ndarray
    beyond: int
    exponents: tuple[int, int] | None = None
    kept_db: float | None = None

    @property
    def counted(self) -> int:
        return int(self.counts.sum())

    @property
    def clips(self) -> bool:
        """Whether any value that was seen exceeds the threshold, counted or not."""
        return self.largest > self.amax

    @property
    def clipped(self) -> float:
        """The share of the counted elements beyond the threshold."""
        return self.beyond / max(self.counted, 1)


def edges() -> np.ndarray:
    """The lower magnitude of each bar, and the upper one of the last, float64 [1025]."""
    octaves = np.exp2(np.arange(-127.0, _OCTAVES - 127))
    lower = (octaves[:, None] * (1 + np.arange(QUARTERS) / QUARTERS)).reshape(-1)
    return np.append(lower, 2 * octaves[-1])


def read_activations(paths: ModelPaths, quantized: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Activation]]:
    """The activations of each engine that quantizes any, sorted by tensor.

    Args:
        quantized: quantize.json of each engine, by name.

    Raises:
        ArtifactError: ranges.json is missing or damaged, or names tensors of another graph than histograms.npz has.
    """
    ranges = {name: _ranges(paths.engine(name).ranges) for name in quantized if quantized[name].get("calibrated")}
    ranges = {name: of for name, of in ranges.items() if of}
    if not ranges:
        return {}
    from qntz.histograms import histograms_from

    raw = histograms_from(read_npz(paths.histograms), str(paths.histograms))
    found = {}
    for name, of in ranges.items():
        told = quantized[name]
        seen, exponents = raw, {}
        if told.get("rescaled"):
            seen, exponents = _rescaled(paths, raw, told["rescaled"], name)
        kept = {tensor: db for layer in told.get("layers", {}).values() for tensor, db in _kept(layer)}
        missing = sorted(of.keys() - seen.keys())
        if missing:
            raise _of_another_graph(paths, name, f"histograms.npz has no {missing[0]!r}")
        found[name] = [
            _activation(tensor, amax, seen[tensor], exponents.get(tensor), kept.get(tensor))
            for tensor, amax in sorted(of.items())
        ]
    return found


def worst_first(activations: Sequence[Activation]) -> list[Activation]:
    """Those that keep least, then those that clip most; one whose SQNR is not on record comes last."""

    def order(one: Activation) -> tuple[bool, float, float, str]:
        return one.kept_db is None, 0.0 if one.kept_db is None else one.kept_db, -one.clipped, one.tensor

    return sorted(activations, key=order)


def _activation(
    tensor: str, amax: float, histogram: Histogram, exponents: tuple[int, int] | None, kept_db: float | None
) -> Activation:
    both = histogram.counts[: BINS // 2] + histogram.counts[BINS // 2 :]
    values, counts = histogram.magnitudes()
    beyond = int(counts[values > amax].sum())
    return Activation(tensor, amax, histogram.amax, both.reshape(-1, _FINE).sum(1), beyond, exponents, kept_db)


def _rescaled(
    paths: ModelPaths, raw: Mapping[str, Histogram], by_node: Mapping[str, Sequence[int]], engine: str
) -> tuple[Mapping[str, Histogram], dict[str, tuple[int, int]]]:
    """The histograms of the graph that quantize rescaled, made as it made them, and the exponents by tensor."""
    from qntz.packed import read_model
    from qntz.rescaled import rescaled
    from qntz.scalable import scalable

    found = scalable(read_model(paths.simplified))
    try:
        exponents = found.exponents(by_node)
    except (KeyError, ValueError) as error:
        raise _of_another_graph(paths, engine, f"simplified.onnx has no such channels: {error}") from None
    of = {tensor: exponents[layout.index] for tensor, layout in found.layouts.items()}
    extremes = {tensor: (int(own.min()), int(own.max())) for tensor, own in of.items() if own.any()}
    return rescaled(raw, found, exponents), extremes


def _of_another_graph(paths: ModelPaths, engine: str, why: str) -> ArtifactError:
    where, do = str(paths.engine(engine).folder), f"Run `dvc repro quantize@{engine}`."
    return ArtifactError("was quantized from another graph or other histograms", where=where, why=why, do=do)


def _ranges(path: Path) -> dict[str, float]:
    record = read_json(path)
    try:
        found = {tensor: float(one["amax"]) for tensor, one in record["tensors"].items()}
        for tensor, amax in found.items():
            if not 0 < amax < math.inf:
                raise ValueError(f"{tensor} has the threshold {amax}")
        return found
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ArtifactError("is no record of ranges", where=str(path), why=f"{type(error).__name__}: {error}") from None


def _kept(layer: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    return list(layer.get("inputs_db", {}).items())
