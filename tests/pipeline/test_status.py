"""`qntz status` in real projects: what it says, and that a real `dvc repro` then does that."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import Done, Project, Qntz, stages_run

INT8 = "models: {digits: {}}\nengines: {digits-int8: {model: digits, quantize: {use: int8}}}\n"


@pytest.fixture(scope="module")
def project(small: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    path = tmp_path_factory.mktemp("status") / "project"
    shutil.copytree(small.path, path, symlinks=True)
    return Project(path)


@pytest.fixture
def kept(project: Project) -> Iterator[Project]:
    """The project, whose sources are put back afterwards."""
    files = ("params.yaml", "qntz/simplify.py", "examples/digits/model.py", "dvc.lock")
    before = {name: (project.path / name).read_bytes() for name in files}
    yield project
    for name, data in before.items():
        (project.path / name).write_bytes(data)


def actions(done: Done) -> tuple[int, dict[str, str]]:
    return done.returncode, {one["stage"]: one["action"] for one in json.loads(done.stdout)["stages"]}


def test_an_up_to_date_project(project: Project) -> None:
    done = project.qntz("status")  # as a user starts it; the others share this process
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing to do: 9 stages are unchanged.\n", "")


def test_an_option_is_told_by_its_key_and_nothing_is_written(kept: Project, qntz: Qntz) -> None:
    before = {path: path.stat().st_mtime_ns for path in (kept.path / "build/config").rglob("*")}
    kept.params(INT8.replace("use: int8", "use: int8, method: entropy, exclude: [head]"))
    done = qntz(kept, "status")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == (
        "quantize@digits-int8 will run:\n"
        "  quantize.method mse → entropy\n"
        '  quantize.exclude [] → ["head"]\n'
        "engine@digits-int8, verify@digits-int8 and report@digits may run after\n"
        "  quantize@digits-int8\n"
        "calibrate@digits is unchanged, so the data are not run again.\n"
        "5 stages are unchanged.\n"
    )
    assert {path: path.stat().st_mtime_ns for path in (kept.path / "build/config").rglob("*")} == before
    assert actions(qntz(kept, "status", "--json", "calibrate@digits")) == (
        0,
        dict.fromkeys(
            (f"{stage}@digits" for stage in ("check", "torchscript", "export", "simplify", "calibrate")), "unchanged"
        ),
    )


def test_the_module_that_changed_is_named_as_long_as_it_is_known(kept: Project, qntz: Qntz) -> None:
    kept.edit("qntz/simplify.py", "\ndef ", "\nEXTRA = 1\n\n\ndef ")
    kept.edit("examples/digits/model.py", "\nclass ", "\n# a remark\n\n\nclass ")
    told = qntz(kept, "status", "calibrate@digits").stdout
    assert "check@digits will run:\n  the model's source changed: examples.digits.model\n" in told
    assert "simplify@digits will run:\n  the stage's code changed: qntz.simplify\n" in told
    assert "torchscript@digits and export@digits may run after check@digits\n" in told
    shutil.rmtree(kept.path / "build/memo")
    told = qntz(kept, "status", "simplify@digits").stdout
    assert "  the stage's code changed (which part of it is not known here)\n" in told


def test_artifacts_by_hand_and_gone_come_back_from_the_cache(kept: Project, qntz: Qntz) -> None:
    folder = kept.path / "build/models/digits"
    (folder / "engines/digits-int8/model.engine").unlink()
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").write_text("by hand")
    done = qntz(kept, "status")
    assert (done.returncode, done.stdout) == (
        3,
        "export@digits will be restored from the cache:\n"
        "  build/models/digits/model.onnx was changed by hand\n"
        "engine@digits-int8 will be restored from the cache:\n"
        "  build/models/digits/engines/digits-int8/model.engine is missing\n"
        "7 stages are unchanged.\n",
    )
    assert kept.repro() == set()
    (kept.path / "dvc.lock").unlink()
    code, told = actions(qntz(kept, "status", "--json"))
    assert (code, set(told.values())) == (3, {"restore"})  # by the record of runs alone
    assert actions(qntz(kept, "status", "--json", "--allow-missing")) == (code, told)


def test_a_broken_entry_is_told_as_compose_tells_it(kept: Project, qntz: Qntz) -> None:
    kept.params(INT8.replace("use: int8", "use: int9"))
    done = qntz(kept, "status")
    assert done.returncode == 1
    where = "params.yaml: engines.digits-int8.quantize.use: no conf/quantize/int9.yaml. Did you mean 'int8'?"
    assert done.stderr == f"error: compose: {where}\n"
    assert kept.dvc("repro", "compose").stderr.startswith(done.stderr.rstrip("\n"))
    code, told = actions(qntz(kept, "status", "--json"))
    assert (code, told["quantize@digits-int8"], told["report@digits"]) == (1, "fail", "blocked")


def test_what_compose_refuses_is_refused(kept: Project, qntz: Qntz) -> None:
    config = kept.path / ".dvc/config"
    before = config.read_text()
    try:
        config.write_text(before + "['remote \"there\"']\n    url = s3://bucket/folder\n")
        for command in (("status",), ("why", "digits-int8")):
            done = qntz(kept, *command)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(
                f"error: {command[0]}: .dvc/config: remote 'there': what it delivers is not compared with its digest"
            )
        assert kept.dvc("repro", "compose").returncode != 0
    finally:
        config.write_text(before)


def test_what_compose_depends_on_and_is_missing_stops_all(kept: Project, qntz: Qntz) -> None:
    before = (kept.path / "dvc.yaml").read_text()
    try:
        kept.edit("dvc.yaml", "deps: [examples]", "deps: [examples, mydata]")
        done = qntz(kept, "status")
        assert (done.returncode, done.stdout.splitlines()[:3]) == (
            1,
            [
                "compose will fail:",
                "  mydata is missing",
                "check@digits, torchscript@digits, export@digits, simplify@digits,",
            ],
        )
        assert done.stdout.endswith(" will not run, since compose fails\n")
        assert kept.dvc("repro").returncode != 0
    finally:
        (kept.path / "dvc.yaml").write_text(before)


def test_weights_that_dvc_has_and_that_are_missing_are_none_that_changed(
    small: Project, tmp_path: Path, qntz: Qntz
) -> None:
    shutil.copytree(small.path, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    weights = "examples/digits/weights.safetensors"
    assert project.run("git", "rm", "-q", "--cached", weights).returncode == 0
    assert project.dvc("add", "-q", weights).returncode == 0
    assert project.repro() == set()
    shutil.rmtree(project.path / ".dvc/cache")
    (project.path / weights).unlink()
    shutil.rmtree(project.path / "build/models")
    done = qntz(project, "status", "--allow-missing")
    assert (done.returncode, done.stdout) == (0, "Nothing to do: 10 stages are unchanged.\n")
    code, told = actions(qntz(project, "status", "--json"))
    assert (code, told[f"{weights}.dvc"]) == (1, "fail")
    (project.path / f"{weights}.dvc").unlink()
    assert qntz(project, "status", "--allow-missing").returncode == 3


def test_refusals(kept: Project, qntz: Qntz) -> None:
    for arguments, code, told in (
        (("enigne@digits-int8",), 2, "dvc.yaml: no stage 'enigne@digits-int8'. Did you mean 'engine@digits-int8'?"),
        (("",), 2, "dvc.yaml: no stage ''. Known: calibrate@digits, check@digits"),
        (("digits-int8",), 2, "dvc.yaml: no stage 'digits-int8'. Did you mean 'verify@digits-int8'?"),
    ):
        done = qntz(kept, "status", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith(f"error: status: {told}"), done.stderr
    lock = (kept.path / "dvc.lock").read_text()
    (kept.path / "dvc.lock").write_text(lock[: lock.index("md5:") + 3])
    done = qntz(kept, "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: status: DVC refuses it: .*dvc\.lock.* `qntz repro` mends it\.\n", done.stderr)
    kept.params("models: {}\n")
    done = qntz(kept, "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: status: params.yaml: `models` is empty.")


def agree(project: Project) -> set[str]:
    """Asks, runs a real `dvc repro`, and compares; the actions that were told."""
    told = actions(project.qntz("status", "--json"))[1]
    done = project.dvc("repro", "--keep-going")
    ran = stages_run(done.stdout) - {"compose"}
    restored = set(re.findall(r"^Stage '(.+)' is cached - skipping run", done.stdout, re.MULTILINE))
    by = {kind: {s for s in told if told[s] == kind} for kind in (*told.values(), "run", "restore", "may run", "fail")}
    assert by["run"] <= ran <= by["run"] | by["may run"] | by["fail"], (told, ran)
    assert by["restore"] <= restored <= by["restore"] | by["may run"], (told, restored)
    return set(told.values())


@pytest.mark.slow
def test_it_never_disagrees_with_a_real_run(default: Project, tmp_path: Path) -> None:
    shutil.copytree(default.path, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    assert agree(project) == {"unchanged"}
    project.edit("params.yaml", "quantize: {use: int8}", "quantize: {use: int8, method: entropy}")
    assert agree(project) == {"run", "may run", "unchanged"}
    project.edit("params.yaml", "use: int8, method: entropy", "use: int8")
    assert agree(project) == {"restore", "unchanged"}
    project.edit("examples/rows/model.py", "MASKED = -1e4", "MASKED = -9e3")
    project.edit("qntz/simplify.py", "\ndef ", "\nEXTRA = 1\n\n\ndef ")
    assert agree(project) == {"run", "may run", "unchanged"}


@pytest.mark.slow
def test_it_never_disagrees_over_a_broken_entry_and_a_lost_record(kept: Project) -> None:
    kept.params(INT8.replace("use: int8", "use: int9"))
    assert "fail" in agree(kept)
    shutil.rmtree(kept.path / "build")
    (kept.path / "dvc.lock").unlink()
    assert "fail" in agree(kept)
    kept.params(INT8)
    assert agree(kept) <= {"restore", "unchanged"}
    assert actions(kept.qntz("status", "--json"))[0] == 0
