"""Log-mel features on top of the spectral primitives."""

import torch
from torch import Tensor

from tests.check.blind._helpers_spectral_core import power_to_db


def log_mel(power: Tensor, bank: Tensor) -> Tensor:
    mel = power @ bank
    return torch.from_numpy(power_to_db(mel))  # hazard: numpy-in-forward [AcousticFrontEnd]
