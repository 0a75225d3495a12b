"""What a leak does to a model: its outputs on other inputs when the leaked value is frozen, as a trace freezes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qntz.check.run import Runner, same
from qntz.check.subject import Effect, Leak, Trace
from qntz.check.traced import Tracer
from qntz.errors import ModelError

REPLAYS = 3  # other inputs that a frozen value is tried on, at most


class Effects:
    """The effects of the leaks that a model's runs showed, measured by further runs, each once.

    Args:
        probes: the number of probes that were given; the runs after them only stand in for some. repeats: whether
        the same input gave the same outputs a second time.
    """

    def __init__(self, runner: Runner, trace: Trace | None, probes: int, repeats: bool = True) -> None:
        self.runner, self.trace, self.probes, self.repeats = runner, trace, probes, repeats
        self._effects: dict[tuple[Any, ...], Effect] = {}
        self._repeated: dict[int, bool] = {}

    def of(self, leak: Leak) -> Effect:
        """Whether the outputs on other inputs change when this leak gives what it gave on the first."""
        if self.trace is not None and self.trace.wrong and not self._effects:
            self._measure_all()
        if leak.key not in self._effects:
            self._effects[leak.key] = self._measured([leak])
        return self._effects[leak.key]

    def seed_matters(self) -> bool:
        """Whether the outputs on the example differ under another seed of every global generator, or a second time."""
        return not self.repeats or (
            bool(self.runner.outputs) and not same(self.runner.outputs[0], self.runner.plain(0, seed=1))
        )

    def _measure_all(self) -> None:
        """The effects of the leaks that vary: each alone, and where none of them alone explains the wrong trace, those
        of one function together, and at last all."""
        leaks = [leak for leak in self.runner.log.leaks.values() if leak.varied]
        self._effects.update({leak.key: self._measured([leak]) for leak in leaks})
        groups: dict[Any, list[Leak]] = {}
        for leak in leaks:
            groups.setdefault(leak.key[1], []).append(leak)
        for together in ([*groups.values()], [leaks]):
            if "breaks" in self._effects.values():
                return
            for group in together:
                if len(group) > 1 and self._measured(group) == "breaks":
                    self._effects.update({leak.key: "breaks" for leak in group})

    def _measured(self, leaks: Sequence[Leak]) -> Effect:
        """What becomes of the outputs when these leaks are frozen together."""
        first, values = leaks[0].runs[0], {}
        for leak in leaks:
            given = self.runner.log.values.get(leak.key, {})
            if given:
                values[leak.key] = given[min(given)]
        if not values or self.trace is None:
            return "unknown"
        if self.trace.is_right:
            return "harmless"  # a trace froze it, with all others, and gave the model's outputs
        others = [run for run in self._alternatives(leaks[0]) if run != first][:REPLAYS]
        traced = any(leak.of == "shape" for leak in leaks)
        if not all(self._repeats(run) for run in others):
            return "unknown"  # a model with a state of its own: a difference would prove nothing
        for run in others:
            try:
                replay = self.runner.recorder(run, {}, values)
                call = Tracer(self.runner.invoke) if traced else self.runner.invoke
                frozen = self.runner.run(run, replay, seed=0, call=call)
            except ModelError:
                return "breaks"  # what the example gave does not even fit the other input
            if not same(self.runner.outputs[run], frozen):
                return "breaks"
        return "harmless" if others else "unknown"

    def _repeats(self, run: int) -> bool:
        """Whether the same inputs give the same outputs again."""
        if run not in self._repeated:
            self._repeated[run] = same(self.runner.outputs[run], self.runner.plain(run))
        return self._repeated[run]

    def _alternatives(self, leak: Leak) -> list[int]:
        """The runs on which a frozen value may show: those that leaked it too, and where sizes leak those of others."""
        if leak.by_values:
            return [*range(len(self.runner.outputs))]
        if leak.of == "data":
            return (
                [run for run in leak.runs if run < len(self.runner.outputs)]
                if self.probes
                else [*range(len(self.runner.outputs))]
            )
        return self.runner.other_sizes()
