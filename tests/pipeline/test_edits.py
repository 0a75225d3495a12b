"""One edit at a time over the default set: exactly the stages that depend on it run, by a real `dvc repro`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qntz.artifacts import write_npz
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow

MODELS = ("digits", "rows", "early_exit")
DIGITS = ("digits-fp32", "digits-fp16", "digits-int8")


@pytest.fixture(scope="module")
def project(default: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The default set in a copy of its own, cache included; the edits of this module follow one another in it."""
    path = tmp_path_factory.mktemp("edited") / "project"
    shutil.copytree(default.path, path, symlinks=True)
    project = Project(path)
    assert project.repro() == set()  # a moved checkout runs nothing
    return project


def of(entries: tuple[str, ...], *stages: str) -> set[str]:
    return {f"{stage}@{entry}" for entry in entries for stage in stages}


def test_an_option_of_one_engine(project: Project) -> None:
    project.edit(
        "params.yaml", "digits-fp16: {model: digits,", "digits-fp16: {model: digits, engine: {optimization_level: 2},"
    )
    assert project.repro() == {"engine@digits-fp16", "verify@digits-fp16", "report@digits"}


def test_the_opset_of_one_model(project: Project) -> None:
    """The check and the capture, which ask the exporter about it, run too, and come to the same."""
    project.edit("params.yaml", "digits: {}", "digits: {export: {opset: 18}}")
    wanted = of(("digits",), "check", "torchscript", "export", "simplify", "calibrate", "report")
    wanted |= of(DIGITS, "quantize", "engine", "verify")
    assert project.repro() == wanted


def test_a_weight_of_one_model(project: Project) -> None:
    weights = project.path / "examples/early_exit/weights.safetensors"
    state = load_file(weights)
    name = sorted(n for n, a in state.items() if a.dtype == np.float32)[0]
    state[name] = state[name] * np.float32(1.001)
    save_file(state, weights)
    wanted = of(("early_exit",), "check", "torchscript", "export", "simplify", "calibrate", "report")
    assert project.repro() == wanted | of(("early_exit-fp32",), "quantize", "engine", "verify")


def test_a_line_of_a_models_source_that_changes_nothing_it_computes(project: Project) -> None:
    with (project.path / "examples/rows/model.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    assert project.repro() == of(("rows",), "check", "torchscript")


def test_a_line_of_a_models_source_that_changes_what_it_computes(project: Project) -> None:
    project.edit("examples/rows/model.py", "MASKED = -1e4", "MASKED = -9e3")
    wanted = of(("rows",), "check", "torchscript", "export", "simplify", "calibrate", "report")
    assert project.repro() == wanted | of(("rows-fp16", "rows-int8"), "quantize", "engine", "verify")


def test_a_line_of_the_simplification(project: Project) -> None:
    with (project.path / "qntz/simplify.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    assert project.repro() == of(MODELS, "simplify")


def test_a_plugin(project: Project) -> None:
    """The capture runs again for all models; its record, which names the tolerance, reaches the reports alone."""
    project.edit("plugins/complex_rotary.py", "tolerance=1e-5", "tolerance=2e-5")
    assert project.repro() == of(MODELS, "check", "torchscript", "report")


def test_a_tools_version(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "onnxsim-99.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxsim\nVersion: 99.0\n")
    (other / "RECORD").write_text("onnxsim/__init__.py,,\n")
    assert project.repro(PYTHONPATH=str(tmp_path)) == of(MODELS, "simplify")
    assert project.repro() == set()  # the version before comes from the run cache


def test_calibration_data(project: Project) -> None:
    path = project.path / "examples/rows/data/train.npz"
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    arrays["rows"][0] = 1.0 - arrays["rows"][0]
    write_npz(path, arrays)
    wanted = of(("rows",), "calibrate", "report") | {"quantize@rows-fp16"}  # fp16 reads no histogram, its graph stays
    assert project.repro() == wanted | of(("rows-int8",), "quantize", "engine", "verify")


def test_what_nothing_depends_on(project: Project) -> None:
    with (project.path / "README.md").open("a") as file:
        file.write("\nMore.\n")
    with (project.path / "qntz/export/__init__.py").open("a") as file:
        file.write("\n# a remark\n")
    assert project.repro() == set()


def test_a_comment_in_a_models_source_reaches_the_check_alone(project: Project) -> None:
    with (project.path / "examples/digits/model.py").open("a") as file:
        file.write("\n# a remark\n")
    assert project.repro() == {"check@digits"}


def test_a_module_that_no_statement_names(project: Project) -> None:
    """It is refused until it is named, and seen from then on."""
    module, model = project.path / "worked_out.py", project.path / "examples/digits/model.py"
    conf, text, told = project.path / "conf/model/digits.yaml", model.read_text(), ""
    told = conf.read_text()
    try:
        module.write_text("WIDTH = 1\n")
        model.write_text(f"import importlib\n{text}\nWIDTH = importlib.import_module('worked' + '_out').WIDTH\n")
        done = project.dvc("repro", "torchscript@digits")
        assert done.returncode != 0
        assert "error: check digits: worked_out.py: was imported and is in no key" in done.stderr
        conf.write_text(f"{told}extra_inputs: [worked_out.py]\n")
        assert "torchscript@digits" in project.repro("torchscript@digits")
        module.write_text("WIDTH = 2\n")
        assert "torchscript@digits" in project.repro("torchscript@digits")
    finally:
        module.unlink()
        model.write_text(text)
        conf.write_text(told)
    project.repro()


def test_an_environment_variable_that_the_model_reads(project: Project) -> None:
    model = project.path / "examples/digits/model.py"
    text = model.read_text()
    try:
        model.write_text(f"{text}\nimport os\nSCALE = float(os.environ.get('SCALE', '1'))\n")
        assert project.repro() == of(("digits",), "check", "torchscript")
        told = project.qntz("status", SCALE="7")
        assert told.returncode == 3
        assert "check@digits and torchscript@digits will run:" in told.stdout, told.stdout
        assert "the environment variable SCALE has a value now" in told.stdout, told.stdout
    finally:
        model.write_text(text)
    project.repro()


MEDDLES = """
import subprocess
from pathlib import Path

from qntz import hookimpl


@hookimpl
def qntz_rules():
    file = Path({path!r})
    text = file.read_text()
    file.write_text(text.replace({old!r}, {new!r}))
    subprocess.run({command!r}, check=True)
    file.write_text(text)
    return []
"""


@pytest.mark.parametrize(
    ("path", "old", "new", "command", "told"),
    [
        (
            *("examples/digits/model.py", "def forward", "ADDED = 1\n\n    def forward", ["true"]),
            "examples/digits/model.py: changed after it was composed.",
        ),
        (
            *("params.yaml", "models:", "models:\n  other: {use: digits, check: {seconds: 99}}", ["true"]),
            "",  # nothing reads it before the next run
        ),
        (
            *("conf/check/default.yaml", "seconds: ", "seconds: 1", ["python", "-m", "stages.compose"]),
            "params.yaml: digits: it was composed anew while it ran.",
        ),
    ],
    ids=["code", "params", "composed"],
)
def test_what_is_written_while_a_stage_runs(
    project: Project, path: str, old: str, new: str, command: list[str], told: str
) -> None:
    """Although it is the old text again by its end: the new one may have been read in between."""
    plugin, text = project.path / "plugins/meddles.py", (project.path / path).read_text()
    assert old in text
    try:
        plugin.write_text(MEDDLES.format(path=path, old=old, new=new, command=command))
        done = project.dvc("repro", "check@digits")
        assert (done.returncode != 0) == bool(told), done.stderr
        if told:
            assert f"error: check digits: {told} Nothing is kept of this stage. Run `dvc repro` again." in done.stderr
            assert "check@digits" in project.dvc("status", "check@digits").stdout
    finally:
        plugin.unlink()
        (project.path / path).write_text(text)
    project.repro("check@digits")
