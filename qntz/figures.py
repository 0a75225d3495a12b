"""The figures that an artifact is judged by, and the gate that judges it: what quantize and verify share.

An artifact that the gate lets through has, on the probes and the test data, the eager model's shapes and no NaN or
infinity of its own. Beyond that fp32 is held to a relative error, every precision to the metric's drop on the test
data, and each output that no metric judges to a least SQNR, or where it is not floating to a least fraction of equal
elements.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qntz.compare import Difference, require_parity, sqnr_db, worst_difference
from qntz.config import CAP_DB, ToleranceConfig
from qntz.errors import DEBUG, ConfigError, DataError, ParityError, PluginError, QntzError, did_you_mean, one_line
from qntz.records import Arrays, Metric

Batch = tuple[Arrays, "np.ndarray | None"]


@dataclass(frozen=True)
class Figures:
    """What was measured of one artifact.

    Attributes:
        score_eager, score: the metric of the eager model and of the artifact on the test data; None without a metric.
        scored: the outputs that the metric read.
        agreement: fraction, 0..1, of decisions that are the eager model's, on the test data (without any: on the
            probes); None where an output holds no decision, as `agreement` says.
        worst: the worst relative error on the probes.
        sqnr_db: the lowest SQNR of any floating output, at `sqnr_output`, over all test data (without any: all probes)
            together, in dB; infinite where nothing differs, None where no output is floating.
        sqnr_by_output: the same for each floating output. alike_by_output: of each other the fraction of equal
            elements.
        outputs, golden: the artifact's and the eager model's outputs on the probes; test_outputs, reference: on the
            test data.
    """

    score_eager: float | None
    score: float | None
    scored: frozenset[str]
    agreement: float | None
    worst: Difference
    sqnr_db: float | None
    sqnr_output: str
    sqnr_by_output: dict[str, float]
    alike_by_output: dict[str, float]
    outputs: list[Arrays] = field(repr=False)
    golden: list[Arrays] = field(repr=False)
    test_outputs: list[Arrays] = field(repr=False)
    reference: list[Arrays] = field(repr=False)


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
        PluginError: the metric fails, or gives no number.
    """
    outputs = [_in_order(run(probe), wanted) for probe, wanted in zip(probes, golden, strict=True)]
    got: list[Arrays] = []
    targets: list[np.ndarray | None] = []
    if reference:
        for inputs, target in batches:
            got.append(_in_order(run(inputs), golden[0]))
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
    scored: frozenset[str] = frozenset()
    sound = True
    if metric is not None:
        wanted, joined = _targets(targets, metric), _Joined(expected, metric)
        score_eager = _number(metric, "score", joined, wanted)
        if not math.isfinite(score_eager):
            raise PluginError(
                f"metric {metric.name!r} gives {score_eager} for the eager model",
                where="model.metric",
                do="Repair it, give test data that it is defined on, or measure without a metric.",
            )
        scored = frozenset(joined.read)
        sound = _is_sound(actual, expected, scored)  # of a broken artifact the gate speaks, not the metric
        score = _number(metric, "score", _Joined(actual, metric), wanted) if sound else math.nan
    counts = [len(target) for target in targets if target is not None]
    by_output = _sqnr_by_output(actual, expected)
    noisiest = min(by_output, key=by_output.__getitem__, default="")
    return Figures(
        score_eager=score_eager,
        score=score,
        scored=scored,
        agreement=agreement(actual, expected, metric, counts) if sound else None,
        worst=worst_difference(outputs, golden),
        sqnr_db=by_output.get(noisiest),
        sqnr_output=noisiest,
        sqnr_by_output=by_output,
        alike_by_output=_alike_by_output(actual, expected),
        outputs=outputs,
        golden=list(golden),
        test_outputs=got,
        reference=list(reference),
    )


def named_metric(name: str | None, metrics: Mapping[str, Metric]) -> Metric | None:
    """The metric that a model names, if it names one; raises ConfigError where no plugin provides it."""
    if name is not None and name not in metrics:
        raise ConfigError(f"no metric {name!r}", where="model.metric", do=did_you_mean(name, metrics))
    return None if name is None else metrics[name]


def _is_sound(actual: Sequence[Arrays], expected: Sequence[Arrays], names: Collection[str]) -> bool:
    """Whether the outputs of these names have the eager model's shapes, and no NaN or infinity of their own."""
    try:
        _require_sound(actual, [{name: run[name] for name in names} for run in expected], "", "", "")
    except ParityError:
        return False
    return True


def _number(metric: Metric, function: Literal["score", "agree"], *arguments: Any) -> float:
    """What one of the metric's functions gives; raises PluginError where that is no number."""
    what = f"{function} of metric {metric.name!r}"
    try:
        given = getattr(metric, function)(*arguments)
    except DataError as error:
        own = error.where.startswith("model.")
        raise DataError(
            error.what, where=error.where if own else f"model.data.test: {error.where}", why=error.why, do=error.do
        ) from error
    except QntzError:
        raise
    except Exception as error:
        raise PluginError(f"{what} fails", where="model.metric", why=one_line(error, place=True), do=DEBUG) from error
    if isinstance(given, (int, float, np.number, np.bool_)) or (isinstance(given, np.ndarray) and given.ndim == 0):
        with contextlib.suppress(OverflowError, TypeError):
            return float(given)
    told = f"an array of shape {list(given.shape)}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
    raise PluginError(f"{what} gives {told}, no number", where="model.metric")


def _in_order(outputs: Arrays, wanted: Arrays) -> Arrays:
    """The outputs in the eager model's order; raises ParityError where one is missing."""
    for name in wanted:
        if name not in outputs:
            known = ", ".join(map(repr, outputs)) or "none"
            do = "Run `dvc repro`, so that both are of one model."
            raise ParityError(f"no output {name!r}", where="the artifact's outputs", why=f"it has {known}", do=do)
    return {name: outputs[name] for name in wanted}


def agreement(
    actual: Sequence[Arrays], expected: Sequence[Arrays], metric: Metric | None, samples: Sequence[int] = ()
) -> float | None:
    """The fraction of decisions, 0..1, on which two sets of runs agree.

    With a metric a decision is a sample's, as the metric says; `samples` is their number in each run. Without one it is
    of the first output: the argmax over its last axis where it is floating, the element itself where it is not. None
    where a floating output has no last axis of two or more classes beside the batch.
    """
    alike = total = 0.0
    if metric is not None:
        for got, wanted, count in zip(actual, expected, samples, strict=True):
            fraction = _number(metric, "agree", got, wanted)
            if not 0 <= fraction <= 1:
                raise PluginError(
                    f"agree of metric {metric.name!r} gives {fraction:g}",
                    where="model.metric",
                    do="Return the fraction, 0..1, of samples on which both decide alike.",
                )
            alike += count * fraction
            total += count
        return alike / total if total else None
    for got, wanted in zip(actual, expected, strict=True):
        name, e = next(iter(wanted.items()))
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
        require_parity(
            figures.test_outputs, figures.reference, tolerance.relative, where, do, inputs="batch of test data"
        )
    do = do or "Leave nodes in floating point (quantize.exclude), or choose another quantize.method or precision."
    _require_sound(figures.outputs, figures.golden, "probe", where, do)
    _require_sound(figures.test_outputs, figures.reference, "batch of test data", where, do)

    def refuse(why: str) -> None:
        raise ParityError("is too far from the eager model", where=where, why=why, do=do)

    if metric is not None and figures.score is not None and figures.score_eager is not None:
        drop = figures.score_eager - figures.score
        # A drop of exactly the tolerance passes, although 0.97 - 0.96 is a little more than 0.01 in binary.
        if not (math.isfinite(figures.score) and drop <= tolerance.metric_drop + 1e-9):
            refuse(
                f"{metric.name} falls from {figures.score_eager:.6g} to {figures.score:.6g}, by {drop:.4g}"
                f" (at most {tolerance.metric_drop:g} wanted)"
            )
    for name, decibels in figures.sqnr_by_output.items():
        if name not in figures.scored and not decibels >= tolerance.sqnr_db:
            refuse(f"SQNR of output {name!r} is {decibels:.2f} dB (at least {tolerance.sqnr_db:g} wanted)")
    wanted = f"(at least {tolerance.agreement:g} wanted)"
    for name, alike in figures.alike_by_output.items():
        if name not in figures.scored and not alike >= tolerance.agreement:
            refuse(f"{_rounded_down(alike, 4):.4f} of output {name!r} is equal {wanted}")
    if metric is None and figures.agreement is not None and not figures.agreement >= tolerance.agreement:
        refuse(f"agreement is {_rounded_down(figures.agreement, 4):.4f} {wanted}")


def metrics_of(
    figures: Figures, metric: Metric | None, sizes: Mapping[str, int], engine_run: str = ""
) -> dict[str, Any]:
    """What metrics.json holds: one level, few keys, since `dvc metrics show` prints a column for each.

    `<metric>_eager` and `<metric>` (absent without a metric, null for NaN), `agreement` (rounded down, since gates ask
    for the least; absent where no output holds a decision), `worst_rel_error` (null where the eager output is all zeros
    and the artifact's is not), `sqnr_db` (at most 200, which stands for no difference at all; absent without a floating
    output), `<artifact>_kb` in units of 1024 bytes, and where it is given `engine_run`: "yes", or "no: " and why, and
    then every figure is the quantized graph's under ONNX Runtime.
    """
    worst = figures.worst.error
    told: dict[str, Any] = {"worst_rel_error": float(f"{worst:.4g}") if math.isfinite(worst) else None}
    if metric is not None and figures.score is not None and figures.score_eager is not None:
        for name, score in ((f"{metric.name}_eager", figures.score_eager), (metric.name, figures.score)):
            told[name] = _rounded(score) if math.isfinite(score) else None
    if figures.agreement is not None:
        told["agreement"] = _rounded_down(figures.agreement, 6)
    if figures.sqnr_db is not None:
        told["sqnr_db"] = round(min(max(figures.sqnr_db, -CAP_DB), CAP_DB), 3)
    for name, size in sizes.items():
        told[f"{name}_kb"] = round(size / 1024, 1)
    if engine_run:
        told["engine_run"] = engine_run
    return told


def _rounded(score: float) -> float:
    """To six decimals, but what is less than 1 never up to it."""
    rounded = round(score, 6)
    return _rounded_down(score, 6) if score < 1 <= rounded else rounded


def _rounded_down(fraction: float, digits: int) -> float:
    """To so many decimals, never up; what is off by a float's own rounding counts as the number that it stands for."""
    return math.floor(round(fraction * 10**digits, 12 - digits)) / 10**digits


def _require_sound(actual: Sequence[Arrays], expected: Sequence[Arrays], inputs: str, where: str, do: str) -> None:
    """Raises ParityError for another shape than the eager model's, or NaN or infinity where that has none."""
    for index, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
        for name, reference in wanted.items():
            place = f"output {name!r} on {inputs} {index}"
            if got[name].shape != reference.shape:
                why = f"{place} has shape {list(got[name].shape)} instead of {list(reference.shape)}"
                raise ParityError("has another shape than the eager model", where=where, why=why, do=do)
            if reference.dtype.kind == "f":
                broken = ~np.isfinite(got[name]) & np.isfinite(reference)
                if broken.any():
                    kind = "NaN" if np.isnan(got[name][broken]).any() else "infinity"
                    why = f"{place} holds {kind} in {int(broken.sum())} of {broken.size} elements"
                    raise ParityError(f"yields {kind} where the eager model does not", where=where, why=why, do=do)


def _sqnr_by_output(actual: Sequence[Arrays], expected: Sequence[Arrays]) -> dict[str, float]:
    """The SQNR of each floating output over all runs together, in dB."""
    return {
        name: pooled_sqnr_db([run[name] for run in actual], [run[name] for run in expected])
        for name, first in (expected[0].items() if expected else ())
        if first.dtype.kind == "f"
    }


def _alike_by_output(actual: Sequence[Arrays], expected: Sequence[Arrays]) -> dict[str, float]:
    """The fraction of equal elements of each output that is not floating, over all runs together."""
    alike = {}
    for name, first in expected[0].items() if expected else ():
        if first.dtype.kind != "f":
            pairs = [(a[name], e[name]) for a, e in zip(actual, expected, strict=True)]
            total = sum(e.size for _, e in pairs)
            equal = sum(int((a == e).sum()) if a.shape == e.shape else 0 for a, e in pairs)
            alike[name] = equal / total if total else 1.0
    return alike


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


class _Joined(Mapping[str, np.ndarray]):
    """The outputs of all samples along the first axis, each joined when the metric reads it, and kept in `read`: one
    that it does not read may have any shape. Reading one whose shapes do not allow it raises DataError."""

    def __init__(self, runs: Sequence[Arrays], metric: Metric) -> None:
        self._runs, self._metric = runs, metric
        self.read: dict[str, np.ndarray] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs[0])

    def __len__(self) -> int:
        return len(self._runs[0])

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.read:
            self.read[name] = self._join(name)
        return self.read[name]

    def _join(self, name: str) -> np.ndarray:
        arrays = [run[name] for run in self._runs]
        if any(array.ndim == 0 for array in arrays):
            raise DataError(
                f"output {name!r} has no axis of samples",
                where="model.metric",
                why=f"the metric {self._metric.name!r} takes outputs by sample",
                do="Measure without a metric.",
            )
        shapes = sorted({array.shape[1:] for array in arrays})
        if len(shapes) > 1:
            raise DataError(
                f"output {name!r} has a shape that differs between samples",
                where="model.data.test",
                why=f"the metric {self._metric.name!r} takes one array of all samples, these are"
                f" {[list(shape) for shape in shapes]}",
                do="Give test data of one shape, or measure without a metric.",
            )
        return np.concatenate(arrays)
