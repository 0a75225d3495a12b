"""The report as SARIF 2.1.0 (https://docs.oasis-open.org/sarif/sarif/v2.1.0/), which code hosts show at the code."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import qntz
from qntz.check.report import CheckReport
from qntz.records import Finding, Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT = "SRCROOT"


def as_sarif(report: CheckReport, rules: Sequence[Rule], category: str = "") -> dict[str, Any]:
    """One run with its rules and results. Paths are relative to `SRCROOT`; `partialFingerprints` rest on the rule, the
    path and the line's text, so that a finding keeps its identity when lines are added above it.

    Args:
        category: of the run (`automationDetails`), by which a code host keeps the runs of several models apart.
    """
    ordered = sorted(rules, key=lambda rule: rule.code)
    numbers = {rule.slug: number for number, rule in enumerate(ordered)}
    seen: Counter[str] = Counter()
    results = []
    for finding in report.findings:
        identity = "\0".join((finding.slug, finding.path, report.line_of(finding).strip() or finding.message))
        seen[identity] += 1  # the same line twice in a file
        digest = hashlib.sha256(f"{identity}\0{seen[identity]}".encode()).hexdigest()[:32]
        results.append(_result(report, finding, ordered, numbers) | {"partialFingerprints": {"qntz/v1": digest}})
    driver = {
        "name": "qntz",
        "version": qntz.__version__,
        "semanticVersion": qntz.__version__,
        "rules": [_rule(rule) for rule in ordered],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {ROOT: {"description": {"text": "the project's root"}}},
        "results": results,
    }
    if category:
        run["automationDetails"] = {"id": f"{category}/"}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    described = {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.slug.split("-")),
        "shortDescription": {"text": rule.what},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"slug": rule.slug, "routes": list(rule.routes)},
    }
    return described | ({"helpUri": rule.link} if rule.link else {})


def _result(report: CheckReport, finding: Finding, rules: Sequence[Rule], numbers: dict[str, int]) -> dict[str, Any]:
    number = numbers.get(finding.slug)
    result: dict[str, Any] = {
        "ruleId": finding.slug if number is None else rules[number].code,
        "level": finding.severity,
        "message": {"text": finding.message},
        "locations": [_location(finding.path, finding.line, finding.column, report.line_of(finding))],
        "properties": {"evidence": finding.evidence, "slug": finding.slug},
    }
    if number is not None:
        result["ruleIndex"] = number
    if finding.chain:
        steps = [{"location": _step(step)} for step in finding.chain]
        result["codeFlows"] = [{"threadFlows": [{"locations": steps}]}]
    return result


def _location(path: str, line: int, column: int = 0, text: str = "") -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(path), "uriBaseId": ROOT}}
    if line > 0:
        region: dict[str, Any] = {"startLine": line}
        if column > 0:
            region["startColumn"] = column
        if text:
            region["snippet"] = {"text": text}
        physical["region"] = region
    return {"physicalLocation": physical}


def _step(step: str) -> dict[str, Any]:
    """A step of a chain, "path:line in function", as a location."""
    place, _, _ = step.rpartition(" in ")
    path, _, line = place.rpartition(":")
    located = _location(path, int(line)) if path and line.isdigit() else {}
    return located | {"message": {"text": step}}
