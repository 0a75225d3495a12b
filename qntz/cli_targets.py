"""`qntz targets`: what to ask `dvc repro` for on a machine that has a GPU, and on one that has not."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from qntz.compose import Composition

GPU_BACKENDS = "tensorrt"


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser("targets", help="what to ask `dvc repro` for, with a GPU and without")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu", action="store_true", help="models with an engine that is built beside a GPU")
    where.add_argument("--no-gpu", action="store_true", help="all that is built without one")
    parser.add_argument(
        "--gpu-backends",
        metavar="NAMES",
        default=GPU_BACKENDS,
        help=f"whose engines are built beside a GPU, separated by commas (default: {GPU_BACKENDS})",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the targets, a line each; nothing where there are none. Returns the exit code."""
    from qntz.compose import composed_entries

    root = Path.cwd()
    backends = _known(options.gpu_backends, root)
    found = targets(composed_entries(root), backends)
    for target, needs_gpu in found:
        if needs_gpu == options.gpu or not (options.gpu or options.no_gpu):
            print(target)
    return 0


def targets(composition: Composition, gpu_backends: Collection[str]) -> Iterator[tuple[str, bool]]:
    """DVC's targets that build everything, and whether it takes a GPU.

    A model's report is the target for all of its engines. Where one of them takes a GPU the report does, and what can
    be built without one is named by itself: the other engines, and the graph of this one. An entry that cannot be
    composed is named too, so that its stages fail with its error.
    """
    failed = [name for kind, name in composition.errors if kind == "models"]
    for model in [*composition.models, *failed]:
        engines = {name: one for name, one in composition.engines.items() if one["model_name"] == model}
        with_gpu = {name for name, one in engines.items() if one["engine"]["backend"] in gpu_backends}
        if with_gpu:
            for name in engines:
                yield (f"quantize@{name}" if name in with_gpu else f"verify@{name}"), False
        yield f"report@{model}", bool(with_gpu)
    yield from ((f"verify@{name}", False) for kind, name in composition.errors if kind == "engines")


def _known(names: str, root: Path) -> set[str]:
    """The backends named; raises UsageError for one that no plugin provides."""
    from qntz.plugins import load

    asked = {name for name in names.split(",") if name}
    backends = load(root, "engine").records("qntz_backends")
    for name in sorted(asked - {*backends}):
        raise UsageError(f"no backend {name!r}", where="--gpu-backends", do=did_you_mean(name, backends))
    return asked
