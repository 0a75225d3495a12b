"""The report of a check, and its forms: JSON with lines, and the verdict, which later stages depend on, without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qntz.records import Finding

SCHEMA = 1


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        findings: sorted by path, line, column and slug. failure: why the model could not be run, where an error-level
        finding stands for it, else "". sources: the lines of each file with a finding, by its path.
    """

    findings: tuple[Finding, ...] = ()
    failure: str = ""
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return self._of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return self._of("warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        return self._of("note")

    def line_of(self, finding: Finding) -> str:
        """The source line of a finding; "" where there is none."""
        lines = self.sources.get(finding.path, ())
        return lines[finding.line - 1] if 0 < finding.line <= len(lines) else ""

    def _of(self, severity: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)


def as_json(report: CheckReport) -> dict[str, Any]:
    """The report as plain data.

    Returns:
        {"schema": 1, "errors": count, "warnings": count, "notes": count, "failure": text or "",
        "findings": [{"slug", "severity", "path", "line", "column", "message", "evidence", "chain": [text], "source":
        the line's text}]}, findings in the report's order; line and column are 1-based, 0 where there is none.
    """
    findings = [
        {
            "slug": finding.slug,
            "severity": finding.severity,
            "path": finding.path,
            "line": finding.line,
            "column": finding.column,
            "message": finding.message,
            "evidence": finding.evidence,
            "chain": list(finding.chain),
            "source": report.line_of(finding),
        }
        for finding in report.findings
    ]
    return {"schema": SCHEMA, **_counts(report), "failure": report.failure, "findings": findings}


def verdict(report: CheckReport) -> dict[str, Any]:
    """What later stages depend on: which rules found something, how severe and how often; no path and no line, so that
    code which moves rebuilds nothing.

    Returns:
        {"schema": 1, "errors": count, "warnings": count, "notes": count, "rules": [{"slug", "severity", "count"}]},
        sorted by slug and severity.
    """
    counts = Counter((finding.slug, finding.severity) for finding in report.findings)
    found = [{"slug": slug, "severity": severity, "count": count} for (slug, severity), count in sorted(counts.items())]
    return {"schema": SCHEMA, **_counts(report), "rules": found}


def summary_line(report: CheckReport) -> str:
    """The counts in words: "2 errors, 1 warning, no notes"."""
    parts = (("error", report.errors), ("warning", report.warnings), ("note", report.notes))
    return ", ".join(f"{len(found) or 'no'} {word}{'' if len(found) == 1 else 's'}" for word, found in parts)


def _counts(report: CheckReport) -> dict[str, int]:
    return {"errors": len(report.errors), "warnings": len(report.warnings), "notes": len(report.notes)}
