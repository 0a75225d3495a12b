"""Helpers that work with the length of a sequence."""

from torch import Tensor

from tests.check.corpus import _helpers_padding


def reduce_tokens(x: Tensor) -> Tensor:
    return _helpers_padding.pairwise_sum(x.contiguous())


def temperature(length: int) -> float:
    if length > 6:  # hazard: shape-dependent-control-flow [LengthTemperature]
        return 2.0
    return 1.0
