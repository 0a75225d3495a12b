"""Feature maths shared by the speech models."""

import torch
from torch import Tensor, nn

from tests.check.blind._helpers_speech_consts import LOG_FLOOR


def compress(energy: Tensor) -> Tensor:
    floored = torch.clamp(energy, min=LOG_FLOOR)  # hazard: global-variable [LogMelSubsampler]
    return torch.log(floored)


def pcen(energy: Tensor, smooth: float = 0.9) -> Tensor:
    base = torch.cumsum(energy, dim=1) * (1.0 - smooth)
    return energy / (base + 1e-3)


class FrontEndBase(nn.Module):
    """What every front end inherits."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def features(self, wave: Tensor) -> Tensor:
        return compress(wave.abs() * self.gain)
