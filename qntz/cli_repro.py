"""`qntz repro [TARGETS...] [-- DVC OPTIONS]`: `dvc repro`, one at a time in a workspace."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qntz.errors import UsageError

SECONDS = 3600.0


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser(
        "repro",
        usage="qntz repro [-h] [-j N] [--memory GIB] [--on CLUSTER] [--pull] [-k] [--wait SECONDS | --no-wait] "
        "[TARGET ...] [-- OPTION OF DVC ...]",
        help="run `dvc repro`, after what a kill left is mended and other runs here have ended",
        epilog="exit code: that of `dvc repro`; 1 where others did not end in time",
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="of `dvc repro` (default: all)")
    parser.add_argument(
        "-j",
        "--jobs",
        type=_jobs,
        metavar="N",
        help="run the stages of up to N models and engines side by side; a failed one stops what depends on it alone",
    )
    parser.add_argument(
        "--memory", type=_gib, metavar="GIB", help="for all stages side by side (default: nine tenths of what is free)"
    )
    parser.add_argument(
        "--on",
        choices=("ray", "slurm"),
        help="hand what is out of date to the workers of a cluster (-j: so many at once)",
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="of Ray's head (default: the cluster that is here)")
    parser.add_argument("--pull", action="store_true", help="take results from DVC's remote where it has them")
    parser.add_argument("-k", "--keep-going", action="store_true", help="run what does not depend on a failed stage")
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait",
        type=_seconds,
        default=SECONDS,
        metavar="SECONDS",
        help=f"for other runs in this workspace, at most (default: {SECONDS:.0f})",
    )
    waiting.add_argument("--no-wait", action="store_const", dest="wait", const=0.0, help="refuse where another runs")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of jobs: give one from 1 on")
    return int(text)


def _gib(text: str) -> int:
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not 0 < gib < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory: give GiB above 0")
    return int(gib * 2**30)


def run(options: argparse.Namespace) -> int:
    """Runs DVC; returns its exit code."""
    from qntz.pipelines import is_split
    from qntz.repro.run import repro

    def say(text: str) -> None:
        print(f"repro: {text}", file=sys.stderr, flush=True)

    if options.on is not None:
        return _on_cluster(options, say)
    if options.address is not None:
        raise UsageError("--address is for a cluster", do="Give --on ray too.")
    if options.jobs is not None or is_split(Path.cwd()):
        from qntz.fleet.run import Asked
        from qntz.fleet.run import repro as side_by_side

        asked = Asked(options.targets, options.jobs or 1, options.pull, options.passed_on, options.memory, options.wait)
        return side_by_side(Path.cwd(), asked, say)
    if options.memory is not None:
        raise UsageError("--memory is for stages side by side", do="Give -j too.")
    passed = [*(["--pull"] if options.pull else []), *(["--keep-going"] if options.keep_going else [])]
    return repro(Path.cwd(), [*options.targets, *passed, *options.passed_on], options.wait, say)


def _on_cluster(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    from qntz.fleet.distribute import Asked, distribute

    if options.memory is not None or options.passed_on:
        odd = "--memory" if options.memory is not None else options.passed_on[0]
        raise UsageError(f"{odd} is not for a cluster", do="What a worker has to have stands in conf/fleet.yaml.")
    asked = Asked(options.on, options.targets, options.jobs, options.address or "", options.wait)
    return distribute(Path.cwd(), asked, say)
