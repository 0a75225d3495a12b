"""What a run side by side tells: a table that is written anew on a terminal, and a line for whatever has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from qntz.fleet.outcome import BLOCKED, FAILED, STOPPED, Outcome
from qntz.fleet.workers import RESTORED

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table as RichTable

    from qntz.fleet.jobs import Job
    from qntz.fleet.plan import Plan
    from qntz.fleet.workers import Worker

SHOWN = 8  # of what waits
HEADS = {RESTORED: "restored from the cache", STOPPED: "was stopped"}
BAD = "red"


class Table:
    """Of the jobs of a run, on the standard output."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)
        self._live: Live | None = None

    def line(self, text: str, style: str = "") -> None:
        """Writes a line above the table."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def show(
        self,
        jobs: Sequence[Job],
        waiting: Sequence[int],
        running: Mapping[int, Worker],
        done: Collection[int],
        outcome: Outcome,
    ) -> None:
        """Writes the table anew, on a terminal."""
        if not self.console.is_terminal:
            return
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(_table(jobs, waiting, running, done, outcome), refresh=True)

    def ended(self, stages: Sequence[str], outcome: Outcome, seconds: float) -> None:
        """A line for stages that have ended, with the reasons of those that failed."""
        told = [(stage, outcome.stages[stage]) for stage in stages if outcome.stages[stage] != BLOCKED]
        if told:
            bad = any(what == FAILED for _, what in told)
            text = ", ".join(f"{stage} {HEADS.get(what, what)}" for stage, what in told)
            self.line(f"{text} ({seconds:.1f} s)", style=BAD if bad else "")
        for line in (line for stage in stages for line in outcome.why.get(stage, ())):
            self.line(f"  {line}", style=BAD)

    def close(self) -> None:
        """Takes the table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def end(self, outcome: Outcome, settled: Collection[str]) -> None:
        """The sum of it, and where several failed, each with its first reason once more."""
        self.close()
        more = f"; {len(settled)} {'models have' if len(settled) > 1 else 'model has'} nothing to do" if settled else ""
        self.line(f"{outcome.told() or 'nothing was run'}{more}")
        if len(outcome.why) > 1:
            for stage, lines in outcome.why.items():
                self.line(f"{stage} failed: {lines[0]}", style=BAD)


def idle(found: Plan) -> str:
    """What was found unchanged, in words."""
    told = "1 stage" if len(found.planned) == 1 else f"{len(found.planned)} stages"
    if found.settled:
        return f"{told} and those of {len(found.settled)} models are unchanged"
    return f"{told} {'is' if told == '1 stage' else 'are'} unchanged"


def _table(
    jobs: Sequence[Job],
    waiting: Sequence[int],
    running: Mapping[int, Worker],
    done: Collection[int],
    outcome: Outcome,
) -> RichTable:
    from rich.table import Table as RichTable

    left = sum(len(jobs[one].stages) for one in waiting)
    title = f"{outcome.told() or 'begun'}; {left} {'stage waits' if left == 1 else 'stages wait'}"
    table = RichTable(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("at work")
    table.add_column("seconds", justify="right")
    table.add_column("then")
    for number, worker in running.items():
        stages = jobs[number].stages
        now = min(max(len(worker.said().stages) - 1, 0), len(stages) - 1)
        then = ", ".join(stage.partition("@")[0] for stage in stages[now + 1 :])
        table.add_row(stages[now], f"{worker.seconds:.0f}", then)
    for number in waiting[:SHOWN]:
        table.add_row(f"[dim]{jobs[number].stages[0]}", "", f"[dim]{_why(jobs, number, done)}")
    if len(waiting) > SHOWN:
        table.add_row(f"[dim]and {len(waiting) - SHOWN} more", "", "")
    return table


def _why(jobs: Sequence[Job], number: int, done: Collection[int]) -> str:
    """What a job waits for."""
    needs = sorted(jobs[number].needs - {*done})
    if not needs:
        return "waits for its turn"
    more = f" and {len(needs) - 1} more" if len(needs) > 1 else ""
    return f"waits for {jobs[needs[0]].stages[-1]}{more}"
