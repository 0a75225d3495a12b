"""`qntz init [FOLDER]`: makes a folder a project: the pipeline, its configuration, and a model, or a small example."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qntz.columns import aligned
from qntz.errors import UsageError

ONLY_WITH_MODEL = {"name": "--name", "input": "--input", "dim": "--dim", "arg": "--arg", "weights": "--weights"}
WHAT = {
    "dvc.yaml": "the pipeline",
    "params.yaml": "the models, and the engines to build from them",
    "conf": "their configuration",
    "stages": "what the pipeline runs",
    "requirements.txt": "what an installation elsewhere needs",
    "plugins": "your own rewrites go here; one is there as an example",
    "examples": "a small model with its weights and data",
    ".dvc": "how `dvc plots` draws layers",
    ".github": "runs the pipeline on GitHub",
    ".gitlab-ci.yml": "runs the pipeline on GitLab",
    ".gitignore": "lines added",
    ".dvcignore": "lines added",
}
NEXT = ("dvc repro", "dvc metrics show", "git add --all && git commit -m 'Engines by qntz'")


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser(
        "init",
        help="put the pipeline into a repository, or start one",
        description="Writes dvc.yaml, params.yaml, conf/, stages/, a plugin and CI files, and runs `git init` and `dvc "
        "init` where there is none. Nothing is overwritten. Without --model it brings a small example along.",
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="of the project (default: this one)")
    parser.add_argument(
        "--model", metavar="MODEL", help="pkg.module:Class or pkg/module.py:Class; or a saved model, net.ts or net.pt2"
    )
    parser.add_argument("--name", help="of the model's entries (default: the class's name)")
    parser.add_argument(
        "--input",
        metavar="NAME=DTYPE:SHAPE[:LOW,HIGH]",
        action="append",
        default=[],
        help="for each argument of forward: x=float32:batch,3,224,224, with the range of its values where that is "
        "known, and always of integers: ids=int64:batch,length:0,30521",
    )
    parser.add_argument(
        "--dim",
        metavar="NAME=MIN,OPT,MAX",
        action="append",
        default=[],
        help="the smallest, the usual and the largest size of a dynamic dimension (default: 1,8,64)",
    )
    parser.add_argument(
        "--arg", metavar="KEY=VALUE", action="append", default=[], help="that the class is made with: width=32"
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a state dict, best as safetensors (default: as the class draws them, by seed 0)",
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="after an update of qntz: bring stages/ and dvc.yaml of a project to those of this version",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Checks everything, then writes, and tells what was written and what comes next; returns the exit code."""
    from qntz.scaffold.notes import notes
    from qntz.scaffold.plan import plan_of, require_free
    from qntz.scaffold.table import EXAMPLE
    from qntz.scaffold.write import write

    root = Path(os.path.abspath(options.folder))
    if options.update:
        return _update(root, options)
    entry = _entry(options, root)
    name = entry.name if entry is not None else EXAMPLE
    plan = plan_of(root, entry)
    require_free(plan)
    written = write(plan)
    here = "" if root == Path.cwd() else f"{options.folder}: "
    if not written:
        print(f"{here}all of it is there already")
        return 0
    ran = [command for command, needed in (("git init", plan.git), ("dvc init", plan.dvc)) if needed]
    print(f"{here}{', '.join([*ran, f'{len(written)} files'])}")
    for line in aligned(_by_top(written)):
        print(f"  {line}")
    for sentence in (*plan.left_out, *(entry.notes if entry is not None else ()), *notes(root, written)):
        print(f"note: {sentence}")
    print("next:")
    if root != Path.cwd():
        print(f"  cd {shlex.quote(options.folder)}")
    for line in NEXT:
        print(f"  {line}")
    print(f"and open build/reports/{name}.html in a browser")
    return 0


def _update(root: Path, options: argparse.Namespace) -> int:
    from qntz.scaffold.update import update

    for key, option in {"model": "--model", **ONLY_WITH_MODEL}.items():
        if getattr(options, key):
            do = "Write conf/model/NAME.yaml, as those that are there."
            raise UsageError(f"{option} does not go with --update", do=do)
    written, left = update(root)
    for name in written:
        print(f"written: {name}")
    for sentence in left:
        print(f"note: {sentence}")
    if not written:
        print("all else is as this qntz ships it" if left else "all of it is as this qntz ships it")
    return 0


def _entry(options: argparse.Namespace, root: Path) -> Any:
    """What the options say of a model; None where they name none."""
    from qntz.scaffold.model import entry

    if options.model is None:
        for key, option in ONLY_WITH_MODEL.items():
            if getattr(options, key):
                raise UsageError(f"{option} belongs to a model", do="Name it: --model pkg.module:Class.")
        return None
    return entry(
        root,
        options.model,
        name=options.name,
        inputs=options.input,
        dims=options.dim,
        arguments=options.arg,
        weights=options.weights,
    )


def _by_top(written: Iterable[str]) -> list[tuple[str, str]]:
    """A row for each file or folder at the top: its name, and what it is."""
    counts: dict[str, int] = {}
    for name in written:
        top = name.partition("/")[0]
        counts[top] = counts.get(top, 0) + 1
    folders = {name.partition("/")[0] for name in written if "/" in name}
    return [
        (f"{top}/" if top in folders else top, WHAT[top] + (f", {counts[top]} files" if counts[top] > 1 else ""))
        for top in WHAT
        if top in counts
    ]
