"""`qntz report [MODEL...]`: the engines of each model side by side, from what the stages have built; nothing is run."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz import cli_fleet
from qntz.errors import ArtifactError, ConfigError, QntzError, UsageError, did_you_mean, one_line

if TYPE_CHECKING:
    from qntz.artifacts import ModelPaths
    from qntz.compose import Composition
    from qntz.report.changes import Changes
    from qntz.report.gates import Gate
    from qntz.report.run import Run

Params = Mapping[str, Mapping[str, Any]]
Told = tuple["Run", "list[Gate]", "Changes | None"]


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser("report", help="the engines of each model side by side, as they were built")
    parser.add_argument("models", metavar="MODEL", nargs="*", help="models of params.yaml (default: all)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="GitHub-flavoured Markdown, for $GITHUB_STEP_SUMMARY")
    form.add_argument(
        "--code-quality", action="store_true", help="the check's findings as GitLab's Code Quality report"
    )
    form.add_argument(
        "--fleet", action="store_true", help="all engines, how each stands and why: build/fleet.html and build/fleet.md"
    )
    parser.add_argument("--against", metavar="REV", help="a git revision: what changed in the metrics since")
    parser.add_argument(
        "--allow-missing", action="store_true", help="tell what is not built, instead of stopping at it"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints; returns the exit code."""
    from qntz.artifacts import ModelPaths
    from qntz.compose import PARAMS, composed_entries, read_params

    if options.code_quality and options.against is not None:
        raise UsageError("a Code Quality report tells of no other revision", do="Leave one of the two out.")
    root = Path.cwd()
    if options.fleet:
        if options.models or options.against is not None:
            raise UsageError("--fleet tells of all engines, as they are now", do="Leave the others out.")
        return cli_fleet.run(root)
    result = composed_entries(root)
    params = read_params(root / PARAMS)
    names, mistakes = _asked(params, result, options.models)
    if mistakes and not options.allow_missing:
        raise mistakes[0]
    if options.code_quality:
        found = [one for name in names for one in _code_quality(ModelPaths(Path(), name), options.allow_missing)]
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    changes, unread = (None, None) if options.against is None else _compared(root, options, params)
    told = [_told(ModelPaths(Path(), name), result, options, changes) for name in names]
    gone = [] if options.models else sorted({*(changes or {})} - {*params["models"]})
    if options.markdown:
        print("\n".join(_markdown(told, gone, mistakes, unread)), end="")
    else:
        _print(told, gone, mistakes, unread)
    return 0


def _asked(params: Params, result: Composition, asked: Sequence[str]) -> tuple[list[str], list[QntzError]]:
    """The models that are asked for, or all, in the order of params.yaml; and of these the entries' errors."""
    from qntz.compose import PARAMS

    for name in asked:
        if name not in params["models"]:
            raise ConfigError(f"no model {name!r}", where=PARAMS, do=did_you_mean(name, params["models"]))
    names = list(dict.fromkeys(asked)) or list(params["models"])
    mistakes = result.mistakes
    if asked:
        of = {("models", name): name for name in names}
        of |= {("engines", name): _model(params, name) for name in params["engines"]}
        mistakes = [one for at, one in result.errors.items() if of.get(at) in names and one in mistakes]
    return [name for name in names if name in result.models], mistakes


def _model(params: Params, engine: str) -> Any:
    """What an entry names as its model; None where it names none."""
    entry = params["engines"][engine]
    return entry.get("model") if isinstance(entry, Mapping) else None


def _told(
    paths: ModelPaths, result: Composition, options: argparse.Namespace, changes: Mapping[str, Changes] | None
) -> Told:
    """What is on record of a model, its gates, and what changed."""
    from qntz.config import granted
    from qntz.report import gather
    from qntz.report.changes import Changes
    from qntz.report.gates import gates
    from qntz.report.timed import with_timings

    config = granted("report", result.models[paths.model]).report
    found = gather(paths, config.engines, allow_missing=options.allow_missing)
    findings = found.check.get("findings", [])
    if not isinstance(findings, list) or not all(isinstance(one, dict) for one in findings):
        raise ArtifactError("is damaged", where=str(paths.check_json), do=f"Run `dvc repro -f check@{paths.model}`.")
    found = with_timings(found, paths.timings)
    asked = {} if "" in found.missing else config.gates
    against = None if changes is None else changes.get(paths.model, Changes(options.against))
    return found, gates(found, asked), against


def _compared(
    root: Path, options: argparse.Namespace, params: Params
) -> tuple[dict[str, Changes] | None, QntzError | None]:
    """What changed since the revision; or with --allow-missing, where its pipeline cannot be read, why."""
    commit = _commit(root, options.against)
    try:
        return _changes(root, options.against, commit, params), None
    except ArtifactError as error:
        if not options.allow_missing:
            raise
        return None, error


def _changes(root: Path, revision: str, commit: str, params: Params) -> dict[str, Changes]:
    """What changed since a git revision, by model.

    Raises:
        ArtifactError: its pipeline, or that of the workspace, cannot be read.
    """
    import logging

    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from qntz.report.changes import changes_by_model, is_metrics

    def here(path: str) -> str:
        return os.path.relpath(os.path.join(top, path), root)

    logging.getLogger("dvc").setLevel(logging.ERROR)  # what it warns of is told below
    try:
        with Repo(str(root)) as repo:
            top = repo.root_dir
            found = repo.metrics.diff(a_rev=commit, all=True)
    except DvcException as error:
        raise _not_compared(revision, error) from error
    errors = found.get("errors", {})
    for error in errors.values():
        if isinstance(error, Exception):
            raise _not_compared(revision, error) from error
    paths = [path for path in errors.get(commit, {}) if is_metrics(here(path))]
    at = DVCFileSystem(rev=commit) if paths else None
    unread = {path: _known(at, path) for path in paths}
    differences = {here(path): figures for path, figures in found.get("diff", {}).items()}
    engines = {
        model: [name for name in params["engines"] if _model(params, name) == model] for model in params["models"]
    }
    return changes_by_model(revision, engines, differences, {here(path): known for path, known in unread.items()})


def _not_compared(revision: str, error: Exception) -> ArtifactError:
    do = "Mend that file, or compare with another revision."
    return ArtifactError("cannot be compared", where=f"--against {revision}", why=one_line(error), do=do)


def _known(at: Any, path: str) -> bool:
    """Whether the dvc.lock of a revision has the digest of a file that could not be read there."""
    try:
        return bool((at.info(path).get("dvc_info") or {}).get("md5"))
    except FileNotFoundError:
        return False  # neither git nor DVC has anything of that name


def _commit(root: Path, revision: str) -> str:
    """The commit that a revision names."""
    import subprocess

    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ArtifactError("git cannot be run", where="--against", why=one_line(error)) from error
    if done.returncode:
        why = done.stderr.strip().removeprefix("fatal: ")
        do = "Where the clone is shallow, or has one branch, fetch it first: git fetch origin."
        raise ArtifactError(f"no revision {revision!r}", where="--against", why=why, do="" if why else do)
    return done.stdout.strip()


def _code_quality(paths: ModelPaths, allow_missing: bool) -> list[dict[str, Any]]:
    from qntz.artifacts import read_json
    from qntz.report.code_quality import code_quality

    if allow_missing and not paths.check_sarif.is_file():
        return []
    sarif = read_json(paths.check_sarif)
    try:
        return list(code_quality(paths.model, sarif))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        do = f"Run `dvc repro -f check@{paths.model}`."
        raise ArtifactError("is damaged", where=str(paths.check_sarif), why=one_line(error), do=do) from error


def _markdown(
    told: Sequence[Told], gone: Sequence[str], mistakes: Sequence[QntzError], unread: QntzError | None
) -> Iterator[str]:
    from qntz.report.markdown import escaped, prose, render_markdown

    if mistakes:
        yield "## Not composed\n\n" + "".join(f"- {prose(str(one))}\n" for one in mistakes)
    for found, asked, changes in told:
        yield render_markdown(found, asked, changes)
    if gone:
        yield f"Gone: {escaped(', '.join(gone))}.\n"
    if unread is not None:
        yield f"{prose(str(unread))}\n"


def _print(told: Sequence[Told], gone: Sequence[str], mistakes: Sequence[QntzError], unread: QntzError | None) -> None:
    """The tables that the report stage prints, with the findings and the changes below."""
    from rich.console import Console
    from rich.text import Text

    from qntz.report import terminal_summary
    from qntz.report.changes import sentences
    from qntz.report.gates import table
    from qntz.report.markdown import unfinished
    from qntz.report.terminal import changes_summary, findings_lines

    console = Console()
    if not console.is_terminal:  # a file has no width to fit into
        console = Console(width=max(console.width, 120))
    for mistake in mistakes:
        console.print(Text(f"not composed: {mistake}"), soft_wrap=True)
    for at, (found, asked, changes) in enumerate(told):
        if at or mistakes:
            console.print()
        console.print(terminal_summary(found, console.width))
        if found.missing:
            console.print(Text(unfinished(found)))
        if asked:
            console.print(table(sorted(asked, key=lambda one: one.holds)))
        for line in findings_lines(found):
            console.print(Text(line), soft_wrap=True)
        if changes is not None:
            if changes.changed:
                console.print(changes_summary(changes))
            for sentence in sentences(changes):
                console.print(Text(f"against {changes.revision}: {sentence}"), soft_wrap=True)
    if gone:
        console.print(Text(f"Gone: {', '.join(gone)}."))
    if unread is not None:
        console.print(Text(str(unread)), soft_wrap=True)
