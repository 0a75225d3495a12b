"""The report as workflow commands of GitHub Actions, which show each finding at its line in a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from qntz.check.report import CheckReport
from qntz.records import Rule

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def as_github(report: CheckReport, rules: Sequence[Rule]) -> str:
    """One line a finding: `::error file=net.py,line=7,col=3,title=QZ002 numpy-in-forward::message`."""
    codes = {rule.slug: rule.code for rule in rules}
    lines = []
    for finding in report.findings:
        title = f"{codes.get(finding.slug, '')} {finding.slug}".strip()
        place = {"file": finding.path, "line": finding.line, "col": finding.column, "title": title}
        told = ",".join(f"{key}={_property(str(value))}" for key, value in place.items() if value)
        lines.append(f"::{_LEVELS[finding.severity]} {told}::{_data(finding.message)}")
    return "\n".join(lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
