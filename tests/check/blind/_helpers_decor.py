"""Wrappers that research code puts around its functions."""

from collections.abc import Callable

from torch import Tensor


def in_unit_range(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Clamps what the function gives."""

    def wrapper(*args: Tensor, **kwargs: Tensor) -> Tensor:
        return function(*args, **kwargs).clamp(0.0, 1.0)

    return wrapper


@in_unit_range
def soft_iou(left: Tensor, right: Tensor) -> Tensor:
    overlap = (left * right).sum(-1)
    return overlap / (left.square().sum(-1) + right.square().sum(-1) - overlap + 1e-3)


class PositionCode:
    """What every position code offers."""

    def half_of(self, x: Tensor) -> int:
        return x.shape[-1] // 2


class Rotary(PositionCode):
    """A callable that is no module."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        half = self.half_of(x)
        left, right = x[..., :half], x[..., half:]
        return x + self.weight * (left * right).sum(-1, keepdim=True)
