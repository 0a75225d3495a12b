"""`qntz report` and `qntz targets`, as a user types them after `dvc repro`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow

ENGINE = "build/models/digits/engines/digits-int8"
TARGETS = """models: {digits: {}, rows: {}, early_exit: {torchscript: {use: scrpt}}}
engines:
  digits-int8: {model: digits, quantize: {use: int8}}
  digits-gpu: {model: digits, engine: {use: tensorrt, compute_capabilities: [sm90]}}
  rows-fp32: {model: rows}
  rows-bad: {model: rows, quantize: {use: int9}}
"""


def run(project: Project, *arguments: str) -> tuple[int, str, str]:
    done = project.run("python", "-m", "qntz.cli", *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_figures_of_metrics_json_stand_in_both_tables(small: Project) -> None:
    metrics = json.loads((small.path / ENGINE / "metrics.json").read_text())
    code, text, _ = run(small, "report")
    assert code == 0
    row = next(line for line in text.splitlines() if line.startswith("digits-int8 "))
    assert f"{metrics['sqnr_db']:.1f} dB" in row
    assert f"{metrics['accuracy']:.4f}" in row
    code, markdown, _ = run(small, "report", "digits", "--markdown")
    assert code == 0
    assert markdown.startswith("## digits\n")
    assert f" | {metrics['sqnr_db']:.1f}\u00a0dB | " in markdown
    code, quality, _ = run(small, "report", "--code-quality")
    assert (code, json.loads(quality)) == (0, [])


def test_what_stands_against_a_revision(small: Project) -> None:
    """HEAD has the default params.yaml, and no dvc.lock."""
    code, text, _ = run(small, "report", "--markdown", "--against", "HEAD")
    assert code == 0
    head = text.index("### Against `HEAD`\n")
    assert text[head:].splitlines()[2:] == [
        "Gone: digits-fp16, digits-fp32.  ", "Not compared: digits-int8: not in the dvc.lock of HEAD.", "",
        "Gone: early\\_exit, rows.",
    ]  # fmt: skip


def test_metrics_that_are_not_in_the_cache(small: Project, tmp_path: Path) -> None:
    clone = Project(tmp_path / "clone")
    assert small.run("git", "clone", "-q", ".", str(clone.path)).returncode == 0
    for name in ("params.yaml", "dvc.lock"):
        (clone.path / name).write_bytes((small.path / name).read_bytes())
    assert clone.run("git", "add", "-A").returncode == 0
    assert (
        clone.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "built").returncode
        == 0
    )
    code, text, _ = run(clone, "report", "digits", "--markdown", "--allow-missing", "--against", "HEAD")
    assert code == 0
    assert text.splitlines()[-1] == (
        "Not compared: digits-int8: the metrics are neither in DVC's cache nor in its remote; run `dvc push` where they"
        " were built, then `dvc fetch --all-branches` here."
    )


def commit(project: Project) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("add", "-A"), (*identity, "commit", "-q", "-m", "another")):
        assert project.run("git", *command).returncode == 0


def test_metrics_of_the_projects_own_that_the_revision_does_not_have(empty_project: Project) -> None:
    own = "stages:\n  own:\n    cmd: python -V\n    metrics:\n      - own.json: {cache: false}\n"
    empty_project.edit("dvc.yaml", "stages:\n", own)
    commit(empty_project)
    code, text, said = run(empty_project, "report", "rows", "--allow-missing", "--against", "HEAD")
    assert (code, said) == (0, "")
    assert text.splitlines()[-1] == "against HEAD: Not compared: rows-fp16, rows-int8: not in the dvc.lock of HEAD."


def test_a_revision_whose_pipeline_cannot_be_read(empty_project: Project) -> None:
    """What there is now is told all the same where it is asked for what there is."""
    whole = (empty_project.path / "dvc.yaml").read_text()
    told = (
        "--against HEAD: cannot be compared: YAMLSyntaxError: unable to read: 'dvc.yaml', YAML file structure is"
        " corrupted. Mend that file, or compare with another revision.\n"
    )
    for broken_is in ("there", "here"):
        (empty_project.path / "dvc.yaml").write_text("stages: [\n" if broken_is == "there" else whole)
        commit(empty_project)
        (empty_project.path / "dvc.yaml").write_text(whole if broken_is == "there" else "stages: [\n")
        assert run(empty_project, "report", "rows", "--against", "HEAD")[:2] == (1, "")
        for more in ((), ("--markdown",)):
            code, text, said = run(empty_project, "report", "rows", "--allow-missing", "--against", "HEAD", *more)
            assert (code, said) == (0, "")
            assert "it stopped at check." in text
            assert text.endswith(f"\n{told}")
            assert "No figure differs" not in text
    code, out, said = run(empty_project, "report", "rows", "--allow-missing", "--against", "nonesuch")
    assert (code, out, said.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("report", "digit"), 1, "error: report: params.yaml: no model 'digit'. Did you mean 'digits'?\n"),
        (
            ("report", "--against", "nonesuch"),
            1,
            "error: report: --against: no revision 'nonesuch'. Where the clone is",
        ),
        (("report", "--against", ""), 1, "error: report: --against: no revision ''."),
        (("report", "--against", "--all"), 2, "--against: expected one argument"),
        (("report", "--against=--all"), 1, "error: report: --against: no revision '--all'."),
        (("report", "--against", "HEAD:dvc.yaml"), 1, "error: report: --against: no revision 'HEAD:dvc.yaml'."),
        (
            ("report", "--code-quality", "--against", "HEAD"),
            2,
            "error: report: a Code Quality report tells of no other",
        ),
        (("report", "--markdown", "--code-quality"), 2, "not allowed with argument --markdown"),
        (("targets", "--gpu-backends", "tensort"), 2, "--gpu-backends: no backend 'tensort'. Did you mean 'tensorrt'?"),
        (("targets", "--gpu", "--no-gpu"), 2, "not allowed with argument --gpu"),
        (("targets", "digits"), 2, "unrecognized arguments: digits"),
    ],
)
def test_refusals(small: Project, arguments: tuple[str, ...], code: int, message: str) -> None:
    got, out, said = run(small, *arguments)
    assert message in said
    assert (got, out) == (code, "")


def test_what_is_missing_or_damaged_is_one_line(small: Project) -> None:
    for name, text, message in (
        (f"{ENGINE}/metrics.json", None, f"error: report: {ENGINE}/metrics.json: is missing. Run `dvc repro`.\n"),
        (f"{ENGINE}/metrics.json", "{", f"error: report: {ENGINE}/metrics.json: is damaged: "),
        (
            "build/models/digits/check.json",
            '{"findings": [1]}',
            "error: report: build/models/digits/check.json: is dam",
        ),
        ("build/reports/digits.json", "{}", "error: report: build/reports/digits.json: is damaged: KeyError"),
        (f"{ENGINE}/model.engine", "x", f"error: report: {ENGINE}/model.engine: is not the engine that engine.json"),
    ):
        path = small.path / name
        held = path.read_bytes()
        path.unlink()
        try:
            if text is not None:
                path.write_text(text)
            for more in ((), ("--markdown",)) if text is None else ((), ("--markdown", "--allow-missing")):
                code, out, said = run(small, "report", *more)
                assert (code, out, said.count("\n")) == (1, "", 1)
                assert said.startswith(message)
            if text is None:
                code, out, _ = run(small, "report", "--markdown", "--allow-missing")
                assert (code, "✕ not built: stopped at verify" in out) == (0, True)
        finally:
            path.unlink(missing_ok=True)
            path.write_bytes(held)


def test_outside_of_a_project(tmp_path: Path) -> None:
    for command in ("report", "targets"):
        code, out, said = run(Project(tmp_path), command)
        assert (code, out, said) == (1, "", f"error: {command}: params.yaml: is missing.\n")


def test_targets_are_told_apart_by_the_backend(empty_project: Project) -> None:
    """An entry that cannot be composed is named, so that DVC runs into its error."""
    empty_project.params(TARGETS)
    code, without, _ = run(empty_project, "targets", "--no-gpu")
    assert code == 0
    assert without.split() == [
        "verify@digits-int8", "quantize@digits-gpu", "report@rows", "report@early_exit", "verify@rows-bad",
    ]  # fmt: skip
    assert run(empty_project, "targets", "--gpu") == (0, "report@digits\n", "")
    both = run(empty_project, "targets", "--gpu", "--gpu-backends", "tensorrt,tensorrt_rtx")[1]
    assert both.split() == ["report@digits", "report@rows"]
    assert run(empty_project, "targets")[1].split() == [*without.split()[:2], "report@digits", *without.split()[2:]]
    empty_project.params(TARGETS.replace("tensorrt, compute_capabilities: [sm90]}", "onnxruntime}"))
    assert run(empty_project, "targets", "--gpu") == (0, "", "")
    said = run(empty_project, "report")
    assert said[:2] == (1, "")
    assert said[2].startswith(
        "error: report: params.yaml: models.early_exit.torchscript.use: no conf/torchscript/scrpt"
    )
    told = run(empty_project, "report", "--markdown", "--allow-missing")
    assert (told[0], told[1].count("\n- params.yaml: ")) == (0, 2)
    assert (
        run(empty_project, "report", "digits", "--allow-missing")[1].splitlines()[-1]
        == "Not built: it stopped at check."
    )
