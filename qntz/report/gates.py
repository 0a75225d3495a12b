"""Gates: what engines must reach (`report.gates`), beside what was measured."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qntz.config import GateConfig, require_engines
from qntz.errors import ConfigError, ParityError
from qntz.report.run import EngineRun, Run
from qntz.report.tables import Cell
from qntz.report.tables import Table as PageTable
from qntz.report.verdict import SIGNS

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Gate:
    """One condition on one engine.

    Attributes:
        engine: its name. asked: of what. wanted: the bound, in words. measured: the figure, None where there is none.
        holds: whether it is within the bound; never without a figure.
    """

    engine: str
    asked: str
    wanted: str
    measured: float | None
    holds: bool


def gates(run: Run, config: Mapping[str, GateConfig]) -> list[Gate]:
    """Each condition of the configuration, engine by engine; of a run that is built in part, those that its engines
    can be asked.

    Raises:
        ConfigError: a pattern matches no engine of the model, or the baseline of its ratios alone; a baseline is none.
    """
    require_engines(config, [*(engine.name for engine in run.engines), *filter(None, run.missing)])
    found: list[Gate] = []
    for pattern, gate in config.items():
        matched = [engine for engine in run.engines if fnmatch.fnmatchcase(engine.name, pattern)]
        asked = [one for engine in matched for one in _of(engine, gate, run)]
        if not asked and not run.missing:  # the baseline beside itself
            do = "Name other engines, or another bound than a ratio."
            raise ConfigError("asks nothing of the engines that it matches", where=f"report.gates.{pattern}", do=do)
        found += asked
    return found


def require(found: list[Gate]) -> None:
    """Raises ParityError where a gate does not hold."""
    failed = [one for one in found if not one.holds]
    if failed:
        told = "; ".join(f"{one.engine}: {one.asked} {_said(one.measured)}, wanted {one.wanted}" for one in failed)
        what = f"{len(failed)} of {len(found)} gates do not hold"
        raise ParityError(what, where="report.gates", why=told, do="Change the engine, or what is asked of it.")


def table(found: list[Gate]) -> Table:
    """What was wanted and what was measured, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title="gates", box=None, pad_edge=False, title_justify="left")
    for head in ("engine", "of", "wanted", "measured", ""):
        made.add_column(head, justify="right" if head in ("wanted", "measured") else "left")
    for one in found:
        cells = (one.engine, one.asked, one.wanted, _said(one.measured), "holds" if one.holds else "FAILED")
        made.add_row(*map(Text, cells))
    return made


def page_table(found: Sequence[Gate]) -> PageTable:
    """The same for the page."""
    rows = tuple(
        (
            Cell(one.engine),
            Cell(one.asked),
            Cell(one.wanted, "number"),
            Cell(_said(one.measured), "absent" if one.measured is None else "number"),
            Cell(f"{SIGNS['passed']} holds", "passed") if one.holds else Cell(f"{SIGNS['failed']} FAILED", "failed"),
        )
        for one in found
    )
    return PageTable("Gates", ("Engine", "Of", "Wanted", "Measured", "Holds"), rows)


def _of(engine: EngineRun, gate: GateConfig, run: Run) -> Iterator[Gate]:
    def most(asked: str, bound: float | None, measured: float | None) -> Iterator[Gate]:
        if bound is not None:
            holds = measured is not None and measured <= bound + 1e-9
            yield Gate(engine.name, asked, f"at most {_number(bound)}", measured, holds)

    def least(asked: str, bound: float | None, measured: float | None) -> Iterator[Gate]:
        if bound is not None:
            holds = measured is not None and measured >= bound
            yield Gate(engine.name, asked, f"at least {_number(bound)}", measured, holds)

    if gate.run:
        yield Gate(engine.name, "run", "yes", 1.0 if engine.was_run else 0.0, bool(engine.was_run))
    score, eager = engine.figure(run.metric), engine.figure(f"{run.metric}_eager")
    drop = None if score is None or eager is None else eager - score
    of = "" if engine.was_run else " of its graph"  # which stands for an engine that did not run here
    yield from most(f"drop of {run.metric or 'the metric'}{of}", gate.metric_drop, drop)
    yield from least(f"SQNR{of}, dB", gate.sqnr_db, engine.figure("sqnr_db"))
    yield from least(f"agreement{of}", gate.agreement, engine.figure("agreement"))
    yield from most("bytes", gate.bytes, engine.plan_bytes)
    if engine.name == gate.baseline or gate.baseline in run.missing:
        return
    baseline = next((one.plan_bytes for one in run.engines if one.name == gate.baseline), None)
    ratio = engine.plan_bytes / baseline if engine.plan_bytes is not None and baseline else None
    yield from most(f"bytes over {gate.baseline}", gate.bytes_ratio, ratio)
    mine, its = run.timings.get(engine.name), run.timings.get(gate.baseline or "")
    latency = None if mine is None or its is None else mine.over(its)[0]
    yield from most(f"latency over {gate.baseline}", gate.latency_ratio, latency)


def _said(value: float | None) -> str:
    return "not measured" if value is None else "NaN" if math.isnan(value) else _number(value)


def _number(value: float) -> str:
    """Bytes to the last one, what was measured to six digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"
