from torch import Tensor

from .smooth import smooth


def prepare(x: Tensor) -> Tensor:
    return smooth(x * 2)
