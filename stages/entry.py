"""What every stage does around its work: reads its section, dies with its parent, says errors in one line."""

from __future__ import annotations

import functools
import gc
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from qntz.artifacts import EnginePaths, ModelPaths, composed_path, require_inside
from qntz.config import CAPTURING, ENGINE_STAGES, NAME, VARIABLES, granted
from qntz.errors import ArtifactError, ConfigError, PluginError, QntzError, UsageError, one_line
from qntz.redact import redacted
from qntz.watch import require_known, require_unchanged
from stages.parent import die_with_parent

if TYPE_CHECKING:
    from qntz.plugins import Plugins


@dataclass(frozen=True)
class Job:
    """What a stage is given: the project's root, its entry's name, the configuration it may read, the digests of what
    else it depends on (`inputs.<stage>`), and the paths; and the modules that were there before its work."""

    root: Path
    stage: str
    name: str
    config: Any
    inputs: dict[str, Any]
    of: ModelPaths
    before: frozenset[str] = field(default_factory=lambda: frozenset(sys.modules), compare=False, repr=False)

    @property
    def paths(self) -> EnginePaths:
        """The paths of the engine, for the stages that have one."""
        return self.of.engine(self.name)

    @functools.cached_property
    def plugins(self) -> Plugins:
        from qntz.plugins import load

        return load(self.root, self.stage)

    def require_known(self) -> None:
        """Raises ArtifactError where a module was imported that the stage's key does not hold: at its end, and in a
        child where the work is done in one. A report times its engines by the backends that verify ran them by."""
        timed = [f"verify@{one}" for one in self.config.report.engines] if self.stage == "report" else []
        require_known(self.root, [f"{self.stage}@{self.name}", *timed], self.before)

    def say(self, text: str) -> None:
        print(f"{self.stage} {self.name}: {text}")


def run(stage: str, work: Callable[[Job], None]) -> NoReturn:
    """Runs a stage for the entry that the command line names, and exits: 0, 1 for a failure, 2 for wrong usage."""
    die_with_parent()
    _fix_environment(stage)
    gc.set_threshold(200_000, 20, 20)  # collecting while it imports costs a stage a sixth of its CPU time
    debug = "--debug" in sys.argv
    try:
        names = [argument for argument in sys.argv[1:] if argument != "--debug"]
        if len(names) != 1:
            raise UsageError(f"one name is wanted, {len(names)} given", do=f"python -m stages.{stage} NAME [--debug]")
        job = job_of(stage, names[0])
        _require_unchanged(job)
        _guarded(job, work)
        job.require_known()
        _require_unchanged(job)
    except QntzError as error:
        if debug:
            print(redacted(traceback.format_exc()), file=sys.stderr, end="")
        print(f"error: {stage} {' '.join(sys.argv[1:2])}: {shown(error, Path.cwd())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"error: {stage}: interrupted; `dvc repro` goes on from here.", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _require_unchanged(job: Job) -> None:
    """Raises ArtifactError where what the stage depends on is not what DVC keeps its results under."""
    require_unchanged(job.root, f"{job.stage}@{job.name}")
    now = job_of(job.stage, job.name)
    if (now.config, now.inputs) != (job.config, job.inputs):
        do = "Nothing is kept of this stage. Run `dvc repro` again."
        raise ArtifactError("it was composed anew while it ran", where=f"params.yaml: {job.name}", do=do)


def _guarded(job: Job, work: Callable[[Job], None]) -> None:
    try:
        work(job)
    except QntzError as error:
        _explain(job, error)
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise QntzError(
            "unexpected error, a bug in qntz or in a plugin",
            where=f"{Path(frame.filename).name}:{frame.lineno}",
            why=redacted(f"{type(error).__name__}: {error}")[:500],
            do=f"See all of it with `python -m stages.{job.stage} {job.name} --debug`.",
        ) from error


def _explain(job: Job, error: QntzError) -> None:
    """Prints the plugins' hints; a plugin that fails at it is named and must not hide the error itself."""
    from qntz.plugins import load

    try:
        plugins = load(job.root)
    except PluginError as failure:
        if str(failure) != str(error):  # else that is what failed
            print(f"no hints: {failure}", file=sys.stderr)
        return
    try:
        for provider, hint in plugins.explanations(error):
            print(f"hint ({provider}): {hint}", file=sys.stderr)
    except Exception as failure:
        print(f"no hints: {one_line(failure)}", file=sys.stderr)


def shown(error: QntzError, root: Path) -> str:
    """The error's line, with paths below the project's root relative to it."""
    return re.sub(rf"(?<![^\s'\"(=]){re.escape(str(root))}{os.sep}", "", str(error))


def job_of(stage: str, name: str) -> Job:
    root = Path.cwd()
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name", do="Give the name of an entry of params.yaml.")
    path = composed_path(root, "engines" if stage in ENGINE_STAGES else "models", name)
    try:
        composed = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise ArtifactError(
            f"no entry {name!r}", where="params.yaml", do="Add it, or run `dvc repro compose` from the project's root."
        ) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtifactError(
            "is damaged", where=str(path), why=one_line(error), do="Run `dvc repro compose`."
        ) from error
    if not isinstance(composed, dict) or "inputs" not in composed:
        raise ArtifactError("is damaged", where=str(path), do="Run `dvc repro compose`.")
    if composed.get("error"):
        raise ConfigError(**composed["error"])
    paths = ModelPaths(root, composed.get("model_name", name))
    try:
        config, inputs = granted(stage, composed), composed["inputs"][stage]
    except (KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
        raise ArtifactError("is damaged", where=str(path), why=why, do="Run `dvc repro compose`.") from error
    engine = [paths.engine(name).folder] if stage in ENGINE_STAGES else []
    require_inside(root, paths.captured, paths.report.parent, *engine)
    return Job(root, stage, name, config, inputs, paths)


def _fix_environment(stage: str) -> None:
    """Starts over, where the stage is one that captures and lacks the variables for it."""
    if stage in CAPTURING and VARIABLES.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", f"stages.{stage}", *sys.argv[1:]], {**os.environ, **VARIABLES})
