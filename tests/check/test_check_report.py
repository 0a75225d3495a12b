"""The forms of a report: JSON, verdict, SARIF and terminal text."""

import json

import pytest

from qntz.check import CheckReport, as_json, as_sarif, render, summary_line, verdict
from qntz.records import Finding

SOURCE = ("import numpy as np", "", "class Net:", "    def forward(self, x):", "\treturn np.sin(x)", "")


@pytest.fixture
def report():
    findings = (
        Finding("numpy-in-forward", "error", "a b/net.py", 5, 9, "numpy.sin reads", "observed run",
                ("a b/net.py:5 in Net.forward",)),
        Finding("acme", "warning", "a b/net.py", 0, 0, "a house rule", "live object"),
    )  # fmt: skip
    return CheckReport(findings, "", {"a b/net.py": SOURCE})


def moved(report, lines):
    """The same findings in a file that has so many lines more at its top."""
    findings = [Finding(**{**vars(f), "line": f.line + lines if f.line else 0}) for f in report.findings]
    return CheckReport(tuple(findings), "", {"a b/net.py": ("#",) * lines + SOURCE})


def test_summary_counts_in_words(report):
    assert summary_line(report) == "1 error, 1 warning, no notes"
    assert summary_line(CheckReport()) == "no errors, no warnings, no notes"
    assert (report.errors, report.warnings, report.notes) == (report.findings[:1], report.findings[1:], ())


def test_json_is_plain_and_whole(report):
    data = as_json(report)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["errors"], data["warnings"], data["notes"]) == (1, 1, 0)
    assert data["findings"][0] == {
        "slug": "numpy-in-forward",
        "severity": "error",
        "path": "a b/net.py",
        "line": 5,
        "column": 9,
        "message": "numpy.sin reads",
        "evidence": "observed run",
        "chain": ["a b/net.py:5 in Net.forward"],
        "source": "\treturn np.sin(x)",
    }


def test_verdict_has_neither_path_nor_line_and_does_not_move(report):
    assert verdict(report) == {
        "schema": 1,
        "errors": 1,
        "warnings": 1,
        "notes": 0,
        "rules": [
            {"slug": "acme", "severity": "warning", "count": 1},
            {"slug": "numpy-in-forward", "severity": "error", "count": 1},
        ],
    }
    assert verdict(moved(report, 7)) == verdict(report)


def test_sarif_has_what_the_standard_requires(report, rules):
    sarif = as_sarif(report, rules)
    assert json.loads(json.dumps(sarif)) == sarif
    assert sarif["version"] == "2.1.0"
    assert sarif["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = sarif["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "qntz"
    assert [rule["id"] for rule in driver["rules"]] == [f"QZ{n:03}" for n in range(len(rules))]
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    known, house = run["results"]
    assert (known["ruleId"], known["ruleIndex"], known["level"]) == ("QZ002", 2, "error")
    assert driver["rules"][known["ruleIndex"]]["id"] == known["ruleId"]
    assert known["message"] == {"text": "numpy.sin reads"}
    assert known["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "a%20b/net.py", "uriBaseId": "SRCROOT"},
                "region": {"startLine": 5, "startColumn": 9, "snippet": {"text": "\treturn np.sin(x)"}},
            }
        }
    ]
    (step,) = known["codeFlows"][0]["threadFlows"][0]["locations"]
    assert step["location"]["physicalLocation"]["region"] == {"startLine": 5}
    assert step["location"]["message"] == {"text": "a b/net.py:5 in Net.forward"}
    assert (house["ruleId"], house["level"]) == ("acme", "warning")  # its rule was not given
    assert "ruleIndex" not in house
    assert "region" not in house["locations"][0]["physicalLocation"]


def test_sarif_of_a_model_has_its_category(report, rules):
    """Without which code scanning refuses two models' runs in one upload."""
    assert "automationDetails" not in as_sarif(report, rules)["runs"][0]
    assert as_sarif(report, rules, "qntz/digits")["runs"][0]["automationDetails"] == {"id": "qntz/digits/"}


def test_sarif_fingerprints_stay_when_lines_move_and_tell_equal_lines_apart(report, rules):
    def prints(some):
        return [result["partialFingerprints"]["qntz/v1"] for result in as_sarif(some, rules)["runs"][0]["results"]]

    assert prints(moved(report, 7)) == prints(report)
    twice = CheckReport(report.findings[:1] * 2, "", report.sources)
    assert len(set(prints(twice))) == 2


def test_terminal_text_shows_the_line_the_calls_and_the_mend(report, rules):
    text = render(report, rules)
    why, fix = next((rule.why, rule.fix) for rule in rules if rule.slug == "numpy-in-forward")
    assert text == (
        "a b/net.py:5:9 QZ002 numpy-in-forward numpy.sin reads\n"
        "  |\n"
        "4 |     def forward(self, x):\n"
        "5 | \treturn np.sin(x)\n"
        "  | \t       ^ numpy-in-forward\n"
        "6 |\n"
        "  = error, evidence: observed run\n"
        "  = via: a b/net.py:5 in Net.forward\n"
        f"  = why: {why}\n"
        f"  = fix: {fix}\n"
        "\n"
        "a b/net.py acme a house rule\n"
        "  = warning, evidence: live object\n"
        "\n"
        "1 error, 1 warning, no notes\n"
    )


def test_terminal_text_reads_the_source_where_the_report_lacks_it(report, tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "net.py").write_text("\n".join(SOURCE))
    bare = CheckReport(report.findings)
    assert "np.sin(x)" not in render(bare)
    assert "5 | \treturn np.sin(x)\n" in render(bare, source_root=tmp_path)


def test_a_failure_to_run_is_told():
    text = render(CheckReport(failure="net.py:3: it stopped."))
    assert text == "The model did not run: net.py:3: it stopped.\n\nno errors, no warnings, no notes\n"
