"""The report as terminal text, in the manner of ruff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qntz.check.report import CheckReport, summary_line
from qntz.records import Finding, Rule

CONTEXT = 1  # lines shown above and below


def render(report: CheckReport, rules: Sequence[Rule] = (), source_root: Path | None = None) -> str:
    """Each finding with its line and a caret, the calls that lead to it, why it matters and what to do; notes in one
    line each; at the end the failure to run, if any, and the summary line. No colours.

    Args:
        rules: for codes, reasons and fixes. source_root: where sources are read from that the report does not hold.
    """
    by_slug = {rule.slug: rule for rule in rules}
    telling = (*report.errors, *report.warnings)
    blocks = [
        _block(report, finding, by_slug.get(finding.slug), source_root)
        for finding in report.findings
        if finding in telling
    ]
    if report.notes:
        blocks.append("\n".join(f"{_head(finding, by_slug.get(finding.slug))} (note)" for finding in report.notes))
    if report.failure:
        blocks.append(f"The model did not run: {report.failure}")
    blocks.append(summary_line(report))
    return "\n\n".join(blocks) + "\n"


def _block(report: CheckReport, finding: Finding, rule: Rule | None, source_root: Path | None) -> str:
    lines = [_head(finding, rule), *_frame(report, finding, source_root)]
    lines.append(f"  = {finding.severity}, evidence: {finding.evidence}")
    lines += [f"  = {'via' if i == 0 else '   '}: {step}" for i, step in enumerate(finding.chain)]
    if rule is not None:
        lines += [f"  = why: {rule.why}", f"  = fix: {rule.fix}"]
    return "\n".join(lines)


def _head(finding: Finding, rule: Rule | None) -> str:
    place = ":".join([finding.path, *(str(number) for number in (finding.line, finding.column) if number)])
    name = f"{rule.code} {finding.slug}" if rule is not None else finding.slug
    return f"{place} {name} {finding.message}"


def _frame(report: CheckReport, finding: Finding, source_root: Path | None) -> list[str]:
    if finding.line < 1:
        return []
    source = report.sources.get(finding.path) or _read(finding.path, source_root)
    if finding.line > len(source):
        return []
    first, last = max(1, finding.line - CONTEXT), min(len(source), finding.line + CONTEXT)
    width = len(str(last))
    rows = [" " * width + " |"]
    for number in range(first, last + 1):
        rows.append(f"{number:>{width}} | {source[number - 1]}".rstrip())
        if number == finding.line and finding.column > 0:
            before = source[number - 1][: finding.column - 1]
            indent = "".join(character if character == "\t" else " " for character in before)
            rows.append(f"{'':>{width}} | {indent}^ {finding.slug}")
    return rows


def _read(path: str, source_root: Path | None) -> Sequence[str]:
    file = source_root / path if source_root is not None else None
    return file.read_text(encoding="utf-8", errors="replace").split("\n") if file is not None and file.is_file() else ()
