"""`qntz plugins` lists what is installed, from where, for which hooks; `qntz plugins test` tests the rewrites."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from qntz.config import OPSET, WHY_OPSETS, known_opset
from qntz.errors import ConfigError, UsageError, did_you_mean


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    plugins = commands.add_parser("plugins", help="list the plugins, or test their rewrites")
    plugins.add_argument("action", nargs="?", choices=("list", "test"), default="list")
    plugins.add_argument("names", nargs="*", metavar="NAME", help="of rewrites to test (default: all)")
    plugins.add_argument("--opset", type=int, default=OPSET, help=f"of the ONNX export (default: {OPSET})")
    plugins.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Lists or tests; returns the exit code, 1 where a rewrite is not right, or one that was named is not tested."""
    from qntz.plugins import load

    try:
        known_opset(options.opset, "--opset", why=WHY_OPSETS)
    except ConfigError as error:
        raise UsageError(error.what, where=error.where, why=error.why, do=error.do) from error
    root = Path.cwd()
    sys.path.insert(0, str(root))
    plugins = load(root)
    if options.action == "test":
        return _test(plugins, options.names, options.opset)
    if options.names:
        raise UsageError("names are for `qntz plugins test`", where=" ".join(options.names))
    for provider, told in sorted(plugins.by_provider(options.opset).items()):
        print(f"{provider}  ({told.pop('')})")
        for hook, names in told.items():
            print(f"  {hook}: {', '.join(names)}" if names else f"  {hook}")
    return 0


def _test(plugins: Any, names: list[str], opset: int) -> int:
    from qntz.selftest import outcomes, records

    known = [provided.record.name for _, provided in records(plugins, opset)]
    for name in names:
        if name not in known:
            raise UsageError(f"no rewrite {name!r}", do=did_you_mean(name, known))
    counts: dict[str, int] = {}
    warnings.simplefilter("ignore")  # torch's, of every trace; what they warn of is compared
    for one in outcomes(plugins, names, opset):
        counts[one.state] = counts.get(one.state, 0) + 1
        told = one.told
        if one.state == "right":
            told = f"fired {one.fired} times, error {one.error:.2g}; without it {one.without}"
        print(f"{one.state:8} {one.kind:11} {one.name}  ({one.provider})  {told}".rstrip(), flush=True)
    print(", ".join(f"{count} {state}" for state, count in counts.items()) or "no rewrite")
    return 1 if counts.get("wrong") or (names and counts.keys() != {"right"}) else 0
