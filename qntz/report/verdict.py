"""What became of each stage, and of the whole, in plain words. A stage that did not run is never called passed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from qntz.report.run import EngineRun, Record, Run
from qntz.report.wording import NOT_MEASURED, decibel, error, many, size

State = Literal["passed", "done", "warned", "failed", "skipped"]
SIGNS: dict[State, str] = {"passed": "✓", "done": "•", "warned": "!", "failed": "✕", "skipped": "○"}
"""A sign for each state: passed (compared and within its tolerance), done (it ran; nothing was to be compared), warned,
failed, skipped (not run, or not measured)."""


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline and what became of it: a word or two, and the figures behind them."""

    stage: str
    state: State
    word: str
    note: str = ""

    @property
    def sign(self) -> str:
        return SIGNS[self.state]


@dataclass(frozen=True)
class Verdict:
    state: State
    headline: str
    sentences: tuple[str, ...]

    @property
    def sign(self) -> str:
        return SIGNS[self.state]


def model_steps(run: Run) -> list[Step]:
    """The stages that run once a model."""
    before, after = run.simplify.get("nodes_before"), run.simplify.get("nodes_after")
    nodes = "" if before is None or after is None else f"{before} to {many(after, 'node')}"
    return [
        _check(run.check),
        _parity("torchscript", run.torchscript, str(run.torchscript.get("method", ""))),
        _parity("export", run.export, f"opset {run.export['opset']}" if "opset" in run.export else ""),
        _parity("simplify", run.simplify, nodes),
        _calibrate(run),
    ]


def engine_steps(engine: EngineRun) -> list[Step]:
    """The stages that run once an engine."""
    method = engine.quantize.get("method")
    precision = engine.precision or "precision unknown"
    made = f"{precision}, {method}" if method else precision
    built = " ".join(str(engine.engine.get(key, "")) for key in ("backend", "version")).strip()
    return [
        Step("quantize", "done", made, size(engine.onnx_bytes)),
        Step("engine", "done", "built", f"{built}, {size(engine.plan_bytes)}".lstrip(", ")),
        _verify(engine),
    ]


def report_step(held: Sequence[bool]) -> Step:
    """What the engines come together in. held: of each gate, whether it holds."""
    if not held:
        return Step("report", "done", "this page", "no gates")
    if missed := held.count(False):
        return Step("report", "failed", f"{missed} of {many(len(held), 'gate')} failed")
    return Step("report", "passed", "the gate holds" if len(held) == 1 else f"all {len(held)} gates hold")


def verdict(run: Run, held: Sequence[bool] = ()) -> Verdict:
    """One headline and what a reader should know next. held: of each gate, whether it holds."""
    failed = [step.stage for step in model_steps(run) if step.state == "failed"]
    if missed := held.count(False):
        failed.append(f"{missed} of {many(len(held), 'gate')}")
    idle = [engine for engine in run.engines if not engine.was_run]
    ran = len(run.engines) - len(idle)
    caution = "An engine that was not run is not verified: its figures are those of its quantized ONNX graph."
    if failed:
        told = (*([caution] if idle else []), *_comparisons(run))
        return Verdict("failed", f"Not fit to ship: {' and '.join(failed)} failed.", told)
    if not run.engines:
        return Verdict("skipped", "Captured and exported; no engine is configured.", ())
    if idle:
        number = "None" if ran == 0 else f"{ran}"
        verb = "was" if ran <= 1 else "were"
        headline = f"{_built(run)} {number} of them {verb} run on this machine."
        if len(run.engines) == 1:
            headline = "The engine was built, but not run on this machine."
        return Verdict("skipped" if ran == 0 else "warned", headline, (caution, *_comparisons(run)))
    if len(run.engines) == 1:
        headline = "The engine was built, run and compared with the eager model."
    else:
        headline = f"All {len(run.engines)} engines were built, run and compared with the eager model."
    return Verdict("passed", headline, tuple(_comparisons(run)))


def _built(run: Run) -> str:
    return "The engine was built." if len(run.engines) == 1 else f"All {len(run.engines)} engines were built."


def _comparisons(run: Run) -> Iterator[str]:
    if len(run.engines) < 2:
        return
    figures = [(engine.figure("sqnr_db"), engine.name) for engine in run.engines]
    heard = [(value, name) for value, name in figures if value is not None and not math.isnan(value)]
    if heard:
        best, name = max(heard, key=lambda item: item[0])
        yield f"Closest to the eager model: {name}, {decibel(best)}."
    weighed = [(engine.plan_bytes, engine.name) for engine in run.engines if engine.plan_bytes is not None]
    if weighed:
        least, name = min(weighed, key=lambda item: item[0])
        yield f"Smallest: {name}, {size(least)}."


def _check(record: Record) -> Step:
    if "findings" not in record:
        return Step("check", "skipped", NOT_MEASURED)
    by = Counter(str(finding.get("severity", "note")) for finding in record["findings"])
    note = ", ".join(many(by[severity], severity) for severity in ("error", "warning", "note") if by[severity])
    if by["error"]:
        return Step("check", "failed", "errors found", note)
    if by["warning"]:
        return Step("check", "warned", "warnings", note)
    return Step("check", "passed", "nothing found" if not note else "notes only", note)


def _parity(stage: str, record: Record, note: str) -> Step:
    parity, tolerance = record.get("parity"), record.get("tolerance")
    if not parity or "error" not in parity:
        return Step(stage, "skipped", NOT_MEASURED, note)
    if parity["error"] is None:
        return Step(stage, "failed", "differs in shape, NaN or infinity", note)
    if tolerance is None:
        return Step(stage, "done", f"off by {error(parity['error'])}", note)
    within = parity["error"] <= tolerance
    limit = f"limit {error(tolerance)}"
    note = f"{limit}, {note}" if note else limit
    word = f"off by {error(parity['error'])}" if parity["error"] else "equal"
    return Step(stage, "passed" if within else "failed", word, note)


def _calibrate(run: Run) -> Step:
    kept = [material for material in run.materials if material.path == "histograms.npz"]
    if not any(engine.quantize.get("calibrated") for engine in run.engines):
        return Step("calibrate", "skipped", "not needed", "no engine asks for histograms")
    return Step("calibrate", "done", "histograms kept", size(kept[0].size) if kept else "")


def _verify(engine: EngineRun) -> Step:
    sqnr = engine.figure("sqnr_db")
    note = f"SQNR {decibel(sqnr)}"
    if engine.was_run:
        return Step("verify", "passed" if sqnr is not None else "done", "run", note)
    return Step("verify", "skipped", "not run", f"graph only: {note}")
