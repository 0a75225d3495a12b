"""`qntz pipelines [--split | --join]`: one pipeline for all models, or one for each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser(
        "pipelines",
        help="one dvc.yaml and dvc.lock for all models, or one for each",
        description="DVC writes the whole of dvc.lock at each stage, so that a stage costs the more the more models "
        "there are. Split, each model has a pipeline of its own in pipelines/, and a stage costs the same for any "
        "number. Without an option, brings those in step with params.yaml, as `qntz repro` does before it runs.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--split", action="store_true", help="give each model a pipeline of its own; nothing runs again")
    form.add_argument("--join", action="store_true", help="put all stages into the root's pipeline again")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what was done; returns the exit code."""
    from qntz.compose import PARAMS, read_params
    from qntz.pipelines import bring_into_step, is_split, join, split
    from qntz.repro.turns import BusyError, Patience, dvc_at_work, turn

    root = Path.cwd()
    params = read_params(root / PARAMS)
    with turn(root, Patience(0), print):
        if (other := dvc_at_work(root)) is not None:  # it would go on with what it has read
            raise BusyError("another run is at work in this workspace", why=other, do="Wait for it, or end it.")
        if options.split:
            print(f"{split(root, params)} pipelines in pipelines/. Commit them, dvc.yaml and dvc.lock.")
        elif options.join:
            print(f"{join(root)} pipelines put into dvc.yaml. Commit it and dvc.lock.")
        elif is_split(root):
            changed = bring_into_step(root, params)
            print(f"written or removed: {', '.join(changed)}" if changed else "in step with params.yaml")
        else:
            print("all models are in one pipeline; --split gives each its own")
    return 0
