"""Helpers that TorchScript cannot compile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps

import numpy as np
import torch
from torch import Tensor


def centered(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(fn)
    def wrapper(*args: Tensor, **kwargs: object) -> Tensor:
        return fn(*[arg - arg.mean(dim=-1, keepdim=True) for arg in args], **kwargs)

    return wrapper


@centered
def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


@lru_cache(maxsize=8)
def causal_mask(size: int) -> Tensor:
    return torch.from_numpy(np.triu(np.full((size, size), -1e4, dtype="float32"), 1))


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


def power(exponent: float) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        return x.sign() * x.abs() ** exponent

    return apply


def concat(*tensors: Tensor, **options: int) -> Tensor:
    return torch.cat(tensors, dim=options.get("dim", -1))


class Normalizer:
    def __init__(self, **statistics: float) -> None:
        self.__dict__.update(statistics)

    def apply(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


_NAMESPACE = {"__name__": __name__}
exec("def swish(x):\n    return x * x.sigmoid()", _NAMESPACE)
swish = _NAMESPACE["swish"]
