"""Moves results to where they are collected."""

from torch import Tensor


def collect(outputs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Brings the maps of all levels to the host."""
    collected = {}
    for name, levels in outputs.items():
        collected[name] = [level.to("cpu") for level in levels]  # hazard: captured-device [PyramidHead]
    return collected
