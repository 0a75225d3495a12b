"""Dynamics processors of the vocoder."""

from torch import Tensor

from tests.check.blind._helpers_limiter_core import crossfade, makeup_gain


def limit(wave: Tensor, ceiling: float = 0.9) -> Tensor:
    limited = wave * makeup_gain(wave, ceiling)
    return crossfade(limited, limited.tanh())
