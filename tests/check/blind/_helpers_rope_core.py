"""Context extension of rotary embeddings."""

from torch import Tensor


def stretch(angles: Tensor, length: int, trained: int) -> Tensor:
    if length > trained:  # hazard: shape-dependent-control-flow [LongContextAttention]
        angles = angles * trained / length
    return angles
