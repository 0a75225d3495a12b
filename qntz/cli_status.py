"""`qntz status [TARGETS...]`: what `dvc repro` would run, and why."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

UP_TO_DATE, FAILURE, TO_DO = 0, 1, 3
WIDEST = 100  # columns of a line of prose


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    codes = (
        "exit codes: 0 nothing would run, 3 something would, 1 an entry is broken or a stage cannot run, 2 wrong usage"
    )
    parser = commands.add_parser("status", help="what `dvc repro` would run, and why", epilog=codes)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="of `dvc repro`: verify@digits-int8 (default: all)"
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="artifacts that are missing here count as what dvc.lock says: for a clone without a cache",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with the unchanged stages")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints; returns the exit code: 0, 3 where something would run or be restored, 1 where something is broken."""
    from qntz.compose import composed_entries, composed_files
    from qntz.provenance.forecast import FAILS, UNCHANGED, Forecast
    from qntz.provenance.wording import rendered
    from qntz.provenance.workspace import opened, steps
    from qntz.remotes import require_sound
    from qntz.repro.turns import running_stage

    root = Path.cwd()
    require_sound(root)  # or compose refuses
    composition = composed_entries(root)
    with opened(root) as repo:
        other = running_stage(root)
        files = composed_files(root, composition)
        forecast = Forecast(repo, root, files, composition.errors, missing_is_fine=options.allow_missing)
        planned = forecast.plan(steps(repo, tuple(options.targets)))
        remote = bool(repo.config["core"].get("remote"))
    broken = bool(composition.mistakes) or any(one.action == FAILS for one in planned)
    code = FAILURE if broken else TO_DO if any(one.action != UNCHANGED for one in planned) else UP_TO_DATE
    if options.json:
        told = {
            "up_to_date": code == UP_TO_DATE,
            "errors": [str(error) for error in composition.mistakes],
            "stages": [one.as_dict() for one in planned],
        }
        print(json.dumps(told, indent=2, ensure_ascii=False, default=str))
        return code
    for error in composition.mistakes:
        print(f"error: compose: {error}", file=sys.stderr)
    if other:
        print(f"note: {other} is at work: what it has not finished is told as it stands.", file=sys.stderr)
    models = {name: str(one["model_name"]) for name, one in composition.engines.items()}
    for line in rendered(planned, models, remote, min(shutil.get_terminal_size().columns, WIDEST)):
        print(line)
    return code
