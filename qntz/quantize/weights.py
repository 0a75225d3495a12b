"""Weights in a number format: their scales, by output channel or by block, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from qntz.config import BLOCKS
from qntz.errors import QuantizeError
from qntz.quantizable import Candidate
from qntz.quantize.formats import Format

SHRUNK = np.arange(32, 65) / 64  # of a block's range: the parts of it that the search tries


@dataclass(frozen=True)
class Scaling:
    """How weights are written.

    Attributes:
        format: of the numbers. half: whether scales are float16. block: inputs that share a scale; 0: all of an output.
    """

    format: Format
    half: bool = False
    block: int = 0

    def held(self, scales: np.ndarray, where: str) -> np.ndarray:
        """Scales, float64, as they can be written: float32 that float16 holds, where they are half.

        Raises:
            QuantizeError: one becomes 0 or infinite.
        """
        with np.errstate(over="ignore", under="ignore"):
            written = scales.astype(np.float16 if self.half else np.float32).astype(np.float32)
        bad = written[~np.isfinite(written) | (written <= 0)]
        if bad.size:
            kind = "fp16" if self.half else "fp32"
            raise QuantizeError(
                f"a scale of {where!r} is {bad.flat[0]:g} in {kind}",
                where="quantize.elsewhere" if self.half else "quantize",
                do="Exclude the layer that reads it" + (", or leave the rest in fp32." if self.half else "."),
            )
        return written

    def block_of(self, shape: Sequence[int], axis: int) -> int:
        """How many inputs share a scale in a matrix whose outputs lie along `axis`; 0 where none of BLOCKS divides."""
        inputs = shape[1 - axis]
        return next((size for size in (self.block, min(BLOCKS)) if inputs % size == 0), 0)

    def scales(self, weight: np.ndarray, axis: int, where: str) -> np.ndarray:
        """The scales of a weight, float32: [outputs], or [K / block, N] (for `axis` 0 [N, K / block]) by block.

        Raises QuantizeError as `held` does.
        """
        if self.block:
            return self.held(self._least_error(weight, axis), where)
        others = tuple(at for at in range(weight.ndim) if at != axis)
        largest = np.abs(weight.astype(np.float64)).max(others)
        return self.held(np.where(largest > 0, largest / self.format.largest, 1.0), where)

    def numbers(self, weight: np.ndarray, axis: int, scales: np.ndarray) -> np.ndarray:
        """The weight in numbers of the format, float64 of its shape."""
        return self.format.rounded(weight / self._spread(scales, weight.shape, axis))

    def lost(self, weight: np.ndarray, axis: int, scales: np.ndarray) -> np.ndarray:
        """What the rounding takes from a weight, float64 of its shape."""
        made = self.numbers(weight, axis, scales) * self._spread(scales, weight.shape, axis)
        return np.asarray(weight.astype(np.float64) - made)

    def _spread(self, scales: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
        """The scales as they multiply the weight's elements, float64."""
        wide = scales.astype(np.float64)
        if self.block:
            return np.repeat(wide, shape[1 - axis] // scales.shape[1 - axis], 1 - axis)
        return wide.reshape([-1 if at == axis else 1 for at in range(len(shape))])

    def _least_error(self, weight: np.ndarray, axis: int) -> np.ndarray:
        """The scale of each block under which its squared error is least, of those that take in a part of its range."""
        size = self.block_of(weight.shape, axis)
        columns = (weight if axis == 1 else weight.T).astype(np.float32)
        blocks = columns.reshape(-1, size, columns.shape[1])  # [K / block, block, N]
        largest = np.abs(blocks).max(1)
        whole = np.where(largest > 0, largest / np.float32(self.format.largest), np.float32(1.0))
        best, least = whole, np.full(whole.shape, np.inf, dtype=np.float32)
        for part in SHRUNK[::-1]:
            tried = whole * np.float32(part)
            if self.half:
                with np.errstate(over="ignore", under="ignore"):
                    tried = np.maximum(tried.astype(np.float16).astype(np.float32), np.finfo(np.float32).tiny)
            numbers = blocks / tried[:, None]
            np.rint(numbers, out=numbers)
            np.clip(numbers, -self.format.largest - 1, self.format.largest, out=numbers)
            numbers *= tried[:, None]
            numbers -= blocks
            error = np.einsum("kbn,kbn->kn", numbers, numbers)
            better = error < least
            best, least = np.where(better, tried, best), np.where(better, error, least)
        return np.asarray(best if axis == 1 else best.T).astype(np.float64)


class Weights:
    """The weights of a graph, each scaled once."""

    def __init__(self, model: onnx.ModelProto, scaling: Scaling) -> None:
        self.scaling = scaling
        self._held = {tensor.name: tensor for tensor in model.graph.initializer}
        self._scales: dict[str, np.ndarray] = {}

    def array(self, one: Candidate) -> np.ndarray:
        """The weight of a node that has one."""
        return np.asarray(onnx.numpy_helper.to_array(self._held[one.weight or ""]))

    def scales(self, one: Candidate) -> np.ndarray:
        """Its scales, as `Scaling.scales`."""
        name = one.weight or ""
        if name not in self._scales:
            self._scales[name] = self.scaling.scales(self.array(one), one.axis or 0, name)
        return self._scales[name]

    def numbers(self, one: Candidate) -> np.ndarray:
        """As `Scaling.numbers`."""
        return self.scaling.numbers(self.array(one), one.axis or 0, self.scales(one))

    def lost(self, one: Candidate) -> np.ndarray:
        """As `Scaling.lost`."""
        return self.scaling.lost(self.array(one), one.axis or 0, self.scales(one))

    def block(self, one: Candidate) -> int:
        """How many inputs of it share a scale; 0: all of an output."""
        return self.scaling.block and self.scaling.block_of(self.array(one).shape, one.axis or 0)
