"""`qntz doctor`: versions, machine, backends and project, for one's own eyes and for a bug report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qntz.doctor import Finding

WIDEST = 100
MARKS = {"ok": "", "note": "note", "broken": "BROKEN"}


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed, which backends work here, and whether the project is in order",
        description="Exit code 0 where a default pipeline can work here, 1 where something that it needs is broken.",
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what is found; returns the exit code, 1 where something essential is broken."""
    from qntz.doctor import findings

    found = []
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    section = ""
    for one in findings(Path.cwd()):
        found.append(one)
        if options.json:
            continue
        if one.section != section:
            print(f"{chr(10) if section else ''}{one.section}")
            section = one.section
        print("\n".join(_lines(one, width)), flush=True)
    broken = [one for one in found if one.state == "broken"]
    if options.json:
        told = {"broken": len(broken), "findings": [dataclasses.asdict(one) for one in found]}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print("\n" + textwrap.fill(_verdict(broken), width, break_on_hyphens=False))
    return 1 if broken else 0


def _lines(one: Finding, width: int) -> Sequence[str]:
    """A finding: its mark, its name, and what was found, with what to do below it where it is not in order."""
    head = f"{MARKS[one.state]:6}  {one.name:14}  "
    inner = max(width - len(head), 40)
    said = f"{one.value.rstrip('.')}. {one.do}" if one.do else one.value
    first, *rest = textwrap.wrap(said, inner, break_on_hyphens=False) or [""]
    return [f"{head}{first}".rstrip(), *(" " * len(head) + line for line in rest)]


def _verdict(broken: Iterable[Finding]) -> str:
    names = [one.name for one in broken]
    if not names:
        return "A default pipeline can work here."
    return f"{len(names)} broken: {', '.join(dict.fromkeys(names))}."
