"""Levels of signals."""

from torch import Tensor

from tests.check.corpus import _helpers_gain


def distance_to(target: float, wave: Tensor) -> float:
    """How far, in decibels, a signal lies below the target level."""
    return target - _helpers_gain.decibels(wave.square().mean() + 1e-8)
