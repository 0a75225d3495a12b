"""Small transforms of a batch."""

from torch import Tensor


def as_frames(wave: Tensor, size: int) -> Tensor:
    return wave.view(wave.shape[0], -1, size)


def remove_offset(wave: Tensor, size: int) -> Tensor:
    frames = as_frames(wave, size)
    frames.sub_(frames.mean(dim=-1, keepdim=True))  # hazard: inplace-on-input [OffsetFreeEncoder]
    return frames
