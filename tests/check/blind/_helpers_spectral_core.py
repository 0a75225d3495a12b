"""Spectral primitives shared by the acoustic front ends."""

import numpy as np
from torch import Tensor


def power_to_db(power: Tensor, floor: float = 1e-10) -> np.ndarray:
    clipped = np.maximum(power.detach().numpy(), np.float32(floor))  # hazard: numpy-in-forward [AcousticFrontEnd]
    decibel = np.float32(10.0) * np.log10(clipped)  # hazard: numpy-in-forward [AcousticFrontEnd]
    return decibel
