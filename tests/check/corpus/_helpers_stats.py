"""Statistics of a batch as plain numbers."""

from torch import Tensor


def spread(x: Tensor) -> float:
    """The distance between the smallest and the largest value."""
    return float(x.max() - x.min())  # hazard: captured-constant [SpreadNorm]
