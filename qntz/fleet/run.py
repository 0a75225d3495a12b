"""`qntz repro -j N`: the stages of many models side by side, by DVC itself, as one `dvc repro` would leave them."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

from qntz import pipelines
from qntz.compose import PARAMS, Composition, composed_entries, composed_files, read_params
from qntz.errors import QntzError, UsageError
from qntz.fleet import outcome, workers
from qntz.fleet.jobs import CPU, Job, give_up, ready
from qntz.fleet.limits import Peaks, Rooms, gpus, memory_budget
from qntz.fleet.locked import put_in_order, recorded
from qntz.fleet.outcome import Outcome
from qntz.fleet.plan import Plan, errors_of, jobs, plan
from qntz.fleet.table import Table, idle
from qntz.fleet.warm import Start
from qntz.fleet.workers import Worker
from qntz.remotes import require_sound
from qntz.repro.mend import mend, state_folder
from qntz.repro.run import PAUSE, heard, wait_for_dvc
from qntz.repro.turns import Patience, turn

LOGS = "qntz-repro"  # in DVC's folder of temporary files
PASSED_ON = {"-f", "--force", "--no-commit", "--no-run-cache", "--allow-missing"}
STEP = 0.2  # seconds between two looks
GRACE = 10.0  # seconds that stages have once they were asked to end
A_FAILURE = 1  # exit code


@dataclass(frozen=True)
class Asked:
    """What a run is asked for. targets: stages, none for all. jobs: at most at the same time. pull: results from DVC's
    remote. options: further ones of `dvc repro`. memory: bytes for all of them, None for what is free. seconds: to wait
    for other runs here."""

    targets: Sequence[str] = ()
    jobs: int = 2
    pull: bool = False
    options: Sequence[str] = ()
    memory: int | None = None
    seconds: float = 3600.0


def repro(root: Path, asked: Asked, say: Callable[[str], None]) -> int:
    """Runs what is out of date; returns the exit code: 1 where a stage failed, 128 and more for a signal.

    Raises:
        UsageError: a target, or an option that takes DVC as a whole. BusyError: others did not end in time.
        ConfigError, ArtifactError, DvcError: params.yaml or DVC's files cannot be read.
    """
    if odd := [one for one in asked.options if one not in PASSED_ON]:
        do = f"With -j, and with a pipeline for each model, these are passed on: {', '.join(sorted(PASSED_ON))}."
        raise UsageError(f"{odd[0]} is for one `dvc repro` of all stages", do=do)
    patience = Patience(asked.seconds)
    with turn(root, patience, say) as held:
        wait_for_dvc(root, patience, say)
        for line in mend(root):
            say(line)
        require_sound(root)
        params = read_params(root / PARAMS)
        if changed := pipelines.bring_into_step(root, params):
            say(f"the pipelines of {', '.join(changed)} are written or removed, as params.yaml has them")
        return _Run(root, asked, params, held, patience, say).run()


class _Run:
    def __init__(
        self,
        root: Path,
        asked: Asked,
        params: pipelines.Params,
        held: int,
        patience: Patience,
        say: Callable[[str], None],
    ):
        self.root, self.asked, self.params, self.held, self.say = root, asked, params, held, say
        self.patience = patience
        self.state = state_folder(root)
        self.logs = self.state / LOGS
        self.peaks = Peaks(self.state)
        self.outcome = Outcome()
        self.table = Table()
        self.signal = 0
        self.errors: dict[str, QntzError] = {}

    def run(self) -> int:
        force = any(one in ("-f", "--force") for one in self.asked.options)
        composition = self._composed()
        found = self._plan(composition, force)
        to_do = found.to_do(force)
        if not to_do and not self._must_compose(composition):
            self._say_idle(found)
            return 0
        self._begin = Start.now()
        self._context = workers.context(self._begin)
        self._alive, self._ours = self._context.Pipe(duplex=False)
        before = {lock: recorded(self.root / lock) for lock in pipelines.locks(self.root)}
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        with heard(self._take_signal):
            first = found.composed_from & {*to_do}
            if self._compose(found, bool(first)):
                if first:  # compose reads what has just been written
                    composition = self._composed()
                    found = self._plan(composition, force)
                    to_do = found.to_do(force)
                self._take_unchanged(found, to_do)
                to_do = [one for one in to_do if one != found.compose and one not in found.composed_from]
                cards = gpus()
                self._go(found, jobs(found, to_do, composition, self.root, self.peaks, bool(cards)), cards)
            order = list(found.targets)
            for lock, stages in before.items():  # also on a signal: nothing is at work any more
                put_in_order(self.root, lock, stages, order)
        return self._end(found)

    def _take_unchanged(self, found: Plan, to_do: Collection[str]) -> None:
        known = {*to_do, *self.outcome.stages}
        self.outcome.take((one.stage for one in found.planned if one.stage not in known), workers.UNCHANGED)

    def _composed(self) -> Composition:
        """What compose will write; the errors of entries are told here, and kept by the stages that fail by them."""
        composition = composed_entries(self.root)
        for error in composition.mistakes:
            self.say(f"compose: {error}")
        self.errors = errors_of(composition)
        return composition

    def _plan(self, composition: Composition, every: bool) -> Plan:
        return plan(self.root, composition, self.params, self.asked.targets, every)

    def _must_compose(self, composition: Composition) -> bool:
        """Whether compose would write something: a run with nothing to do is spared it else."""
        files = composed_files(self.root, composition)
        return any(not path.is_file() or path.read_bytes() != data for path, data in files.items())

    def _compose(self, found: Plan, first: bool) -> bool:
        """Runs compose, `first` with what it reads from other stages; returns whether that went well."""
        if found.compose is None:
            return True
        job = Job([found.compose], CPU, 0)
        while True:
            worker = self._start(0, job, found, {}, single=not first)
            while worker.poll() is None and not self.signal:
                connection.wait([worker.process.sentinel], STEP)
            if self.signal:
                self._stop({0: worker})
            if not self._was_busy(job, worker):
                return self._ended(job, worker)

    def _was_busy(self, job: Job, worker: Worker) -> bool:
        """Whether another DVC was in its way, so that it is to be tried again."""
        if self.signal or self.patience.left <= 0 or not worker.said().busy:
            return False
        self.say(f"another DVC was in the way of {job.stages[0]}; tries again")
        self.patience.sleep(PAUSE)
        return True

    def _start(self, number: int, job: Job, found: Plan, env: dict[str, str], *, single: bool = True) -> Worker:
        options = [*self.asked.options, *(["--pull"] if self.asked.pull else []), *(["-s"] if single else [])]
        targets = [found.targets[stage] for stage in job.stages]
        name = re.sub(r"[^@\w.-]", "-", job.stages[0])  # that of a stage of the user's own has a path in it
        log = self.logs / f"{number:04}-{name}.log"
        held = (self._alive, self.held)
        given = (self.root, targets, options, log, held, env)
        try:
            return Worker(self._context, *given, self._begin)
        except (EOFError, ConnectionError):  # a library that ends the process which loads it
            self.say("what the stages import cannot be loaded beforehand: each loads it by itself")
            time.sleep(STEP)  # until it is gone, whose pipe has just ended
            self._begin = dataclasses.replace(self._begin, warm=False)
            self._context = workers.context(self._begin)
            return Worker(self._context, *given, self._begin)

    def _go(self, found: Plan, todo: Sequence[Job], cards: Sequence[str]) -> None:
        """Runs the jobs, as many at the same time as may be; a job that fails keeps those that need it from running."""
        waiting, running, done = list(range(len(todo))), dict[int, Worker](), set[int]()
        rooms = Rooms(self.asked.jobs, self.asked.memory or memory_budget(), list(cards))
        try:
            while (waiting and not self.signal) or running:
                for number in ready(todo, waiting, done) if not self.signal else ():
                    if rooms.take(number, todo[number]):
                        running[number] = self._start(number + 1, todo[number], found, rooms.environment(number))
                        waiting.remove(number)
                self.table.show(todo, waiting, running, done, self.outcome)
                connection.wait([worker.process.sentinel for worker in running.values()], STEP)
                if self.signal:
                    self._stop(running)
                for number, worker in [(one, worker) for one, worker in running.items() if worker.poll() is not None]:
                    del running[number]
                    rooms.leave(number)
                    if self._was_busy(todo[number], worker):
                        waiting.insert(0, number)
                    elif self._ended(todo[number], worker):
                        done.add(number)
                    else:
                        made = (workers.RAN, workers.RESTORED, workers.UNCHANGED)
                        bad = [one for one in todo[number].stages if self.outcome.stages.get(one) not in made]
                        lost = give_up(number, bad, todo, waiting, found.before)
                        self.outcome.take(lost, outcome.BLOCKED)
        finally:
            self.table.close()
            if running:  # something went wrong here: what is at work would be lost without a word
                self._stop(running)

    def _ended(self, job: Job, worker: Worker) -> bool:
        """Takes down what a worker has come to; returns whether all went well."""
        code, said = worker.poll(), worker.said()
        told = {pipelines.shown(stage): what for stage, what in said.stages.items()}
        self.outcome.stages |= told
        if peak := worker.peak():
            self.peaks.keep({stage: peak for stage, what in told.items() if what == workers.RAN})
        if not code:
            self.table.ended(list(told), self.outcome, worker.seconds)
            return True
        begun = [stage for stage, what in told.items() if what == workers.RAN]
        at = pipelines.shown(said.failed) if said.failed else (begun or job.stages)[-1 if begun else 0]
        self.outcome.take(job.stages[job.stages.index(at) + 1 :] if at in job.stages else (), outcome.BLOCKED)
        self.outcome.take([at], outcome.STOPPED if self.signal else outcome.FAILED)
        if not self.signal:
            why = [str(self.errors[at])] if at in self.errors else said.errors
            log = os.path.relpath(worker.log, self.root)
            self.outcome.why[at] = [*(why or [f"ended with exit code {code}"]), f"all that it said: {log}"]
        self.table.ended(list(dict.fromkeys([*told, at])), self.outcome, worker.seconds)
        return False

    def _stop(self, running: Mapping[int, Worker]) -> None:
        """Asks the workers and all that they started to end, and kills them after a while."""
        self.table.close()
        number = self.signal or signal.SIGTERM
        self.say(f"ends {len(running)} at work, on {signal.Signals(number).name}")
        deadline = time.monotonic() + GRACE
        untold = [worker for worker in running.values() if not worker.send(number)]
        while any(worker.is_there() for worker in running.values()) and time.monotonic() < deadline:
            time.sleep(STEP / 4)
            untold = [worker for worker in untold if not worker.send(number)]
        for worker in running.values():
            worker.send(signal.SIGKILL)
            worker.process.kill()
            worker.process.join()

    def _take_signal(self, number: int) -> None:
        self.signal = self.signal or number

    # what it tells

    def _say_idle(self, found: Plan) -> None:
        self.table.line(f"Nothing to do: {idle(found)}.")

    def _end(self, found: Plan) -> int:
        self.table.end(self.outcome, found.settled)
        if self.signal:
            return 128 + self.signal
        bad = self.outcome.why or outcome.BLOCKED in self.outcome.stages.values()
        return A_FAILURE if bad else 0
