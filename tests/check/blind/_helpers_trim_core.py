"""Sizes of padded batches."""

from torch import Tensor


def longest(lengths: Tensor) -> int:
    return int(lengths.max())  # hazard: captured-constant [PaddedTranscriber]
