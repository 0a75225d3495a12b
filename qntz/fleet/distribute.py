"""`qntz repro --on CLUSTER`: tasks for what is out of date, whose results workers push, and `dvc repro --pull`."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qntz import pipelines
from qntz.compose import KINDS, PARAMS, Composition, composed_entries, composed_files, read_params
from qntz.config import ENGINE_STAGES, MODEL_STAGES
from qntz.errors import ArtifactError, ConfigError, QntzError
from qntz.fleet.cluster import Cluster, ClusterError, Running, opened
from qntz.fleet.handed import locks, shared
from qntz.fleet.head import Head, remove_left
from qntz.fleet.jobs import Job, give_up, jobs_of, ready
from qntz.fleet.node import DONE, FAILED, LOST, UNREACHED, Answer, Task
from qntz.fleet.outcome import BLOCKED, STOPPED, Outcome
from qntz.fleet.outcome import FAILED as STAGE_FAILED
from qntz.fleet.plan import Plan, errors_of, plan
from qntz.fleet.requests import FleetConfig, read_fleet, requests_of
from qntz.fleet.table import Table, idle
from qntz.fleet.workers import Said
from qntz.provenance.forecast import RESTORED
from qntz.remotes import require_sound
from qntz.repro.mend import mend, state_folder
from qntz.repro.run import ended_by, heard, wait_for_dvc
from qntz.repro.turns import Patience, turn

STEP = 0.5  # seconds between two looks
LOGS = "qntz-fleet"  # in DVC's folder of temporary files
AGAIN, PATIENCE = 15.0, 600.0  # seconds before a cluster that takes no task is asked again, and for which it need not


@dataclass(frozen=True)
class Asked:
    """What a run is asked for. on: the kind of cluster. targets: stages, none for all. jobs: tasks at the same time,
    None for as many as there are. address: of the cluster. seconds: to wait for other runs here."""

    on: str
    targets: Sequence[str] = ()
    jobs: int | None = None
    address: str = ""
    seconds: float = 3600.0


def distribute(root: Path, asked: Asked, say: Callable[[str], None]) -> int:
    """Has a cluster make what is out of date, and takes it in; returns the exit code: 1 where a stage failed, 128 and
    more for a signal.

    Raises:
        UsageError: a target. BusyError: others did not end in time. ConfigError: what workers need is not committed, no
            target or remote says where to, or no worker has what is asked. ClusterError: the cluster cannot be reached.
            ArtifactError, DvcError: params.yaml or DVC's files cannot be read.
    """
    patience = Patience(asked.seconds)
    with turn(root, patience, say) as held:
        wait_for_dvc(root, patience, say)
        for line in mend(root):
            say(line)
        require_sound(root)
        params = read_params(root / PARAMS)
        if changed := pipelines.bring_into_step(root, params):
            say(f"the pipelines of {', '.join(changed)} are written or removed, as params.yaml has them")
        config = read_fleet(root)
        head = Head(root, held, say)
        composition, found = _planned(root, asked, params, say)
        told: dict[str, Any] = {}
        if found.compose is not None and found.composed_from & {*found.to_do(False)}:
            told = shared(root, config)
            code = head.pull([found.targets[found.compose]], own={*found.composed_from})
            if code:
                return code
            head.push([found.targets[one] for one in found.composed_from])
            composition, found = _planned(root, asked, params, say)
        here = {one.stage for one in found.planned if one.action == RESTORED}
        if here:  # by the cache of this machine, which workers have not
            code = head.restore([found.targets[one] for one in sorted(here - found.above(here))])
            if ended_by(code):
                return code
            composition, found = _planned(root, asked, params, say)
            count = len(here - {one.stage for one in found.planned if one.action == RESTORED})
            Table().line(f"{count} {'stage is' if count == 1 else 'stages are'} restored from the cache here")
        to_do = found.to_do(False)
        order = [one for one in to_do if _is_entry(one)]
        if not to_do:
            Table().line(f"Nothing to do: {idle(found)}.")
        wanted = [found.targets[one.stage] for one in found.planned] if asked.targets else []
        if not order:
            return head.pull(wanted)
        requests = requests_of(order, composition, config)
        todo = jobs_of(order, found.before, requests, dict.fromkeys(order, 0), _model_of(composition))
        told = told or shared(root, config)
        cluster = opened(asked.on, asked.address, state_folder(root) / LOGS / "slurm")
        try:
            if cluster.place and not asked.address:  # it may be another than the one that is meant
                say(f"on {cluster.place}")
            _require_workers(cluster, config, {job.kind for job in todo})
            kept = found.above(order) - {*to_do, found.compose}
            if kept:  # what they come from is made, here perhaps and nowhere else
                head.push([found.targets[one] for one in sorted(kept) if one in found.targets])
            run = _Run(root, asked, config, composition, found, cluster, told, say)
            try:
                run.go(todo)
            except ClusterError:  # what was made is there all the same
                run.end(1)
                try:
                    remove_left(root, params, say)
                    if run.made:
                        head.pull([found.targets[one] for one in run.made])
                except ArtifactError as error:
                    say(str(error))
                raise
        finally:
            try:
                cluster.close()
            except ClusterError as error:
                say(f"jobs may still run: {error}")
        if run.signal:
            return run.end(128 + run.signal)
        remove_left(root, params, say)
        if run.outcome.why:
            made = [found.targets[one] for one in run.made]
            return run.end(max(1, head.pull(made) if made else 1))
        return run.end(head.pull(wanted))


def _planned(
    root: Path, asked: Asked, params: pipelines.Params, say: Callable[[str], None]
) -> tuple[Composition, Plan]:
    composition = composed_entries(root)
    for error in composition.mistakes:
        say(f"compose: {error}")
    return composition, plan(root, composition, params, asked.targets, every=False)


def _is_entry(stage: str) -> bool:
    """Whether a stage is of a model or an engine: compose, and what looks at all models, is everybody's own."""
    kind = stage.partition("@")[0]
    return "@" in stage and kind in (*MODEL_STAGES, *ENGINE_STAGES)


def _model_of(composition: Composition) -> Callable[[str], str]:
    """By which stages go together: those of one model, with its engines."""

    def model(stage: str) -> str:
        kind, _, name = stage.partition("@")
        if kind in ENGINE_STAGES:
            return str(composition.engines[name]["model_name"]) if name in composition.engines else ""
        return name

    return model


def _require_workers(cluster: Cluster, config: FleetConfig, names: Collection[str]) -> None:
    """Raises ConfigError where no worker has what is asked under one of these names."""
    for name in sorted(names):
        why = cluster.refusal(config.request(name))
        if why:
            raise ConfigError(
                "no worker has what is asked",
                where=f"conf/fleet.yaml: {f'targets {name}' if name != 'default' else name}",
                why=why,
                do="Start one that has it, or mend what is asked.",
            )


class _Run:
    def __init__(
        self,
        root: Path,
        asked: Asked,
        config: FleetConfig,
        composition: Composition,
        found: Plan,
        cluster: Cluster,
        shared: Mapping[str, Any],
        say: Callable[[str], None],
    ):
        self.root, self.asked, self.config, self.found, self.say = root, asked, config, found, say
        self.cluster, self.shared = cluster, shared
        self.errors = errors_of(composition)
        self.locks = locks(root)
        self.of_models = pipelines.locks(root)[1:]
        self.composed = {str(p.relative_to(root)): d.decode() for p, d in composed_files(root, composition).items()}
        self.outcome = Outcome()
        self.table = Table()
        self.signal = 0
        self.looked: dict[str, float] = {}
        self.made: list[str] = []
        self.runs: Counter[str] = Counter()
        self.logs = state_folder(root) / LOGS

    def go(self, todo: Sequence[Job]) -> None:
        """Has the cluster do all tasks; those that need one that failed are not given to it."""
        waiting, done = list(range(len(todo))), set[int]()
        running: dict[int, _Given] = {}
        lost: Counter[int] = Counter()
        refused: dict[int, float] = {}  # since when
        begin: dict[int, float] = {}
        for number in range(len(todo)):
            broken = {stage: [str(self.errors[stage])] for stage in todo[number].stages if stage in self.errors}
            if broken and number in waiting:
                waiting.remove(number)
                first = next(iter(broken))
                self._fail(number, todo, waiting, Answer(FAILED, failed={first: broken[first]}))
        with heard(self._take_signal):
            try:
                while (waiting or running) and not self.signal:
                    for number in ready(todo, waiting, done):
                        if self.signal or (self.asked.jobs is not None and len(running) >= self.asked.jobs):
                            break
                        if begin.get(number, 0.0) > time.monotonic():
                            continue
                        given = self._give(todo[number])
                        if isinstance(given, _Given):
                            waiting.remove(number)
                            refused.pop(number, None)
                            running[number] = given
                            continue
                        if number not in refused:
                            self.table.line(f"{_told(todo[number])} waits: {given}", style="yellow")
                        begin[number] = time.monotonic() + AGAIN
                        if time.monotonic() - refused.setdefault(number, time.monotonic()) > PATIENCE and not running:
                            waiting.remove(number)
                            self._fail(number, todo, waiting, Answer(FAILED, [given]))
                    self.table.show(todo, waiting, running, done, self.outcome)
                    time.sleep(STEP)
                    for number, answer in [(n, a) for n, given in running.items() if (a := given.poll())]:
                        del running[number]
                        if answer.how in (LOST, UNREACHED) and lost[number] < self.config.retries:
                            wait = self.config.backoff_seconds * 2 ** lost[number]
                            lost[number] += 1
                            begin[number] = time.monotonic() + wait
                            waiting.insert(0, number)
                            self._lost(todo[number], answer, wait)
                        elif answer.how == DONE:
                            self._ended(todo[number], answer)
                            done.add(number)
                        else:
                            self._fail(number, todo, waiting, answer)
                if self.signal:
                    self.say(f"ends {len(running)} tasks, on {signal.Signals(self.signal).name}")
            finally:
                self.table.close()
                for number, given in running.items():
                    self.outcome.take(todo[number].stages, STOPPED)
                    self._cancel(given)

    def _give(self, job: Job) -> _Given | str:
        """Hands a task over; or tells why the cluster does not take it now."""
        entries = {self._entry(stage) for stage in job.stages}
        paths = {f"build/config/{kind}/{name}.yaml" for kind, name in entries}
        composed = {path: text for path, text in self.composed.items() if path in paths}
        targets = [self.found.targets[one] for one in job.stages]
        others = {*self.of_models} - {*map(pipelines.lock_of, targets)}
        locks = {str(path): text for path, text in self.locks.items() if path not in others}
        task = Task(targets=targets, composed=composed, locks=locks, **self.shared)
        request = self.config.request(job.kind)
        try:
            if self.looked.get(job.kind, 0.0) < time.monotonic() - AGAIN:  # the last worker that had it may be gone
                if why := self.cluster.refusal(request):
                    return f"no worker has what is asked any more: {why}"
                self.looked[job.kind] = time.monotonic()
            return _Given(self.cluster.start(asdict(task), request, job.stages[0]))
        except ClusterError as error:
            return str(error)

    @staticmethod
    def _entry(stage: str) -> tuple[str, str]:
        kind, _, name = stage.partition("@")
        return (KINDS[1] if kind in ENGINE_STAGES else KINDS[0]), name

    def _cancel(self, given: _Given) -> None:
        try:
            given.cancel()
        except QntzError as error:  # the others are to be ended all the same
            self.say(f"a task may still run: {error}")

    def _mine(self, job: Job, answer: Answer) -> dict[str, str]:
        """What became of the task's own stages, taken down; what ran is counted."""
        told = {pipelines.shown(stage): what for stage, what in answer.stages.items()}
        self.runs.update(stage for stage in map(pipelines.shown, answer.ran) if _is_entry(stage))
        mine = {stage: told[stage] for stage in job.stages if stage in told}
        self.outcome.stages |= mine
        return mine

    def _lost(self, job: Job, answer: Answer, wait: float) -> None:
        """Tells of a task that is going to be given again."""
        for stage in self._mine(job, answer):
            del self.outcome.stages[stage]
        what = "was lost" if answer.how == LOST else "did not reach what it needs"
        told = f"{_told(job)} {what}{_on(answer)}: {'; '.join(answer.why)}; tries again in {wait:g} s"
        self.table.line(told, style="yellow")

    def _ended(self, job: Job, answer: Answer) -> None:
        """Takes down what a task has come to that went well."""
        counts = Counter(self._mine(job, answer).values())
        self.made += job.stages
        what = ", ".join(f"{count} {how}" for how, count in counts.items())
        self.table.line(f"{_told(job)}: {what}{_on(answer)} ({answer.seconds:.1f} s)")

    def _fail(self, number: int, todo: Sequence[Job], waiting: list[int], answer: Answer) -> None:
        """Takes down a task that failed, with its reasons, and those that need it, which do not wait any more."""
        job = todo[number]
        told = self._mine(job, answer)
        failed = {pipelines.shown(stage): [*lines] for stage, lines in answer.failed.items()}
        failed = {stage: lines for stage, lines in failed.items() if stage in job.stages}
        if answer.how == LOST:  # the last that it began is not done
            told = {}
        if failed:
            next(iter(failed.values())).extend(answer.why)
        else:  # no stage did: what was not come to by then is called so
            at = next((stage for stage in job.stages if stage not in told), job.stages[-1])
            told.pop(at, None)
            failed = {at: [*answer.why] or ["no reason was told"]}
        if answer.how != FAILED:
            for lines in failed.values():
                lines.append(f"given up after {self.config.retries + 1} attempts")
        self.made += told
        self.outcome.take([stage for stage in job.stages if stage not in told], BLOCKED)
        self.outcome.take(failed, STAGE_FAILED)
        for stage, lines in failed.items():
            if answer.said:
                log = self.logs / f"{stage}.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(answer.said, encoding="utf-8")
                lines.append(f"all that it said: {log.relative_to(self.root)}")
            self.outcome.why[stage] = lines
        self.table.ended([*told, *failed], self.outcome, answer.seconds)
        bad = [stage for stage in job.stages if stage not in told]
        self.outcome.take(give_up(number, bad, todo, waiting, self.found.before), BLOCKED)

    def _take_signal(self, number: int) -> None:
        self.signal = self.signal or number

    def end(self, code: int) -> int:
        """Tells the sum; returns the exit code."""
        twice = [stage for stage, count in self.runs.items() if count > 1]
        self.table.end(self.outcome, self.found.settled)
        if twice:
            self.table.line(f"more than once, as workers or results were lost: {', '.join(sorted(twice))}")
        return code


class _Given:
    """A task that a cluster was given, as the table shows it."""

    def __init__(self, task: Running):
        self.poll, self.cancel, self._started = task.poll, task.cancel, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def said(self) -> Said:
        return Said({}, [])


def _told(job: Job) -> str:
    """A task by its first and last stage."""
    return job.stages[0] if len(job.stages) == 1 else f"{job.stages[0]} to {job.stages[-1]}"


def _on(answer: Answer) -> str:
    return f" on {answer.host}" if answer.host else ""
