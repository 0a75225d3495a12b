"""What a run goes through, as jobs that DVC is given one by one: stages that have to follow each other anyway."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qntz.config import ENGINE_STAGES, MODEL_STAGES

CPU, GPU, ALONE = "cpu", "gpu", "alone"
APART = ("report",)  # of an entry's stages, what waits for more than the one before


@dataclass
class Job:
    """Stages that one DVC goes through, in this order.

    Attributes:
        stages: their names ("quantize@digits-int8"). kind: what they take beside memory: "cpu", nothing that is
            counted; "gpu", one of these; "alone", the machine.
        memory: bytes, at most, as far as known. needs: the jobs, by number, that have to end well before.
    """

    stages: list[str]
    kind: str
    memory: int
    needs: set[int] = field(default_factory=set)


def jobs_of(
    order: Sequence[str],
    before: Mapping[str, Collection[str]],
    kinds: Mapping[str, str],
    memory: Mapping[str, int],
    together: Callable[[str], str] | None = None,
) -> list[Job]:
    """The jobs that go through the stages given, in an order in which each follows those that it needs.

    Stages that go together are in one job where nothing else has to run in between.

    Args:
        order: the stages, as DVC would go through them. before: of each stage those that it depends on, of any.
        kinds: of each that of its job. memory: of each the bytes that it takes. together: what a stage goes together
            with, "" for those that stand alone; by default the stages of one entry.
    """
    together = together or of_entry
    jobs: list[Job] = []
    of: dict[str, int] = {}
    reached: list[set[int]] = []  # of each job those that end before it begins, however long ago
    of_key: dict[str, list[int]] = {}
    for stage in order:
        needs = {of[one] for one in before.get(stage, ()) if one in of}
        key = together(stage)
        fit = (n for n in reversed(of_key.get(key, ())) if jobs[n].kind == kinds[stage] and needs <= {n, *reached[n]})
        number = next(fit, None) if key else None
        if number is not None:
            jobs[number].stages.append(stage)
            jobs[number].memory = max(jobs[number].memory, memory[stage])
        else:
            number = len(jobs)
            of_key.setdefault(key, []).append(number)
            jobs.append(Job([stage], kinds[stage], memory[stage], needs))
            reached.append(needs.union(*(reached[one] for one in needs)))
        of[stage] = number
    return jobs


def of_entry(stage: str) -> str:
    """What a stage goes together with: those of its model or of its engine; "" for a stage that stands alone."""
    kind, _, name = stage.partition("@")
    if kind in APART:
        return ""
    return f"engine {name}" if kind in ENGINE_STAGES else f"model {name}" if kind in MODEL_STAGES else ""


def give_up(
    number: int, stages: Collection[str], jobs: Sequence[Job], waiting: list[int], before: Mapping[str, Collection[str]]
) -> list[str]:
    """Takes out of the jobs that wait what cannot run once stages of another have failed; one with none left does not
    wait any more, and what is left of the others waits for it no longer.

    Args:
        number: of the job that has ended so, and of which `stages` were not made. before: as in `jobs_of`.

    Returns:
        The stages that cannot run, in their order.
    """
    lost, given_up = {*stages}, []
    instead: dict[int, set[int]] = {number: set()}  # what is waited for in place of a job
    for one in sorted(waiting):
        job = jobs[one]
        for gone in job.needs & {*instead}:
            job.needs = (job.needs - {gone}) | instead[gone]
        kept = []
        for stage in job.stages:
            if lost.isdisjoint(before.get(stage, ())):
                kept.append(stage)
            else:
                lost.add(stage)
                given_up.append(stage)
        job.stages[:] = kept
        if not kept:
            instead[one] = job.needs
            waiting.remove(one)
    return given_up


def ready(jobs: Sequence[Job], waiting: Iterable[int], done: Collection[int]) -> list[int]:
    """Those of the waiting jobs that may begin, as far as others are concerned."""
    return [number for number in waiting if jobs[number].needs <= {*done}]
