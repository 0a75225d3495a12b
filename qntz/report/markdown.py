"""The comparison of a model's engines as GitHub-flavoured Markdown, for the summary of a job or a note on a merge
request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from qntz.report.changes import Changes, changes_table, sentences
from qntz.report.gates import Gate, page_table
from qntz.report.run import EngineRun, Run
from qntz.report.tables import Cell, Table, findings
from qntz.report.verdict import SIGNS, verdict
from qntz.report.wording import NOT_MEASURED, decibel, fraction, many, milliseconds, size

MOST = 50  # findings; a summary ends at 1 MiB, and check.json has all of them
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")
_SEVERITIES = ("error", "warning", "note")


def render_markdown(run: Run, asked: Sequence[Gate] = (), changes: Changes | None = None) -> str:
    """A section with a heading: the verdict, the gates that do not hold, the engines, what was found, what changed.

    Args:
        run: what `gather` read. asked: the gates. changes: since a revision, None where none was named.
    """
    return "\n\n".join(_parts(run, asked, changes)) + "\n"


def markdown_table(table: Table) -> str:
    """A table with its pipes, figures to the right; what it says where it is empty."""
    if not table.rows:
        return escaped(table.empty)
    right = [all(row[at].kind in ("number", "absent") for row in table.rows) for at in range(len(table.columns))]
    lines = [
        [escaped(column) for column in table.columns],
        ["---:" if one else "---" for one in right],
        *([_cell(cell) for cell in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """The text as Markdown shows it: nothing in it is a mark, ends a cell, or calls a person by an @."""
    return _literal(" ".join(text.split()))


def prose(text: str) -> str:
    """A sentence of ours, in which backticks are what they look like; the rest `escaped`."""
    parts = re.split("`([^`]*)`", text)
    return "".join(code(part) if at % 2 else _literal(part) for at, part in enumerate(parts))


def _literal(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("@", "@&#8203;")


def code(text: str) -> str:
    """The text as code, in as many backticks as it takes; a pipe would end the cell even there."""
    text = " ".join(text.split()).replace("|", "\\|")
    if not text:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    padding = " " if text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _cell(cell: Cell) -> str:
    if cell.kind == "number":
        return escaped(cell.text).replace(" ", "\u00a0")  # a figure and its unit stay on one line
    return code(cell.text) if cell.kind == "code" else escaped(cell.text)


def _parts(run: Run, asked: Sequence[Gate], changes: Changes | None) -> Iterator[str]:
    yield f"## {escaped(run.model)}"
    yield _headline(run, asked)
    failed, held = [one for one in asked if not one.holds], [one for one in asked if one.holds]
    if failed:
        yield markdown_table(page_table(failed))
    if run.engines or run.missing:
        yield markdown_table(engines_table(run))
    if notes := list(_notes(run)):
        yield "  \n".join(map(escaped, notes))
    if held:
        yield _folded(f"{many(len(held), 'gate')} that {'holds' if len(held) == 1 else 'hold'}", page_table(held))
    yield from _findings(run)
    if changes is not None:
        yield f"### Against {code(changes.revision)}"
        if changes.changed:
            yield markdown_table(changes_table(changes))
        if told := list(sentences(changes)):
            yield "  \n".join(map(prose, told))


def _headline(run: Run, asked: Sequence[Gate]) -> str:
    if run.missing:
        return f"**{SIGNS['failed']} {escaped(unfinished(run))}**"
    told = verdict(run, [gate.holds for gate in asked])
    return " ".join([f"**{told.sign} {escaped(told.headline)}**", *map(escaped, told.sentences)])


def unfinished(run: Run) -> str:
    """What of the model is not built, as a sentence."""
    if "" in run.missing:
        return f"Not built: it stopped at {run.missing['']}."
    return f"{many(len(run.missing), 'engine')} not built: {', '.join(sorted(run.missing))}."


def engines_table(run: Run) -> Table:
    """The engines side by side, without the columns in which nothing was measured; those that are not built last."""
    metric = run.metric or "metric"
    heads = (
        "Engine",
        "Precision",
        "Backend",
        f"{metric}, eager",
        metric,
        "Agreement",
        "SQNR",
        "Size",
        "Latency",
        "Run",
    )
    rows = [_engine_row(engine, run) for engine in run.engines]
    kept = [at for at in range(len(heads)) if at in (0, 9) or any(row[at].kind != "absent" for row in rows)]
    for name, stage in sorted(run.missing.items()):
        if name:
            empty = [Cell("", "absent")] * (len(heads) - 2)
            rows.append((Cell(name), *empty, Cell(f"{SIGNS['failed']} not built: stopped at {stage}", "failed")))
    columns = tuple(heads[at] for at in kept)
    return Table("Engines", columns, tuple(tuple(row[at] for at in kept) for row in rows), "No engine is configured.")


def _engine_row(engine: EngineRun, run: Run) -> tuple[Cell, ...]:
    timing = run.timings.get(engine.name)
    was_run = Cell(f"{SIGNS['passed']} yes", "passed")
    if not engine.was_run:
        was_run = Cell(f"{SIGNS['skipped']} no", "skipped")
    return (
        Cell(engine.name),
        _known(engine.precision or ""),
        _known(str(engine.engine.get("backend", ""))),
        _figure(fraction(engine.figure(f"{run.metric}_eager"))),
        _figure(fraction(engine.figure(run.metric))),
        _figure(fraction(engine.figure("agreement"))),
        _figure(decibel(engine.figure("sqnr_db"))),
        _figure(size(engine.plan_bytes)),
        _figure(NOT_MEASURED if timing is None else milliseconds(timing.median_ms)),
        was_run,
    )


def _figure(text: str) -> Cell:
    return Cell("-", "absent") if text == NOT_MEASURED else Cell(text, "number")


def _known(text: str) -> Cell:
    return Cell(text) if text else Cell("-", "absent")


def _notes(run: Run) -> Iterator[str]:
    """Why engines were not run, and where the others were timed."""
    idle = {engine.name: engine.why_not_run for engine in run.engines if not engine.was_run}
    yield from _reasons("Not run", idle)
    if run.timings:
        yield f"Latency: the median on {run.timed_on}."
        names = {engine.name for engine in run.engines}
        untimed = {name: why for name, why in run.not_timed.items() if name in names and idle.get(name) != why}
        yield from _reasons("Not timed", untimed)


def _reasons(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    for why in dict.fromkeys(reasons.values()):
        yield f"{what}: {', '.join(name for name, one in reasons.items() if one == why)}: {why}."


def _findings(run: Run) -> Iterator[str]:
    """The table of findings, the gravest first; notes alone are folded up."""
    if "findings" not in run.check:
        return
    found = sorted(run.check["findings"], key=lambda one: _place(one.get("severity")))
    counts = Counter(one.get("severity") for one in found)
    told = ", ".join(many(counts[severity], severity) for severity in _SEVERITIES if counts[severity])
    if not told:
        yield "The check found nothing."
        return
    whole = findings(Run(run.model, {"findings": found[:MOST]}, {}, {}, {}, ()))
    table = Table(whole.caption, whole.columns[:4], tuple(row[:4] for row in whole.rows))
    if len(found) > MOST:
        more = f"{len(found) - MOST} more in build/models/{run.model}/check.json"
        table = Table(table.caption, table.columns, (*table.rows, (Cell("…"), Cell(""), Cell(""), Cell(more))))
    if counts["error"] or counts["warning"]:
        yield f"### Findings of the check: {told}"
        yield markdown_table(table)
    else:
        yield _folded(f"Findings of the check: {told}", table)


def _place(severity: object) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)


def _folded(summary: str, table: Table) -> str:
    """Opened by a click; the empty lines let the table in it be Markdown."""
    return f"<details><summary>{summary}</summary>\n\n{markdown_table(table)}\n\n</details>"
