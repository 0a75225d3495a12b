"""The shipped metrics for classifiers: accuracy and top5, of the first output over its last axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qntz.errors import DataError
from qntz.hookspecs import hookimpl
from qntz.records import Metric

Outputs = Mapping[str, np.ndarray]


@hookimpl
def qntz_metrics() -> Iterator[Metric]:
    yield Metric("accuracy", accuracy, same_class)
    yield Metric("top5", top5, same_class)


def accuracy(outputs: Outputs, targets: np.ndarray) -> float:
    """The fraction of targets that are the class with the highest score.

    Args:
        outputs: the first is scores [samples, ..., classes]. targets: class indices, integers [samples, ...].

    Raises:
        DataError: the targets are no integers, or of another shape than the scores without their last axis.
    """
    scores = _scores(outputs, targets)
    return float(np.mean(scores.argmax(-1) == targets))


def top5(outputs: Outputs, targets: np.ndarray) -> float:
    """The fraction of targets that are among the five classes with the highest scores; see `accuracy`.

    Ties count against the target, so that scores that are all equal score nothing.
    """
    scores = _scores(outputs, targets)
    own = np.take_along_axis(scores, targets[..., None], axis=-1)
    better = ~(scores < own)  # so that NaN counts as better, and a target whose own score is NaN as lost
    return float(np.mean((better.sum(-1) <= 5) & np.isfinite(own[..., 0])))


def same_class(outputs: Outputs, others: Outputs) -> float:
    """The fraction, 0..1, on which the highest score of both first outputs belongs to one class."""
    return float(np.mean(_first(outputs).argmax(-1) == _first(others).argmax(-1)))


def _first(outputs: Outputs) -> np.ndarray:
    return next(iter(outputs.values()))


def _scores(outputs: Outputs, targets: np.ndarray) -> np.ndarray:
    name, scores = next(iter(outputs.items()))
    if targets.dtype.kind not in "iu":
        raise DataError(f"targets are {targets.dtype}, not class indices", where="target", do="Give integers.")
    if scores.ndim == 0 or targets.shape != scores.shape[:-1] or targets.size == 0:
        raise DataError(
            f"targets have shape {list(targets.shape)}",
            where="target",
            why=f"output {name!r} has {list(scores.shape)}",
        )
    classes = scores.shape[-1]
    if targets.min() < 0 or targets.max() >= classes:
        raise DataError(
            f"targets range from {targets.min()} to {targets.max()}",
            where="target",
            why=f"output {name!r} has {classes} classes",
        )
    return scores
