"""What a stage's key holds: each input changes it, a comment does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qntz.compose import compose


def inputs(project: Path) -> dict[tuple[str, str], dict]:
    result = compose(project)
    assert not result.errors
    entries = {**result.models, **result.engines}
    return {(name, stage): section for name, entry in entries.items() for stage, section in entry["inputs"].items()}


def changed(project: Path, edit: Callable[[Path], None]) -> set[tuple[str, str]]:
    before = inputs(project)
    edit(project)
    after = inputs(project)
    return {key for key in before if before[key] != after[key]}


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        text = (project / path).read_text()
        assert old in text
        (project / path).write_text(text.replace(old, new, 1))

    return edit


def append(path: str, text: str) -> Callable[[Path], None]:
    return lambda project: (project / path).open("a").write(text)


MODELS = ("digits", "rows", "early_exit")
ENGINES = ("digits-fp32", "digits-fp16", "digits-int8", "rows-fp16", "rows-int8", "early_exit-fp32")


def test_a_line_of_a_models_source(project: Path) -> None:
    edit = append("examples/digits/model.py", "\nEXTRA = 1\n")
    assert changed(project, edit) == {("digits", "check"), ("digits", "torchscript")}


def test_a_comment_in_a_models_source_reaches_the_check_alone(project: Path) -> None:
    assert changed(project, append("examples/digits/model.py", "\n# a remark\n")) == {("digits", "check")}


def test_a_docstring_of_the_tool_reaches_nothing(project: Path) -> None:
    assert changed(project, replace("qntz/simplify.py", '"""Simplifies an', '"""Simplifies some')) == set()


def test_a_line_of_one_stages_module(project: Path) -> None:
    edit = append("qntz/simplify.py", "\nEXTRA = 1\n")
    assert changed(project, edit) == {(m, "simplify") for m in MODELS}


def test_a_module_that_every_stage_imports(project: Path) -> None:
    every = {(m, s) for m in MODELS for s in ("check", "torchscript", "export", "simplify", "calibrate", "report")}
    every |= {(e, s) for e in ENGINES for s in ("quantize", "engine", "verify")}
    assert changed(project, append("qntz/errors.py", "\nEXTRA = 1\n")) == every


def test_a_template_of_the_report(project: Path) -> None:
    templates = sorted((project / "qntz/report/templates").iterdir())
    edit = append(str(templates[0].relative_to(project)), "\n")
    assert changed(project, edit) == {(m, "report") for m in MODELS}


def test_a_plugin_reaches_the_stages_of_its_hooks(project: Path) -> None:
    edit = replace("plugins/complex_rotary.py", "tolerance=1e-5", "tolerance=2e-5")
    assert changed(project, edit) == {(m, "torchscript") for m in MODELS}


def test_what_a_plugin_imports_counts_too(project: Path) -> None:
    (project / "plugins/_angles.py").write_text("LIMIT = 1\n")
    (project / "plugins/angles.py").write_text(
        "from qntz import hookimpl\nfrom plugins._angles import LIMIT\n\n@hookimpl\ndef qntz_metrics():\n    return []\n"
    )
    edit = replace("plugins/_angles.py", "LIMIT = 1", "LIMIT = 2")
    wanted = {(m, "torchscript") for m in MODELS} | {(e, s) for e in ENGINES for s in ("quantize", "verify")}
    assert changed(project, edit) == wanted


def test_calibration_data(project: Path) -> None:
    def edit(project: Path) -> None:
        path = project / "examples/rows/data/train.npz"
        path.write_bytes(path.read_bytes() + b"\0")

    assert changed(project, edit) == {("rows", "calibrate")}


def test_test_data(project: Path) -> None:
    def edit(project: Path) -> None:
        path = project / "examples/rows/data/test.npz"
        path.write_bytes(path.read_bytes() + b"\0")

    wanted = {("rows", "torchscript")} | {(e, s) for e in ("rows-fp16", "rows-int8") for s in ("quantize", "verify")}
    assert changed(project, edit) == wanted


def test_a_module_that_the_model_imports_in_a_function(project: Path) -> None:
    (project / "layers.py").write_text("def scale():\n    return 1\n")
    edit = append("examples/digits/model.py", "\ndef late():\n    from layers import scale\n    return scale()\n")
    edit(project)
    edit = replace("layers.py", "return 1", "return 2")
    assert changed(project, edit) == {("digits", "check"), ("digits", "torchscript")}


def test_extra_inputs(project: Path) -> None:
    (project / "table.txt").write_text("1")
    (project / "conf/model/digits.yaml").open("a").write("extra_inputs: ['*.txt']\n")
    assert changed(project, lambda p: (p / "table.txt").write_text("2")) == {
        ("digits", "check"),
        ("digits", "torchscript"),
    }


@pytest.mark.parametrize(
    "edit",
    [
        append("README.md", "more"),
        append("examples/digits/train.py", "\nEXTRA = 1\n"),
        append("tests.py", "x = 1\n"),
        append("stages/compose.py", "\nEXTRA = 1\n"),
        append("params.yaml", "\n# a remark\n"),
        append("conf/export/default.yaml", "\n# a remark\n"),
    ],
    ids=["readme", "training", "a-test", "compose-stage", "params-comment", "conf-comment"],
)
def test_what_no_stage_depends_on(project: Path, edit: Callable[[Path], None]) -> None:
    (project / "README.md").write_text("read me")
    assert changed(project, edit) == set()


def test_another_place_and_touching_change_nothing(project: Path, tmp_path_factory) -> None:
    import os
    import shutil

    before = inputs(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "deep" / "er"
    shutil.copytree(project, elsewhere, ignore=shutil.ignore_patterns("build"))
    for path in elsewhere.rglob("*"):
        os.utime(path)
    assert inputs(elsewhere) == before


def test_a_tools_version(project: Path, tmp_path: Path, monkeypatch) -> None:
    """Another version of a distribution, first on the path, is another key for the stages that import it."""
    import sys

    before = inputs(project)
    other = tmp_path / "site" / "onnxsim-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxsim\nVersion: 99.0\n")
    (other / "RECORD").write_text("onnxsim/__init__.py,,\n")
    monkeypatch.setattr(sys, "path", [str(other.parent), *sys.path])
    after = inputs(project)
    assert {key for key in before if before[key] != after[key]} == {(m, "simplify") for m in MODELS}
    assert after["digits", "simplify"]["tools"]["onnxsim"] == "99.0"
