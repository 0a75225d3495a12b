"""`qntz why` in a real project: each digest against one worked out here, and each thing that no longer holds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, Qntz

ENGINE = "build/models/digits/engines/digits-int8"


@pytest.fixture(scope="module")
def project(small: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    path = tmp_path_factory.mktemp("why") / "project"
    shutil.copytree(small.path, path, symlinks=True)
    return Project(path)


@pytest.fixture
def record(project: Project) -> Iterator[Path]:
    """engine.json, which is put back afterwards."""
    path = project.path / ENGINE / "engine.json"
    before = path.read_bytes()
    yield path
    path.unlink()
    path.write_bytes(before)


def sha256(project: Project, path: str) -> str:
    return hashlib.sha256((project.path / path).read_bytes()).hexdigest()


def test_an_engine_is_traced_back_to_every_input(project: Project) -> None:
    done = project.qntz("why", "digits-int8", "--json")  # as a user starts it; the others share this process
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    stages = told["stages"]
    names = ("engine", "quantize", "simplify", "export", "torchscript", "check", "calibrate")
    assert set(stages) == {f"{name}@{'digits-int8' if name in ('engine', 'quantize') else 'digits'}" for name in names}
    for stage in stages.values():
        for artifact in stage["writes"]:
            path = project.path / artifact["path"]
            if path.is_file():
                assert artifact["md5"] == hashlib.md5(path.read_bytes()).hexdigest()
    reads = {a["path"]: a for a in stages["engine@digits-int8"]["reads"]}
    assert reads[f"{ENGINE}/quantized.onnx"]["stage"] == "quantize@digits-int8"
    weights = "examples/digits/weights.safetensors"
    capture = stages["torchscript@digits"]
    assert (capture["weights"], capture["inputs"]["weights"]) == (weights, sha256(project, weights))
    data = "examples/digits/data/train.npz"
    assert stages["calibrate@digits"]["inputs"]["data"] == {data: sha256(project, data)}
    assert set(capture["made_of"][capture["inputs"]["model"]]) == {
        "examples.digits.model",
        "examples.digits",
        "examples",
    }
    assert "stages.engine" in stages["engine@digits-int8"]["made_of"][stages["engine@digits-int8"]["inputs"]["code"]]
    conf = "conf/quantize/int8.yaml"
    assert told["configuration"]["files"][conf] == sha256(project, conf)
    assert "conf/quantize/fp32.yaml" not in told["configuration"]["files"]
    assert told["configuration"]["entries"]["engines.digits-int8"] == {"model": "digits", "quantize": {"use": "int8"}}
    assert (told["stale"], told["changed_by_hand"], told["disagreements"]) == ([], [], [])


def test_the_tree_ends_with_the_verdict_and_fits_the_terminal(
    project: Project, qntz: Qntz, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = qntz(project, "why", "digits-int8")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"digits-int8: {ENGINE}/model.engine ")
    assert lines[1] == "├─ engine@digits-int8"
    assert lines[-1] == "All of it is as it was when the engine was built."
    assert max(map(len, lines)) <= 100
    assert sum("check@digits" in line for line in lines) == 1


def test_what_changed_since_is_told_without_an_error(project: Project, qntz: Qntz) -> None:
    before = (project.path / "params.yaml").read_text()
    try:
        project.edit("params.yaml", "use: int8", "use: int8, method: max")
        done = qntz(project, "why", "digits-int8")
    finally:
        project.params(before)
    assert done.returncode == 0
    assert "now: will run: quantize.method mse → max" in done.stdout
    assert done.stdout.endswith(
        "Out of date: quantize@digits-int8, engine@digits-int8.\nRun `qntz repro engine@digits-int8`.\n"
    )


def test_bytes_that_are_not_those_of_the_record(project: Project, qntz: Qntz) -> None:
    plan = project.path / ENGINE / "model.engine"
    before = plan.read_bytes()
    plan.unlink()
    try:
        plan.write_bytes(before[:-1] + b"?")
        done = qntz(project, "why", "digits-int8")
    finally:
        plan.unlink()
        plan.write_bytes(before)
    assert done.returncode == 1
    assert f"{ENGINE}/model.engine was changed by hand: its bytes are not those of dvc.lock.\n" in done.stdout
    assert f"engine.json does not agree: plan_sha256 is {hashlib.sha256(before).hexdigest()} there" in done.stdout


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantized.onnx", "0" * 64),
        ("code", "0" * 64),
        ("tools", {}),
        ("files", {"examples/digits/weights.safetensors": "0" * 64}),
        ("files", {"examples/digits/weights.safetensors": []}),
    ],
)
def test_a_record_that_does_not_agree(project: Project, qntz: Qntz, record: Path, key: str, value: object) -> None:
    told = json.loads(record.read_text())
    told["made_from"][key] = value
    record.unlink()
    record.write_text(json.dumps(told))
    done = qntz(project, "why", "digits-int8", "--json")
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)["disagreements"]
    assert found["what"] == ("examples/digits/weights.safetensors" if key == "files" else key)
    assert json.loads(done.stdout)["changed_by_hand"] == [f"{ENGINE}/engine.json"]


def test_refusals(project: Project, qntz: Qntz, record: Path) -> None:
    done = qntz(project, "why", "digits-in8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: why: params.yaml: no engine 'digits-in8'. Did you mean 'digits-int8'?\n"
    for damaged in ("[]", '{"made_from": {"files": ["a"]}}'):
        record.unlink()
        record.write_text(damaged)
        done = qntz(project, "why", "digits-int8")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: why: {record}: is damaged: ")
    before = (project.path / "params.yaml").read_text()
    try:
        project.edit("params.yaml", "engines: {", "engines: {new: {model: digits}, ")
        done = qntz(project, "why", "new")
    finally:
        project.params(before)
    assert done.returncode == 1
    assert (
        done.stderr == "error: why: dvc.lock: was never built: no entry for engine@new. Run `dvc repro engine@new`.\n"
    )
