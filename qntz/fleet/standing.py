"""How each engine stands: whether it is built, whether it is out of date, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qntz.compose import Composition
from qntz.config import ENGINE_STAGES, MODEL_STAGES
from qntz.fleet.plan import Plan
from qntz.pipelines import Params
from qntz.provenance.forecast import BLOCKED, COMMITS, FAILS, MAY, RESTORED, RUNS, UNCHANGED, Planned
from qntz.provenance.wording import told_changes

GRAVEST = (FAILS, BLOCKED, RUNS, MAY, RESTORED, COMMITS, UNCHANGED)
BROKEN, STALE, GONE, CURRENT = "broken", "out of date", "not here", "up to date"
WORDS = {FAILS: BROKEN, BLOCKED: BROKEN, RUNS: STALE, MAY: STALE, COMMITS: STALE, RESTORED: GONE, UNCHANGED: CURRENT}


@dataclass(frozen=True)
class Standing:
    """Of an engine. `state`: "broken", its entry or a stage of it; "out of date"; "not here", but in the cache; "up to
    date". `why`: each stage that is not up to date, with the reasons."""

    engine: str
    model: str
    state: str
    why: tuple[str, ...] = ()


def standings(found: Plan, composition: Composition, params: Params) -> Iterator[Standing]:
    """Of each engine of params.yaml, in its order.

    Args:
        found: the plan of all stages.
    """
    planned = {one.stage: one for one in found.planned}
    for engine, entry in params["engines"].items():
        model = str(entry.get("model", "")) if isinstance(entry, Mapping) else ""
        error = composition.errors.get(("engines", engine))
        if error is not None:
            yield Standing(engine, model, BROKEN, (str(error),))
        elif model in found.settled:
            yield Standing(engine, model, CURRENT)
        elif f"{ENGINE_STAGES[0]}@{engine}" not in planned:
            yield Standing(engine, model, STALE, ("it is in no pipeline yet: `qntz repro` writes that",))
        else:
            yield _standing(engine, model, planned)


def _standing(engine: str, model: str, planned: Mapping[str, Planned]) -> Standing:
    stages = [f"{kind}@{model}" for kind in MODEL_STAGES if kind != "report"]
    stages += [f"{kind}@{engine}" for kind in ENGINE_STAGES]
    its = [planned[stage] for stage in stages if stage in planned]
    worst = min((one.action for one in its), key=GRAVEST.index, default=UNCHANGED)
    return Standing(engine, model, WORDS[worst], tuple(_why(its)))


def _why(planned: Sequence[Planned]) -> Iterator[str]:
    for one in planned:
        reasons = [text.rstrip(".") for text in told_changes(one)]
        if one.action in (MAY, BLOCKED) and not reasons:
            continue  # it follows from those before
        if one.action != UNCHANGED:
            yield f"{one.stage.partition('@')[0]}: {'; '.join(reasons)}"
