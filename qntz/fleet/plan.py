"""What a run side by side has to go through: as DVC has the stages, but for the models that are known to be settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qntz import pipelines
from qntz.artifacts import composed_path
from qntz.compose import Composition, composed_files
from qntz.config import ENGINE_STAGES, MODEL_STAGES
from qntz.errors import QntzError
from qntz.fleet.jobs import ALONE, CPU, GPU, Job, jobs_of
from qntz.fleet.limits import GPU_STAGES, Peaks
from qntz.provenance.forecast import COMPOSE, UNCHANGED, Forecast, Planned
from qntz.provenance.settled import Settled
from qntz.provenance.workspace import name_of, opened, steps
from qntz.repro.mend import state_folder
from qntz.targets import FULL, RTX

if TYPE_CHECKING:
    from dvc.stage import Stage

FLEET = "fleet"  # the stage at the root that looks at all models


@dataclass
class Plan:
    """What a run goes through.

    Attributes:
        planned: what becomes of each stage that was looked at, in DVC's order. settled: the models that were not looked
            at. before: of each stage, those that it depends on. targets: how DVC names each. compose: its stage, None
            where the targets do not need it.
    """

    planned: list[Planned]
    settled: list[str]
    before: dict[str, set[str]]
    targets: dict[str, str]
    compose: str | None = None

    @property
    def composed_from(self) -> set[str]:
        """The stages that compose comes from, however far."""
        return self.above([self.compose] if self.compose is not None else [])

    def above(self, stages: Iterable[str]) -> set[str]:
        """The stages that these come from, however far."""
        found: set[str] = set()
        pending = [*stages]
        while pending:
            new = self.before.get(pending.pop(), set()) - found
            found |= new
            pending += new
        return found

    def to_do(self, force: bool) -> list[str]:
        """The stages that DVC has to be asked about, in its order: what is not as it should be, and whatever depends on
        that, since DVC may have to do otherwise than was foreseen. All of them by `force`."""
        found: set[str] = set()
        for one in self.planned:
            if force or one.action != UNCHANGED or self.before[one.stage] & found:
                found.add(one.stage)
        return [one.stage for one in self.planned if one.stage in found]


def plan(root: Path, composition: Composition, params: pipelines.Params, targets: Sequence[str], every: bool) -> Plan:
    """Looks at the stages of `targets`, of all where there is none.

    Args:
        every: settled models too.

    Raises:
        ArtifactError: dvc.yaml cannot be read. DvcError, UsageError: as `opened` and `steps`.
    """
    files = composed_files(root, composition)
    whole = bool(targets) or not pipelines.is_split(root)
    if whole:
        return _plan(root, composition, files, targets)
    kept = Settled(state_folder(root), root)
    variables = [path.read_bytes() for path in pipelines.variable_files(root) if path.is_file()]
    of = {model: [*variables, *_files(root, model, composition, files)] for model in params["models"]}
    settled = [] if every else [model for model, some in of.items() if kept.is_settled(model, some)]
    found = _plan(root, composition, files, (), settled, kept, of)
    # a stage of the user's own at the root may write what a model's reads
    if settled and {one.stage for one in found.planned if one.action != UNCHANGED} & _others(found):
        return _plan(root, composition, files, (), [], kept, of)
    return found


def _others(found: Plan) -> set[str]:
    """The stages that are none of a model's pipeline, nor what looks at all of these."""
    return {stage for stage, target in found.targets.items() if target == stage} - {found.compose, FLEET}


def _plan(
    root: Path,
    composition: Composition,
    files: Mapping[Path, bytes],
    targets: Sequence[str],
    settled: Sequence[str] = (),
    kept: Settled | None = None,
    of: Mapping[str, list[bytes]] | None = None,
) -> Plan:
    """The plan of the stages, without those of the models `settled`; `kept` takes the models that are found unchanged,
    of which `of` has the files."""
    with opened(root, leave_out=[root / pipelines.FOLDER / model for model in settled]) as repo:
        stages = steps(repo, tuple(targets))
        its = _by_model(stages, root) if kept is not None else {}
        looks = {model: kept.look(some) for model, some in its.items()} if kept is not None else {}
        planned = Forecast(repo, root, files, composition.errors).plan(stages)
        graph = repo.index.graph
        names = {stage: name_of(stage) for stage in graph}
        before = {names[stage]: {names[one] for one in graph.successors(stage)} for stage in graph}
        compose = next((names[stage] for stage in stages if stage.cmd == COMPOSE), None)
        found = Plan(planned, list(settled), before, {names[s]: str(s.addressing) for s in stages}, compose)
        if kept is not None and of is not None:
            unchanged = {one.stage for one in planned if one.action == UNCHANGED}
            current = [model for model, some in its.items() if model in of and {*map(name_of, some)} <= unchanged]
            kept.keep({model: (of[model], looks[model]) for model in current}, {*kept.models} - {*of})
    return found


def _files(root: Path, model: str, composition: Composition, composed: Mapping[Path, bytes]) -> list[bytes]:
    """What a model's stages are made by: its dvc.yaml, its dvc.lock, and what compose writes for it and its engines."""
    folder = root / pipelines.FOLDER / model
    engines = sorted(name for name, one in composition.engines.items() if one["model_name"] == model)
    paths = [composed_path(root, "models", model), *(composed_path(root, "engines", name) for name in engines)]
    read = [folder / pipelines.DVC_YAML, folder / pipelines.DVC_LOCK]
    return [*(path.read_bytes() if path.is_file() else b"" for path in read), *(composed.get(p, b"") for p in paths)]


def _by_model(stages: Sequence[Stage], root: Path) -> dict[str, list[Stage]]:
    """The stages of the models' own pipelines."""
    found: dict[str, list[Stage]] = {}
    for stage in stages:
        folder = Path(stage.path).parent
        if folder.parent == root / pipelines.FOLDER:
            found.setdefault(folder.name, []).append(stage)
    return found


def jobs(found: Plan, to_do: Iterable[str], composition: Composition, root: Path, peaks: Peaks, gpu: bool) -> list[Job]:
    """The jobs of the stages that are to be gone through, in DVC's order.

    Args:
        gpu: whether there is a GPU here, which the stages that use one take turns at.
    """
    order = list(to_do)
    weights = {stage: _weights(stage, composition, root) for stage in order}
    kinds = {stage: _kind(stage, composition, gpu) for stage in order}
    return jobs_of(order, found.before, kinds, {stage: peaks.of(stage, weights[stage]) for stage in order})


def errors_of(composition: Composition) -> dict[str, QntzError]:
    """By stage, the error of its entry, where that cannot be composed."""
    stages = {"models": MODEL_STAGES, "engines": ENGINE_STAGES}
    return {f"{one}@{name}": error for (kind, name), error in composition.errors.items() for one in stages[kind]}


def _kind(stage: str, composition: Composition, gpu: bool) -> str:
    """What a stage takes: the machine, where it times engines that can run here."""
    kind, _, name = stage.partition("@")
    if kind == "report" and name in composition.models:
        report = composition.models[name]["report"]
        backends = {composition.engines[one]["engine"]["backend"] for one in report["engines"]}
        return ALONE if report["latency_seconds"] and (gpu or backends - {FULL, RTX}) else CPU
    return GPU if gpu and kind in GPU_STAGES else CPU


def _weights(stage: str, composition: Composition, root: Path) -> int:
    """The bytes of the weights of a stage's model; 0 where it has none, or they are not there."""
    kind, _, name = stage.partition("@")
    entry = (composition.engines if kind in ENGINE_STAGES else composition.models).get(name)
    told = entry["model"] if entry else {}
    files = [root / told[key] for key in ("weights", "torchscript", "program") if told.get(key)]
    return sum(path.stat().st_size for path in files if path.is_file())
