"""Gain laws of the dynamics processors."""

from torch import Tensor


def makeup_gain(wave: Tensor, ceiling: float) -> Tensor:
    peak = wave.abs().amax()
    return ceiling / peak if peak > ceiling else peak.new_ones(())  # hazard: data-dependent-control-flow [Vocoder]


def crossfade(left: Tensor, right: Tensor, amount: float = 0.5) -> Tensor:
    return left if amount == 0.0 else left.lerp(right, amount)
