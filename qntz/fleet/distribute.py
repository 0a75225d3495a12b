"""`qntz repro --on CLUSTER`: tasks for what is out of date, whose results workers push, and `dvc repro --pull`."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qntz import pipelines
from qntz.artifacts import ModelPaths
from qntz.compose import KINDS, PARAMS, Composition, composed_entries, composed_files, read_params
from qntz.config import ENGINE_STAGES, MODEL_STAGES
from qntz.errors import ArtifactError, ConfigError, QntzError, one_line
from qntz.fleet.cluster import Cluster, ClusterError, Running, opened
from qntz.fleet.jobs import Job, give_up, jobs_of, ready
from qntz.fleet.node import DONE, FAILED, LOST, UNREACHED, Answer, Task
from qntz.fleet.only import REFUSED, write_shell
from qntz.fleet.outcome import BLOCKED, STOPPED, Outcome
from qntz.fleet.outcome import FAILED as STAGE_FAILED
from qntz.fleet.plan import Plan, errors_of, plan
from qntz.fleet.requests import FleetConfig, read_fleet, requests_of
from qntz.fleet.results import push_apart
from qntz.fleet.table import Table, idle
from qntz.fleet.way import may_be_there_again, telling
from qntz.fleet.workers import Said
from qntz.provenance.forecast import RESTORED
from qntz.redact import credentials_in
from qntz.remotes import require_sound, without_secrets
from qntz.repro.mend import mend, state_folder
from qntz.repro.run import ended_by, heard, run_dvc, wait_for_dvc
from qntz.repro.turns import Patience, turn

STEP = 0.5  # seconds between two looks
LOGS = "qntz-fleet"  # in DVC's folder of temporary files
OF_DVC = (pipelines.DVC_LOCK,)  # what may be another than the commit's
READ = (
    "conf",
    "pipelines",
    "plugins",
    "stages",
    "params.yaml",
    "dvc.yaml",
)  # where a new file is one that workers lack
TRIES = 4  # of the head's own pull
_USER = re.compile(r"https?://[^/]*@", re.IGNORECASE)  # which may be a token
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
        head = _Head(root, held, say)
        composition, found = _planned(root, asked, params, say)
        shared: dict[str, Any] = {}
        if found.compose is not None and found.composed_from & {*found.to_do(False)}:
            shared = _shared(root, config)
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
            Table().line(f"{len(here)} {'stage is' if len(here) == 1 else 'stages are'} restored from the cache here")
            composition, found = _planned(root, asked, params, say)
        to_do = found.to_do(False)
        order = [one for one in to_do if _is_entry(one)]
        if not to_do:
            Table().line(f"Nothing to do: {idle(found)}.")
        wanted = [found.targets[one.stage] for one in found.planned] if asked.targets else []
        if not order:
            return head.pull(wanted)
        requests = requests_of(order, composition, config)
        todo = jobs_of(order, found.before, requests, dict.fromkeys(order, 0), _model_of(composition))
        shared = shared or _shared(root, config)
        cluster = opened(asked.on, asked.address, state_folder(root) / LOGS / "slurm")
        try:
            if cluster.place and not asked.address:  # it may be another than the one that is meant
                say(f"on {cluster.place}")
            _require_workers(cluster, config, {job.kind for job in todo})
            kept = found.above(order) - {*to_do, found.compose}
            if kept:  # what they come from is made, here perhaps and nowhere else
                head.push([found.targets[one] for one in sorted(kept) if one in found.targets])
            run = _Run(root, asked, config, composition, found, cluster, shared, say)
            try:
                run.go(todo)
            except ClusterError:  # what was made is there all the same
                run.end(1)
                if run.made:
                    _remove_left(root, params, say)
                    head.pull([found.targets[one] for one in run.made])
                raise
        finally:
            try:
                cluster.close()
            except ClusterError as error:
                say(f"jobs may still run: {error}")
        if run.signal:
            return run.end(128 + run.signal)
        _remove_left(root, params, say)
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


def _shared(root: Path, config: FleetConfig) -> dict[str, Any]:
    """Of a task what is the same for all: the commit and where it is cloned from, the remote, and the folder.

    Raises:
        ConfigError: there is no commit, something is not committed, there is no git remote or DVC remote, or the
            address of the first holds a password.
    """
    git = partial(_git, root)
    commit = git("rev-parse", "HEAD")
    if not commit:
        raise ConfigError("there is no commit", where=str(root), do="Commit the project: workers check it out.")
    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
    changed = [path for path in changed if Path(path).name not in OF_DVC]
    there = [name for name in READ if (root / name).exists()]
    new = git("ls-files", "--others", "--exclude-standard", "--", *there).splitlines()
    if found := [*changed, *(path for path in new if Path(path).name not in OF_DVC)]:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        do = "Commit it: workers check out the commit."
        raise ConfigError("has changes that are not committed", where=f"{found[0]}{more}", do=do)
    repository, where = config.repository, "conf/fleet.yaml: repository"
    if not repository:
        repository, where = git("remote", "get-url", "origin"), "git's remote origin"
    if not repository:
        do = "Name one that the workers reach, or add a git remote `origin`."
        raise ConfigError("there is nothing to clone from", where="conf/fleet.yaml: repository", do=do)
    if credentials_in(repository) or _USER.match(repository):
        do = "Let workers have credentials of their own, and name the repository without."
        raise ConfigError("holds a password or token, which every worker would be handed", where=where, do=do)
    if Path(repository).expanduser().is_dir():
        repository = str(Path(repository).expanduser().resolve())
    elif not config.repository and not git("branch", "--remotes", "--contains", commit):
        raise ConfigError(f"{commit[:12]} is not there", where="origin", do="Run `git push`: workers check it out.")
    below = git("rev-parse", "--show-prefix")
    told = {"repository": repository, "commit": commit, "below": below, "folder": config.folder}
    return {**told, "remote": _remote(root)}


def _git(root: Path, *arguments: str) -> str:
    """What git says; "" where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""


def _locks(root: Path) -> dict[Path, str]:
    """DVC's locks that are others than the commit's, by path: what stands in them, "" for those that are gone."""
    changed = _git(root, "diff", "--name-only", "--relative", "-z", "HEAD")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", f":(glob)**/{pipelines.DVC_LOCK}")
    names = {name for name in f"{changed}\0{new}".split("\0") if Path(name).name in OF_DVC}
    there = {Path(name): root / name for name in sorted(names)}
    return {name: path.read_text(encoding="utf-8") if path.is_file() else "" for name, path in there.items()}


def _remote(root: Path) -> dict[str, Any]:
    """DVC's default remote by its name, and its options without secrets; raises ConfigError where there is none, or one
    that results cannot travel by."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from qntz.repro.run_cache import SharedCache

    with Repo(str(root)) as repo:
        name = repo.config.get("core", {}).get("remote")
        if not name:
            do = "Add one that the workers reach: dvc remote add -d NAME URL."
            raise ConfigError("DVC has no default remote", where=".dvc/config", why="results travel by it", do=do)
        try:
            SharedCache(repo, "repro --on")
        except DvcException as error:
            do = "Take one of plain files, without `version_aware` and `worktree`: a folder, S3, SSH or the like."
            why, where = " ".join(str(error).split()), f"DVC's remote {name!r}"
            raise ConfigError("workers cannot share results by it", where=where, why=why, do=do) from error
        options = {key: str(value) for key, value in repo.config["remote"][name].items() if value is not None}
    return {"name": name, "options": without_secrets(options)}


def _remove_left(root: Path, params: pipelines.Params, say: Callable[[str], None]) -> None:
    """Removes what is of engines that are in no entry any more: a report depends on all that there is of its model, and
    workers have nothing of them. Raises ArtifactError where it cannot."""
    for model in params["models"]:
        for folder in sorted((ModelPaths(root, model).folder / "engines").glob("*")):
            entry = params["engines"].get(folder.name)
            if isinstance(entry, Mapping) and entry.get("model") == model:
                continue
            try:
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
                else:
                    folder.unlink()
            except OSError as error:
                do = "Remove it, and run this again: all that was made is kept."
                raise ArtifactError("cannot be removed", where=str(folder), why=one_line(error), do=do) from error
            say(f"{folder.relative_to(root)} is of no entry: removed")


class _Head:
    """What the head does itself: `dvc repro --pull`, which restores what workers made."""

    def __init__(self, root: Path, held: int, say: Callable[[str], None]):
        self.root, self._held, self._say = root, held, say

    def restore(self, targets: Sequence[str]) -> int:
        """What the cache of this machine has; returns DVC's exit code. Of models and engines it runs nothing."""
        shell = state_folder(self.root) / "qntz-shell"
        write_shell(shell, ())
        with tempfile.TemporaryFile() as log:
            code, _ = run_dvc(self.root, ["repro", *targets], self._held, output=log.fileno(), SHELL=str(shell))
        return code

    def pull(self, targets: Sequence[str], own: Collection[str] = ()) -> int:
        """Returns the exit code; of models and engines it runs nothing.

        Args:
            targets: as DVC names them, none for all. own: stages that may run here.
        """
        shell = state_folder(self.root) / "qntz-shell"
        write_shell(shell, own)
        for number in range(TRIES):
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
                arguments = ["repro", "--pull", *targets]
                code, _ = run_dvc(self.root, arguments, self._held, output=log.fileno(), SHELL=str(shell))
                log.seek(0)
                text = log.read()
            said = Said.of(text)
            gone = REFUSED.search(text)
            lines = [line for line in text.splitlines() if line.startswith(("ERROR: ", "WARNING: "))]
            again = gone or may_be_there_again("\n".join(lines))
            if code == 0 or ended_by(code) or not again or number == TRIES - 1:
                break
            time.sleep(2**number)
        if code and gone:
            do = "Run it again: what is missing is made again; or `qntz status` tells how this workspace differs."
            self._say(f"the result of {gone[1]} could not be fetched. {do}")
        elif code:
            for line in said.errors:
                self._say(line.removeprefix("error: ").removeprefix("ERROR: "))
        return code if ended_by(code) else min(code, 1)

    def push(self, targets: Sequence[str]) -> None:
        """What workers need of stages that they are not given; raises ConfigError where it cannot be pushed. Where
        there is another result for them, workers take this one all the same: they are sent dvc.lock."""
        code, said = push_apart(self.root, (), targets)
        if code:
            more = f" and {len(targets) - 1} more" if len(targets) > 1 else ""
            where, do = f"{targets[0]}{more}", "See whether DVC's remote can be written: dvc push."
            raise ConfigError("workers need it, and it cannot be pushed", where=where, why=telling(said), do=do)


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
        self.locks = _locks(root)
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
