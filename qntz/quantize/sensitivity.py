"""What each quantized layer costs by itself, and the fewest of them that have to stay in floating point."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from qntz.errors import QntzError, UsageError
from qntz.origins import Origin
from qntz.packed import packed
from qntz.quantize.auto import Judge
from qntz.quantize.prepared import Prepared
from qntz.records import Progress

PHASE, SEARCH = "layers", "search"


@dataclass(frozen=True)
class Cost:
    """One layer.

    Attributes:
        node: its name, as `quantize.exclude` takes it. operator: its type. origin: its module and statement.
        sqnr_db: of the noisiest output where this layer alone is quantized, in dB, infinite where nothing changes.
        score: the metric's figure then; None without a metric.
    """

    node: str
    operator: str
    origin: Origin
    sqnr_db: float
    score: float | None

    @property
    def noise(self) -> float:
        """Over the output's power."""
        return 10.0 ** (-max(self.sqnr_db, -100.0) / 10)  # of a broken output as much as counts


@dataclass(frozen=True)
class Budget:
    """What quantization may cost: the metric's largest drop (0.005: half a point), or the least SQNR in dB."""

    drop: float | None = None
    sqnr_db: float | None = None

    @classmethod
    def of(cls, text: str) -> Budget:
        """From "0.5%", "0.005" or "35dB"; raises UsageError for anything else."""
        plain = text.strip().lower()
        kind = "sqnr_db" if plain.endswith("db") else "drop"
        percent = plain.endswith("%")
        try:
            number = float(plain.removesuffix("db").removesuffix("%"))
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            do = "Give the metric's largest drop, 0.5%, or the least SQNR, 35dB."
            raise UsageError(f"{text!r} is no budget", where="--budget", do=do)
        return cls(**{kind: number / 100 if percent else number})

    def holds(self, figures: Mapping[str, float], judge: Judge) -> bool:
        if self.sqnr_db is not None:
            return figures.get("sqnr_db", math.inf) >= self.sqnr_db
        assert judge.metric is not None
        assert judge.unquantized is not None
        return judge.unquantized - figures[judge.metric.name] <= (self.drop or 0.0) + 1e-9


def costs(
    prepared: Prepared,
    judge: Judge,
    come_from: Mapping[str, Origin],
    *,
    known: Mapping[str, Mapping[str, float]] | None = None,
    save: Callable[[str, Mapping[str, float]], None] = lambda node, figures: None,
    progress: Progress | None = None,
) -> list[Cost]:
    """The layers, the costliest first: each is quantized alone, and the graph run on the judge's samples.

    Args:
        known: figures by node that need not be measured again. save: told of each measured node's.

    Raises:
        QntzError: `progress` asked to stop; what was measured has been saved.
    """
    found = []
    for done, layer in enumerate(prepared.chosen, start=1):
        figures = (known or {}).get(layer.node)
        if figures is None:
            figures = judge.figures(packed(prepared.graph({layer.node})[0], "layer.onnx"))
            save(layer.node, figures)
        score = figures.get(judge.metric.name) if judge.metric is not None else None
        origin = come_from.get(layer.node, Origin())
        found.append(Cost(layer.node, layer.operator, origin, figures.get("sqnr_db", math.inf), score))
        if progress is not None and not progress.step(PHASE, done, len(prepared.chosen)):
            raise QntzError("stopped on request", where="sensitivity")
    return sorted(found, key=lambda cost: (cost.sqnr_db, cost.node))


def fewest_excluded(
    prepared: Prepared, judge: Judge, ordered: Sequence[Cost], budget: Budget, progress: Progress | None = None
) -> tuple[list[str], dict[str, float]]:
    """The layers to leave out for what remains to be within the budget, and the figures then.

    The costliest are left out until it is, and each is taken back that need not be: none of those left out can be
    quantized without breaking the budget. (Whether another choice of fewer exists would take a run for each choice.)

    Args:
        ordered: the costliest first.

    Raises:
        UsageError: the budget asks for a metric, and the model has none.
    """
    if budget.drop is not None and judge.metric is None:
        do = "Give the least SQNR: --budget 35dB."
        raise UsageError("the model has no metric, or its samples no target", where="--budget", do=do)
    names = [cost.node for cost in ordered]
    steps = 0

    def figures(excluded: Collection[str]) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if progress is not None and not progress.step(SEARCH, steps, 0):
            raise QntzError("stopped on request", where="sensitivity")
        kept = {name for name in names if name not in excluded}
        return judge.figures(packed(prepared.graph(kept)[0], "rest.onnx"))

    low, high = 0, 0
    told = figures(())
    while not budget.holds(told, judge):  # by doubling, then by halves: noise falls with each layer left out
        low, high = high + 1, min(max(2 * high, 1), len(names))
        told = figures(names[:high])
        if high == len(names):
            break
    while low < high:
        middle = (low + high) // 2
        tried = figures(names[:middle])
        if budget.holds(tried, judge):
            high, told = middle, tried
        else:
            low = middle + 1
    excluded = names[:high]
    for name in reversed(names[:high]):
        fewer = [one for one in excluded if one != name]
        tried = figures(fewer)
        if budget.holds(tried, judge):
            excluded, told = fewer, tried
    return excluded, told
