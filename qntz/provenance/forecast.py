"""What `dvc repro` would do, stage by stage, asked of DVC's own functions.

The stages are gone through in DVC's order. Where an earlier stage is restored from the cache, what it leaves behind is
known, so that later ones are judged by that; where it runs, it is not, and what follows may run or not: a stage whose
inputs come out the same is skipped. What compose would write is taken from memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.errors import QntzError
from qntz.fingerprint import MISSING
from qntz.provenance.changes import Change, input_changes, leaf_changes
from qntz.provenance.contents import Contents, Open
from qntz.provenance.lineage import FILES, WEIGHTS
from qntz.provenance.parameters import parsed, picked
from qntz.provenance.runs import Runs
from qntz.provenance.workspace import name_of

if TYPE_CHECKING:
    from dvc.dependency import Dependency, ParamsDependency
    from dvc.repo import Repo
    from dvc.stage import Stage

RUNS, MAY, RESTORED, COMMITS, UNCHANGED = "run", "may run", "restore", "commit", "unchanged"
FAILS, BLOCKED = "fail", "blocked"
COMPOSE = "python -m stages.compose"


@dataclass
class Planned:
    """What becomes of one stage.

    Attributes:
        stage: its name. action: "run"; "may run", depending on what the stages of `after` come to; "restore", from the
            cache; "fail", before or as it runs; "blocked" by those of `after`, which fail; "commit", of data that DVC
            is told of; "unchanged".
        changes: why, each of its inputs and outputs that is not as dvc.lock has it.
        after: the stages that come first, whose results decide.
        pull: whether dvc.lock knows its results for these inputs, and this cache does not have them: a remote may.
    """

    stage: str
    action: str
    changes: list[Change] = field(default_factory=list)
    after: tuple[str, ...] = ()
    pull: bool = False

    def as_dict(self) -> dict[str, Any]:
        told = {"stage": self.stage, "action": self.action, "changes": [one.as_dict() for one in self.changes]}
        return {**told, "after": list(self.after), "pull": self.pull}


class Forecast:
    """Plans the stages given, in their order.

    Args:
        repo: as `opened` gives it. root: the project's. files: what compose would write, by path. errors: of the
            entries that cannot be composed, by (kind, name). missing_is_fine: artifacts that are missing here count as
            being what dvc.lock says.
    """

    def __init__(
        self,
        repo: Repo,
        root: Path,
        files: Mapping[Path, bytes],
        errors: Mapping[tuple[str, str], QntzError],
        missing_is_fine: bool = False,
    ):
        self.root, self.missing_is_fine = root, missing_is_fine
        self._composed = {str(path): data for path, data in files.items()}
        self.errors = {str(path): error for path, error in _by_path(root, errors)}
        self._contents = Contents(repo)
        self._runs = Runs(repo, self._contents)
        self._uncomposed: frozenset[str] = frozenset()  # stages that decide what compose reads, or keep it from running
        self._read_by_compose: dict[str, Any] = {}  # by path of its dependencies the hash of dvc.lock
        self._failing: set[str] = set()
        self._parsed: dict[str, Any] = {}

    def plan(self, stages: Iterable[Stage]) -> list[Planned]:
        """Of each stage; of compose, which always runs, and has run already in memory, only where it will not."""
        planned = []
        for stage in stages:
            found = self._of_compose(stage) if stage.cmd == COMPOSE else self._planned(stage)
            planned += [found] if found is not None else []
        return planned

    def _of_compose(self, stage: Stage) -> Planned | None:
        after = frozenset().union(*(self._contents.waits(dep.fs_path) for dep in stage.deps))
        self._read_by_compose = {dep.fs_path: dep.hash_info for dep in stage.deps}
        missing = [dep for dep in stage.deps if not self._is_there(dep)]
        self._uncomposed = after
        if missing:
            changes = [Change("dep", f"{dep} is missing", dep.hash_info.value, None) for dep in missing]
            self._uncomposed = frozenset({name_of(stage)})
            return self._leaves(stage, Planned(name_of(stage), FAILS, changes))
        if failing := after & self._failing:
            return self._leaves(stage, Planned(name_of(stage), BLOCKED, [], tuple(sorted(failing))))
        return None

    def _is_there(self, dep: Dependency) -> bool:
        """Whether there is something at a path, or will be, or counts as being there."""
        if self._contents.changing(dep.fs_path) or dep.exists:
            return True
        return self.missing_is_fine and bool(self._contents.absent(dep.fs_path))

    def _planned(self, stage: Stage) -> Planned:
        if stage.is_data_source or stage.frozen:
            return self._of_data(stage)
        changes, after = [], set[str]()
        new = not any(one.hash_info for one in (*stage.deps, *stage.outs))  # dvc.lock has no entry
        if new:
            changes.append(Change("stage", "dvc.lock has no record of it"))
        if stage.always_changed or stage.is_callback:
            changes.append(Change("stage", "it always runs"))
        if stage.changed_stage():
            changes.append(Change("cmd", f"its command is another now: {stage.cmd}", None, stage.cmd))
        params_changed = False
        for dep in stage.deps:
            if _is_params(dep):
                found, unknown = self._params(stage, dep, new)
                params_changed |= bool(found)
            else:
                found, unknown = self._dep(dep, new)
            changes += found
            after |= unknown
        as_locked = not changes
        missing = self._outs(stage, new)
        changes += missing
        failing = after & self._failing
        if self._uncomposed and any(dep.fs_path in self._composed for dep in stage.params):
            action = BLOCKED if failing else MAY
            return self._leaves(stage, Planned(name_of(stage), action, changes, tuple(sorted(failing or after))))
        missing_dep = next((one for one in changes if one.key == "dep" and one.new is None), None)
        if missing_dep is not None:
            return self._leaves(stage, Planned(name_of(stage), FAILS, changes))
        error = next((self.errors[d.fs_path] for d in stage.deps if d.fs_path in self.errors), None)
        if error is not None:
            told = Change("error", f"its entry cannot be composed: {error}")
            return self._leaves(stage, Planned(name_of(stage), FAILS, [told]))
        if not changes and not after:
            if self.missing_is_fine:
                self._contents.assume(stage.outs)
            return Planned(name_of(stage), UNCHANGED)
        from dvc.stage.cache import _can_hash

        keepable = _can_hash(stage)
        again = keepable and not stage.cmd_changed and not params_changed and all(out.hash_info for out in stage.outs)
        if failing:
            return self._leaves(stage, Planned(name_of(stage), BLOCKED, changes, tuple(sorted(failing))))
        pull = as_locked and all(out.hash_info for out in stage.outs)
        if after:
            kept = (again and self._contents.may_be_cached(stage.outs)) or (keepable and self._runs.alike(stage))
            sure = bool(changes) and not kept
            action = RUNS if sure else MAY
            return self._leaves(stage, Planned(name_of(stage), action, changes, tuple(sorted(after)), sure and pull))
        kept = None
        if again and as_locked:
            kept = list(stage.outs) if stage.outs_cached() else None
        elif keepable:
            kept = self._runs.same(stage)
        if kept is None:
            return self._leaves(stage, Planned(name_of(stage), RUNS, changes, pull=pull))
        self._contents.restore(kept)
        return Planned(name_of(stage), RESTORED, changes)

    def _leaves(self, stage: Stage, planned: Planned) -> Planned:
        """With what the stage leaves behind, which is not known before."""
        causes = frozenset(planned.after if planned.action in (MAY, BLOCKED) else (planned.stage,))
        if planned.action == FAILS:
            self._failing.add(planned.stage)
        self._contents.leave_open(stage.outs, causes)
        return planned

    def _of_data(self, stage: Stage) -> Planned:
        """Data that DVC was told of by `dvc add` or `dvc import`, and frozen stages: a run takes what is there as it
        is, and fails where nothing is."""
        if stage.is_partial_import or (stage.is_import and not stage.frozen and not all(o.exists for o in stage.outs)):
            return self._leaves(stage, Planned(name_of(stage), RUNS, [Change("stage", "it is not fetched yet")]))
        outs = list(stage.outs)
        if self.missing_is_fine:
            self._contents.assume(outs)
            outs = [out for out in outs if out.exists or not out.hash_info]
        fetched = "`dvc pull` fetches it" if stage.is_data_source else "the stage is frozen"
        changes = [
            Change("out", f"{out} changed" if out.exists else f"{out} is missing: {fetched}", out.hash_info.value, None)
            for out in outs
            if out.workspace_status()
        ]
        if stage.cmd and stage.changed_stage():
            changes.append(Change("cmd", f"its command is another now: {stage.cmd}", None, stage.cmd))
        if not all(out.exists for out in outs):
            return self._leaves(stage, Planned(name_of(stage), FAILS, changes))
        return Planned(name_of(stage), COMMITS if changes else UNCHANGED, changes)

    # inputs

    def _params(self, stage: Stage, dep: ParamsDependency, new: bool) -> tuple[list[Change], set[str]]:
        """The changes of a file of parameters, and the stages that may still change it. The dependency is given the
        values of now, as DVC does before it looks into its cache of runs."""
        from dvc_data.hashfile.hash_info import HashInfo

        composed = dep.fs_path in self._composed
        if not composed and (waits := self._contents.waits(dep.fs_path)):
            return [], set(waits)
        old = dict(dep.hash_info.value or {}) if dep.hash_info else {}
        actual = self._values(dep, composed)
        if composed and self.missing_is_fine:
            actual = {key: self._without_absent(old.get(key), value, actual) for key, value in actual.items()}
        dep.hash_info = HashInfo(dep.PARAM_PARAMS, actual)
        dep.get_hash = lambda: dep.hash_info  # what _can_hash asks
        after = set(self._uncomposed) if composed else set()
        if new:
            return [], after
        changes: list[Change] = []
        for key in dep.params or dict.fromkeys([*actual, *old]):
            if key not in actual:
                changes.append(Change(key, f"{key} is not in {dep}", old.get(key), None))
            elif key in old and old[key] == actual[key]:
                continue
            elif key.startswith("inputs.") and isinstance(old.get(key), dict) and isinstance(actual.get(key), dict):
                changes += input_changes(self.root, key, old[key], actual[key], _weights(actual))
            else:
                changes += leaf_changes(key, old, actual)
        return changes, after

    def _values(self, dep: ParamsDependency, composed: bool) -> dict[str, Any]:
        """The parameters as DVC reads them, of what compose would write where it writes that file."""
        if not composed:
            return dict(dep.read_params())
        if dep.fs_path not in self._parsed:
            self._parsed[dep.fs_path] = parsed(self._composed[dep.fs_path], dep.fs_path)
        return picked(self._parsed[dep.fs_path], dep.params)

    def _without_absent(self, old: Any, new: Any, values: Mapping[str, Any]) -> Any:
        """A section `inputs.<stage>` in which the digests of files that DVC has, and that are missing here, are those
        of dvc.lock."""
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            return new
        found = dict(new)
        if new.get("weights") == MISSING and old.get("weights") and self._is_as_recorded(_weights(values)):
            found["weights"] = old["weights"]
        for kind in FILES:
            before, now = old.get(kind), new.get(kind)
            if isinstance(before, Mapping) and isinstance(now, Mapping):
                kept = {p: d for p, d in before.items() if d != now.get(p) and self._is_as_recorded(p)}
                found[kind] = {**now, **kept}
        return found

    def _is_as_recorded(self, path: str) -> bool:
        """Whether something there is missing which DVC has, and which is not known to be another than compose read."""
        place = str(self.root / path)
        absent = self._contents.absent(place) if path else []
        read = [(self._read_by_compose.get(out.fs_path), out.hash_info) for out in absent]
        return bool(absent) and not any(before and before != now for before, now in read)

    def _dep(self, dep: Dependency, new: bool) -> tuple[list[Change], set[str]]:
        """The change of a file or folder, and the stages that decide it. The dependency is given what it will hold."""
        from dvc_data.hashfile.hash_info import HashInfo

        content = self._contents.of(dep)
        if isinstance(content, Open):
            dep.get_hash = lambda: HashInfo("md5", "not known yet")  # but there will be one, for _can_hash
            return [], set(content.after)
        old = dep.hash_info.value if dep.hash_info else None
        changes = []
        if content.value is None:
            if not (self.missing_is_fine and self._contents.absent(dep.fs_path)):
                changes.append(Change("dep", f"{dep} is missing", old, None))
        elif content.value != old and not new:
            ahead = " will be another" if self._contents.changing(dep.fs_path) else " is another than it ran on"
            changes.append(Change("dep", f"{dep}{ahead}", old, content.value))
        dep.hash_name = "md5"
        dep.hash_info, dep.meta = HashInfo("md5", content.value), content.meta
        dep.get_hash = lambda: dep.hash_info
        return changes, set()

    # outputs

    def _outs(self, stage: Stage, new: bool) -> list[Change]:
        if new:
            return []
        changes, missing, lost = [], [], []
        for out in stage.outs:
            status = out.status().get(str(out))
            here = out.exists
            if status is None or (self.missing_is_fine and not here and out.hash_info):
                continue
            old = out.hash_info.value if out.hash_info else None
            if not here:
                (lost if status == "not in cache" else missing).append(Change("out", f"{out} is missing", old, None))
            elif status == "not in cache":
                if not self.missing_is_fine:
                    changes.append(Change("out", f"{out} is not in the cache", old, old))
            elif not out.hash_info:
                changes.append(Change("out", f"{out} is not in dvc.lock yet"))
            else:
                changes.append(Change("out", f"{out} was changed by hand", old, self._contents.on_disk(out).value))
        if len(lost) == len(stage.outs):
            return [Change("out", "its results are neither here nor in the cache")]
        if len(missing) == len(stage.outs) > 1:
            return [Change("out", "its results are missing")]
        return [*changes, *missing, *(Change("out", f"{one.text}, and not in the cache", one.old) for one in lost)]


def _weights(params: Mapping[str, Any]) -> str:
    """The model's file of weights, by the parameters of a stage that reads them."""
    return next((str(params[key]) for key in WEIGHTS if params.get(key)), "")


def _is_params(dep: Dependency) -> bool:
    from dvc.dependency import ParamsDependency

    return isinstance(dep, ParamsDependency)


def _by_path(root: Path, errors: Mapping[tuple[str, str], QntzError]) -> Iterable[tuple[Path, QntzError]]:
    from qntz.artifacts import composed_path

    for (kind, name), error in errors.items():
        yield composed_path(root, kind, name), error
