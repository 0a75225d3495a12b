"""The number formats of quantized values: a value is a scale times a number of its format, symmetric about zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

FP8_MANTISSA, FP8_LEAST_EXPONENT = 3, -6  # of E4M3: below 2 ** -6 its steps are all 2 ** -9


@dataclass(frozen=True)
class Format:
    """A number format.

    Attributes:
        name: as `quantize.precision` names it. kind: ONNX's element type. largest: the magnitude that the largest value
            becomes. opset: ONNX's first with Q/DQ of it. activations: whether they are quantized, or weights alone.
        floating: whether its steps grow with the magnitude, as those of E4M3, or are all alike.
    """

    name: str
    kind: int
    largest: float
    opset: int
    activations: bool = True
    floating: bool = False

    def rounded(self, numbers: np.ndarray) -> np.ndarray:
        """The nearest numbers of the format, ties to even, those beyond its ends to these; float64."""
        if self.floating:
            steps = np.exp2(_exponents(numbers) - FP8_MANTISSA)
            return np.clip(np.rint(numbers / steps) * steps, -self.largest, self.largest)
        return np.clip(np.rint(numbers), -self.largest - 1, self.largest)

    def noise(self, magnitudes: np.ndarray, amax: float) -> np.ndarray:
        """The squared error expected of values of these magnitudes, `amax` becoming `largest`; float64: what rounds to
        0 is lost, of what is clipped the rest, and of all else a twelfth of the squared step."""
        scale = amax / self.largest
        steps: np.ndarray | float = scale
        if self.floating:
            steps = scale * np.exp2(_exponents(np.minimum(magnitudes, amax) / scale) - FP8_MANTISSA)
        error = np.where(magnitudes < np.asarray(steps) / 2, magnitudes**2, np.square(steps) / 12)
        return error + np.maximum(magnitudes - amax, 0.0) ** 2


def _exponents(numbers: np.ndarray) -> np.ndarray:
    """Of each number in E4M3, float64."""
    _, exponents = np.frexp(numbers)
    return np.maximum(exponents - 1.0, FP8_LEAST_EXPONENT)


INT8 = Format("int8", onnx.TensorProto.INT8, 127.0, 13)
FP8 = Format("fp8", onnx.TensorProto.FLOAT8E4M3FN, 448.0, 19, floating=True)
INT4 = Format("int4", onnx.TensorProto.INT4, 7.0, 21, activations=False)
FORMATS = {one.name: one for one in (INT8, FP8, INT4)}
HALF_OPSET = 19  # the first with scales of half precision
