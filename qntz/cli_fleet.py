"""`qntz report --fleet`: all engines on one page, and in one table of Markdown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE, MARKDOWN = "fleet.html", "fleet.md"


def run(root: Path) -> int:
    """Writes build/fleet.html and build/fleet.md; returns the exit code."""
    from qntz.artifacts import BUILD, write_together
    from qntz.bench import machine
    from qntz.report.fleet_page import fleet_markdown, render_fleet

    found = list(rows(root))
    told = {"Told on": time.strftime("%Y-%m-%d %H:%M"), "Machine": machine()}
    page = render_fleet(found, told).encode()
    write_together({root / BUILD / PAGE: page, root / BUILD / MARKDOWN: fleet_markdown(found).encode()})
    print(f"{len(found)} engines: {BUILD / PAGE}, {BUILD / MARKDOWN}")
    return 0


def rows(root: Path) -> Iterator[dict[str, Any]]:
    """Of each engine of params.yaml how it stands, its figures where it is up to date (else they are of another one),
    and for how long it has been here."""
    from qntz.artifacts import ModelPaths
    from qntz.compose import PARAMS, composed_entries, read_params
    from qntz.errors import ArtifactError
    from qntz.fleet.plan import plan
    from qntz.fleet.standing import CURRENT, standings
    from qntz.report.fleet import COLUMNS, row

    params, composition = read_params(root / PARAMS), composed_entries(root)
    found = plan(root, composition, params, (), every=False)
    now = time.time()
    for one in standings(found, composition, params):
        plan_file = ModelPaths(root, one.model or "_").engine(one.engine).plan
        since = plan_file.stat().st_mtime if plan_file.is_file() else None
        figures, why = dict.fromkeys(COLUMNS), one.why
        if one.state == CURRENT:
            try:
                figures = row(root, one.model, one.engine)
            except ArtifactError as error:  # as of a report of another time
                why = (*why, str(error))
        mine = {"engine": one.engine, "model": one.model, "state": one.state, "why": why}
        yield {**figures, **mine, "age": None if since is None else now - since}
