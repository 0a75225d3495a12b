"""The figures that an artifact is judged by, and the gate that judges it: what quantize and verify share.

An artifact that the gate lets through has, on the probes, the eager model's shapes and no NaN or infinity of its own;
beyond that fp32 is held to a relative error, and every other precision to the metric's drop on the test data, or where
a model has no metric to a least SQNR and a least agreement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qntz.compare import Difference, require_parity, sqnr_db, stacked, worst_difference
from qntz.config import ToleranceConfig
from qntz.errors import DataError, ParityError
from qntz.records import Arrays, Metric

Batch = tuple[Arrays, "np.ndarray | None"]
CAP_DB = 200.0  # stands for an infinite SQNR in JSON, which has no infinity; float32 itself ends near 150 dB


@dataclass(frozen=True)
class Figures:
    """What was measured of one artifact.

    Attributes:
        score_eager, score: the metric of the eager model and of the artifact on the test data; None without a metric.
        agreement: fraction, 0..1, of decisions that are the eager model's, on the test data (without any: on the
            probes); None where an output holds no decision, as `agreement` says.
        worst: the worst relative error on the probes.
        sqnr_db: the lowest SQNR of any floating output, at `sqnr_output`, over all test data (without any: all probes)
            together, in dB; infinite where nothing differs, None where no output is floating.
        outputs, golden: the artifact's and the eager model's outputs on the probes.
    """

    score_eager: float | None
    score: float | None
    agreement: float | None
    worst: Difference
    sqnr_db: float | None
    sqnr_output: str
    outputs: list[Arrays] = field(repr=False)
    golden: list[Arrays] = field(repr=False)


def measure(
    run: Callable[[Arrays], Arrays],
    probes: Sequence[Arrays],
    golden: Sequence[Arrays],
    batches: Iterable[Batch],
    reference: Sequence[Arrays],
    metric: Metric | None,
) -> Figures:
    """The figures of the artifact that `run` runs.

    Args:
        run: arrays by input name in, arrays by output name out. probes, golden: inputs, and the eager model's outputs
        on them. batches: the test data, (inputs [n, ...], targets [n, ...] or None). reference: the eager model's
        outputs on the same batches; empty where there are no test data, and then `batches` is not read. metric: of the
        model, or None.

    Raises:
        DataError: the test data are not those that `reference` was made of, or lack what the metric needs.
    """
    outputs = [run(probe) for probe in probes]
    got: list[Arrays] = []
    targets: list[np.ndarray | None] = []
    if reference:
        for inputs, target in batches:
            got.append(run(inputs))
            targets.append(target)
        if len(got) != len(reference):
            raise DataError(
                "other test data than the eager model ran on",
                where="model.data.test",
                why=f"{len(got)} batches now, {len(reference)} then",
                do="Run `dvc repro`, which runs the eager model again.",
            )
    actual, expected = (got, list(reference)) if reference else (outputs, list(golden))
    score_eager = score = None
    if metric is not None:
        wanted = _targets(targets, metric)
        score_eager = float(metric.score(_joined(expected, metric), wanted))
        score = float(metric.score(_joined(actual, metric), wanted))
    noisiest, decibels = _lowest_sqnr(actual, expected)
    return Figures(
        score_eager=score_eager,
        score=score,
        agreement=agreement(actual, expected, metric),
        worst=worst_difference(outputs, golden),
        sqnr_db=decibels,
        sqnr_output=noisiest,
        outputs=outputs,
        golden=list(golden),
    )


def agreement(actual: Sequence[Arrays], expected: Sequence[Arrays], metric: Metric | None) -> float | None:
    """The fraction of decisions, 0..1, on which two sets of runs agree.

    With a metric a decision is a sample's, as the metric says. Without one it is of the first output: the argmax over
    its last axis where it is floating, the element itself where it is not. None where a floating output has no last
    axis of two or more classes beside the batch.
    """
    alike = total = 0.0
    for got, wanted in zip(actual, expected, strict=True):
        name, e = next(iter(wanted.items()))
        if metric is not None:
            alike += len(e) * metric.agree(got, wanted)
            total += len(e)
            continue
        a = got[name]
        if e.dtype.kind == "f":
            if e.ndim < 2 or e.shape[-1] < 2:
                return None
            a, e = (a.argmax(-1) if a.ndim else a), e.argmax(-1)
        total += e.size
        alike += int((a == e).sum()) if a.shape == e.shape else 0
    return alike / total if total else None


def gate(
    figures: Figures, precision: str, tolerance: ToleranceConfig, metric: Metric | None, where: str, do: str = ""
) -> None:
    """Lets an artifact pass whose figures are within the tolerance.

    Args:
        precision: "fp32", or another. where: the artifact's path. do: a better advice than the general one.

    Raises:
        ParityError: names the output, the probe or the figure, and what was wanted.
    """
    if precision == "fp32":
        require_parity(figures.outputs, figures.golden, tolerance.relative, where, do)
        return
    do = do or "Leave nodes in floating point (quantize.exclude), or choose another quantize.method or precision."
    _require_sound(figures, where, do)

    def refuse(why: str) -> None:
        raise ParityError("is too far from the eager model", where=where, why=why, do=do)

    if metric is not None and figures.score is not None and figures.score_eager is not None:
        drop = figures.score_eager - figures.score
        # A drop of exactly the tolerance passes, although 0.97 - 0.96 is a little more than 0.01 in binary.
        if not drop <= tolerance.metric_drop + 1e-9:
            refuse(
                f"{metric.name} falls from {figures.score_eager:.6g} to {figures.score:.6g}, by {drop:.4g}"
                f" (at most {tolerance.metric_drop:g} wanted)"
            )
        return
    if figures.sqnr_db is not None and figures.sqnr_db < tolerance.sqnr_db:
        refuse(
            f"SQNR of output {figures.sqnr_output!r} is {figures.sqnr_db:.2f} dB"
            f" (at least {tolerance.sqnr_db:g} wanted)"
        )
    if figures.agreement is not None and figures.agreement < tolerance.agreement:
        refuse(f"agreement is {figures.agreement:.4f} (at least {tolerance.agreement:g} wanted)")


def metrics_of(
    figures: Figures, metric: Metric | None, sizes: Mapping[str, int], engine_run: str = ""
) -> dict[str, Any]:
    """What metrics.json holds: one level, few keys, since `dvc metrics show` prints a column for each.

    `<metric>_eager` and `<metric>` (absent without a metric, null for NaN), `agreement` (absent where no output holds a
    decision), `worst_rel_error` (null where the eager output is all zeros and the artifact's is not), `sqnr_db` (at
    most 200, which stands for no difference at all; absent without a floating output), `<artifact>_kb` in units of 1024
    bytes, and where it is given `engine_run`: "yes", or "no: " and why, and then every figure is the quantized graph's
    under ONNX Runtime.
    """
    worst = figures.worst.error
    told: dict[str, Any] = {"worst_rel_error": float(f"{worst:.4g}") if math.isfinite(worst) else None}
    if metric is not None and figures.score is not None and figures.score_eager is not None:
        for name, score in ((f"{metric.name}_eager", figures.score_eager), (metric.name, figures.score)):
            told[name] = round(score, 6) if math.isfinite(score) else None
    if figures.agreement is not None:
        told["agreement"] = round(figures.agreement, 6)
    if figures.sqnr_db is not None:
        told["sqnr_db"] = round(min(max(figures.sqnr_db, -CAP_DB), CAP_DB), 3)
    for name, size in sizes.items():
        told[f"{name}_kb"] = round(size / 1024, 1)
    if engine_run:
        told["engine_run"] = engine_run
    return told


def _require_sound(figures: Figures, where: str, do: str) -> None:
    """Raises ParityError for another shape than the eager model's, or NaN or infinity where that has none."""
    for probe, (got, wanted) in enumerate(zip(figures.outputs, figures.golden, strict=True)):
        for name, reference in wanted.items():
            place = f"output {name!r} on probe {probe}"
            if name not in got:
                raise ParityError("lacks an output", where=where, why=f"no {place}", do=do)
            if got[name].shape != reference.shape:
                why = f"{place} has shape {list(got[name].shape)} instead of {list(reference.shape)}"
                raise ParityError("has another shape than the eager model", where=where, why=why, do=do)
            if reference.dtype.kind == "f":
                broken = ~np.isfinite(got[name]) & np.isfinite(reference)
                if broken.any():
                    kind = "NaN" if np.isnan(got[name][broken]).any() else "infinity"
                    why = f"{place} holds {kind} in {int(broken.sum())} of {broken.size} elements"
                    raise ParityError(f"yields {kind} where the eager model does not", where=where, why=why, do=do)


def _lowest_sqnr(actual: Sequence[Arrays], expected: Sequence[Arrays]) -> tuple[str, float | None]:
    lowest: tuple[str, float | None] = ("", None)
    for name, first in expected[0].items() if expected else ():
        if first.dtype.kind != "f":
            continue
        decibels = pooled_sqnr_db([run.get(name) for run in actual], [run[name] for run in expected])
        if lowest[1] is None or decibels < lowest[1]:
            lowest = (name, decibels)
    return lowest


def pooled_sqnr_db(actual: Sequence[np.ndarray | None], expected: Sequence[np.ndarray]) -> float:
    """`qntz.compare.sqnr_db` over several arrays together, in dB; NaN and infinity that both sides have at the same
    places count as equal. Minus infinity where one is missing or has another shape."""
    if any(a is None or a.shape != e.shape for a, e in zip(actual, expected, strict=True)):
        return -math.inf
    a = np.concatenate([array.ravel().astype(np.float64) for array in actual if array is not None])
    e = np.concatenate([array.ravel().astype(np.float64) for array in expected])
    differing = np.isfinite(e) | ~((a == e) | (np.isnan(a) & np.isnan(e)))
    with np.errstate(invalid="ignore"):
        return sqnr_db(a[differing], e[differing])


def _targets(targets: Sequence[np.ndarray | None], metric: Metric) -> np.ndarray:
    if not targets or any(target is None for target in targets):
        what = "no test data" if not targets else "test data without a target"
        raise DataError(what, where="model.data.test", why=f"the metric {metric.name!r} needs labelled samples")
    return np.concatenate([target for target in targets if target is not None])


def _joined(runs: Sequence[Arrays], metric: Metric) -> Arrays:
    """The outputs of all samples along the first axis; raises DataError where their shapes do not allow it."""
    for name in runs[0]:
        shapes = {run[name].shape[1:] for run in runs}
        if len(shapes) > 1:
            raise DataError(
                f"output {name!r} has a shape that differs between samples",
                where="model.data.test",
                why=f"the metric {metric.name!r} takes one array of all samples, these are {sorted(map(list, shapes))}",
                do="Give test data of one shape, or measure without a metric.",
            )
    return stacked(runs)
