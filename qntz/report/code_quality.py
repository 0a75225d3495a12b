"""Findings of the check as GitLab's Code Quality report
(https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format), which merge requests show at the code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

SEVERITIES = {"error": "major", "warning": "minor", "note": "info"}
NOWHERE = "params.yaml"  # GitLab wants a file; where a finding has none, that which names the model


def code_quality(model: str, sarif: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """An entry for each result of a model's check.sarif. The fingerprint rests on SARIF's, which stays where lines are
    added above, and on the model, since two of them may share a file.

    Raises:
        KeyError, IndexError, TypeError, ValueError: the SARIF is none of qntz.
    """
    for run in sarif["runs"]:
        for result in run["results"]:
            physical = result["locations"][0]["physicalLocation"]
            print_of = f"{model}\0{result['partialFingerprints']['qntz/v1']}"
            yield {
                "description": f"{model}: {result['message']['text']}",
                "check_name": f"{result['ruleId']} {result['properties']['slug']}",
                "fingerprint": hashlib.sha256(print_of.encode()).hexdigest()[:32],
                "severity": SEVERITIES[result["level"]],
                "location": {
                    "path": unquote(physical["artifactLocation"]["uri"]) or NOWHERE,
                    "lines": {"begin": physical.get("region", {}).get("startLine", 1)},
                },
            }
