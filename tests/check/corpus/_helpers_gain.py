"""Gains in decibels."""

import math

from torch import Tensor


def decibels(power: Tensor) -> float:
    return 10.0 * math.log10(power)  # hazard: non-torch-call [AutomaticGain]
