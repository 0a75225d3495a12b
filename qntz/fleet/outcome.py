"""What became of the stages of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from qntz.fleet.workers import RAN, RESTORED, UNCHANGED

FAILED, STOPPED, BLOCKED = "failed", "stopped", "blocked"
ORDER = (RAN, RESTORED, UNCHANGED, FAILED, STOPPED, BLOCKED)


@dataclass
class Outcome:
    """By stage "ran", "restored", "unchanged", "failed", "stopped" by a signal, "blocked" by one that failed or was
    stopped; and why, in lines, of those that failed."""

    stages: dict[str, str] = field(default_factory=dict)
    why: dict[str, list[str]] = field(default_factory=dict)

    def take(self, stages: Iterable[str], what: str) -> None:
        self.stages.update(dict.fromkeys(stages, what))

    def told(self) -> str:
        """How many of each, in words; "" where there is none."""
        counts = Counter(self.stages.values())
        return ", ".join(f"{counts[one]} {one}" for one in ORDER if counts[one])
