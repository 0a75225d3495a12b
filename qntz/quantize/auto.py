"""`method: auto`: every threshold method is tried, and the one that costs least on held-out samples is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qntz import ort
from qntz.errors import QuantizeError
from qntz.figures import Batch, Figures, measure
from qntz.packed import Packed
from qntz.records import Arrays, Metric

AUTO = "auto"


class Judge:
    """Measures graphs on held-out samples, beside the graph that they were made of.

    Attributes:
        metric: of the figures, None where there are no targets. unquantized: what it gives for the graph that was not
            quantized.
        compared: what was measured, in order: the names that the graph was given, `sqnr_db` (of its noisiest output)
            and the metric's figure under its name, if there is one; None for what is not finite.
    """

    def __init__(self, unquantized: Path, held_out: Sequence[Batch], metric: Metric | None) -> None:
        """held_out: inputs by name [n, ...] and targets [n, ...] or None. metric: None where there are no targets.

        Raises QuantizeError where there are no samples.
        """
        if not held_out:
            raise QuantizeError(
                "no held-out samples to choose a method on",
                where="quantize.method",
                do="Set calibrate.held_out, or name a method.",
            )
        self._inputs = [inputs for inputs, _ in held_out]
        self._reference = ort.run_all(unquantized, self._inputs)
        self._held_out = held_out
        self.metric = metric if all(target is not None for _, target in held_out) else None
        self.compared: list[dict[str, Any]] = []
        self.unquantized = self._measured([self._reference[0], *self._reference]).score_eager

    def figures(self, graph: Packed) -> dict[str, float]:
        """The graph's SQNR in dB and the metric's figure."""
        session = ort.session(graph)
        found = self._measured(ort.run(session, inputs) for inputs in [self._inputs[0], *self._inputs])
        told = {} if found.sqnr_db is None else {"sqnr_db": found.sqnr_db}
        if self.metric is not None and found.score is not None:
            told[self.metric.name] = found.score
        return told

    def _measured(self, outputs: Iterable[Arrays]) -> Figures:
        """outputs: on the first batch, and then on all."""
        given = iter(outputs)
        first = self._inputs[:1], self._reference[:1]
        return measure(lambda inputs: next(given), *first, self._held_out, self._reference, self.metric)

    def best(self, choices: Iterable[tuple[Mapping[str, Any], Callable[[], Packed]]]) -> Mapping[str, Any]:
        """The names of the best graph: by the metric, then by SQNR; the first of those that are alike."""
        best: Mapping[str, Any] = {}
        highest: tuple[float, float] | None = None
        for names, make in choices:
            told = self.figures(make())
            finite = {name: round(value, 6) if math.isfinite(value) else None for name, value in told.items()}
            self.compared.append({**names, **finite})
            score = told.get(self.metric.name, 0.0) if self.metric else 0.0
            reached = (-math.inf if math.isnan(score) else score, told.get("sqnr_db", 0.0))
            if highest is None or reached > highest:
                best, highest = names, reached
        return best
