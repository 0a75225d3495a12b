"""Heads of few-shot classifiers."""

from torch import Tensor

from tests.check.blind._helpers_linear_solvers import ridge


def fit_and_score(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    return query @ ridge(support, labels, strength=0.5)
