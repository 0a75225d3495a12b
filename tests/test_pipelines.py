"""A pipeline of its own for each model: what stands in it, in step with params.yaml, and back again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from qntz import pipelines
from qntz.compose import read_params
from qntz.errors import ArtifactError, UsageError

PARAMS = """\
models: {one: {use: digits}, two: {use: digits}}
engines:
  a: {model: one, quantize: {use: int8}}
  b: {model: one}
  c: {model: two}
  lost: {model: nobody}
  nameless: {}
"""


@pytest.fixture
def project(tmp_path: Path, root: Path) -> Path:
    """This repository's dvc.yaml, with a dvc.lock of some stages."""
    shutil.copy(root / "dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / "params.yaml").write_text(PARAMS)
    stages = ("compose", "check@one", "check@two", "quantize@a", "verify@c", "quantize@gone", "own")
    entries = {stage: {"cmd": f"python {stage}", "outs": [{"path": stage, "md5": "0" * 32}]} for stage in stages}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=False))
    return tmp_path


def params(project: Path) -> pipelines.Params:
    return read_params(project / "params.yaml")


def stages(lock: Path) -> list[str]:
    return list(yaml.safe_load(lock.read_text())["stages"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_model_gets_its_stages_and_its_part_of_the_lock(project: Path) -> None:
    assert pipelines.split(project, params(project)) == 2
    one = yaml.safe_load((project / "pipelines/one/dvc.yaml").read_text())
    assert one["vars"] == [{"here": {"models": {"one": {}}, "engines": {"a": {"model": "one"}, "b": {"model": "one"}}}}]
    whole = yaml.safe_load((project / "dvc.yaml").read_text())
    over = {name: stage for name, stage in whole["stages"].items() if "foreach" in stage}
    assert list(one["stages"]) == list(over)
    for name, stage in over.items():
        assert stage["foreach"] == one["stages"][name]["foreach"] in ("${here.models}", "${here.engines}")
        assert {"wdir": "../..", **stage["do"]} == one["stages"][name]["do"]
    assert stages(project / "pipelines/one/dvc.lock") == ["check@one", "quantize@a"]
    assert stages(project / "pipelines/two/dvc.lock") == ["check@two", "verify@c"]
    assert stages(project / "dvc.lock") == ["compose", "quantize@gone", "own"]
    here = yaml.safe_load((project / "pipelines/here.yaml").read_text())["here"]
    assert here == {"models": {}, "engines": {"lost": {"model": "nobody"}, "nameless": {}}}
    assert pipelines.locks(project) == [
        Path("dvc.lock"),
        Path("pipelines/one/dvc.lock"),
        Path("pipelines/two/dvc.lock"),
    ]


def test_joining_gives_back_what_was_split(project: Path) -> None:
    before = contents(project)
    pipelines.split(project, params(project))
    assert pipelines.join(project) == 2
    after = contents(project)
    assert after.keys() == before.keys()
    assert after["dvc.yaml"] == before["dvc.yaml"]
    locks = [yaml.safe_load(told["dvc.lock"]) for told in (before, after)]
    assert locks[0] == locks[1]
    assert not (project / "pipelines").exists()


def test_dvc_has_the_same_stages_split_and_joined(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commands, what they read and what they write, as DVC understands them."""
    from dvc.repo import Repo

    monkeypatch.chdir(project)  # by which DVC names stages
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    text = PARAMS.replace("  nameless: {}\n", "")  # which DVC cannot resolve
    (project / "params.yaml").write_text(text)
    (project / "dvc.lock").unlink()

    def told() -> dict[str, tuple[str, list[str], list[str], str]]:
        with Repo(str(project)) as repo:
            return {
                pipelines.shown(one.addressing): (
                    one.cmd,
                    sorted(dep.fs_path for dep in one.deps),
                    sorted(out.fs_path for out in one.outs),
                    one.wdir,
                )
                for one in repo.index.stages
            }

    before = told()
    pipelines.split(project, params(project))
    after = told()
    assert after.pop("fleet")[1] == [str(project / "build/config/fleet.yaml"), str(project / "build/reports")]
    assert after == before
    assert "verify@lost" in after  # at the root, where it fails as it did


def test_they_follow_params(project: Path) -> None:
    assert pipelines.bring_into_step(project, params(project)) == []  # nothing is split
    pipelines.split(project, params(project))
    assert pipelines.bring_into_step(project, params(project)) == []
    text = PARAMS.replace("two: {use: digits}", "three: {}").replace("c: {model: two}", "c: {model: three}")
    (project / "params.yaml").write_text(text)
    assert {*pipelines.out_of_step(project, params(project))} == {
        Path("pipelines/three/dvc.yaml"),
        Path("pipelines/two/dvc.yaml"),
        Path("pipelines/two/dvc.lock"),
    }
    assert pipelines.bring_into_step(project, params(project)) == ["three", "two"]
    assert sorted(path.name for path in (project / "pipelines").iterdir()) == ["here.yaml", "one", "three"]
    with (project / "pipelines/one/dvc.yaml").open("a") as file:
        file.write("# by hand\n")
    assert pipelines.bring_into_step(project, params(project)) == ["one"]
    assert "by hand" not in (project / "pipelines/one/dvc.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("  lost: {model: nobody}\n", ""))
    assert {*pipelines.out_of_step(project, params(project))} == {pipelines.HERE}
    pipelines.bring_into_step(project, params(project))
    assert pipelines.out_of_step(project, params(project)) == {}


def test_a_stage_of_the_users_own_goes_with_its_model(project: Path) -> None:
    more = "\n  size:\n    foreach: ${engines}\n    do:\n      wdir: tools\n      cmd: du ${key}\n      outs: ['../build/models/${item.model}/size/${key}']\n"
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + more)
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    lock["stages"]["size@c"] = {"cmd": "du c"}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    pipelines.split(project, params(project))
    assert "size@c" in stages(project / "pipelines/two/dvc.lock")
    two = yaml.safe_load((project / "pipelines/two/dvc.yaml").read_text())["stages"]["size"]
    outs = ["../build/models/${item.model}/size/${key}"]
    assert two == {"foreach": "${here.engines}", "do": {"wdir": "../../tools", "cmd": "du ${key}", "outs": outs}}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("foreach: ${models}", "foreach: [x, y]", "check fits into no model's pipeline: its `foreach` is over"),
        ("cmd: python -m stages.check ${key}", "cmd: echo ${item.use}", "it reads ${item.use}, and a model's pipeline"),
        ("cmd: python -m stages.check ${key}", "cmd: echo ${models.one.use}", "it reads ${models.one.use}"),
        ("cmd: python -m stages.check ${key}", "cmd: echo ${seed}", "it reads ${seed}, and a model's pipeline"),
        (
            "stages:\n",
            "stages:\n  own:\n    foreach: ${models}\n    do: {cmd: 'echo ${key}', outs: ['own/${key}']}\n",
            "own fits into no model's pipeline: it writes nothing below build/models/ or build/reports/",
        ),
        ("  - params.yaml\n", "  - params.yaml:models,engines\n", "its vars do not name params.yaml"),
        ("stages:\n", "stages: [\n", "is no pipeline of DVC"),
    ],
)
def test_what_cannot_be_split_is_refused_and_nothing_is_written(
    project: Path, old: str, new: str, message: str
) -> None:
    text = (project / "dvc.yaml").read_text()
    assert old in text
    (project / "dvc.yaml").write_text(text.replace(old, new, 1))
    before = contents(project)
    with pytest.raises(ArtifactError) as caught:
        pipelines.split(project, params(project))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(project) == before


def test_what_is_done_already_is_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="all models are in one pipeline already"):
        pipelines.join(project)
    pipelines.split(project, params(project))
    with pytest.raises(UsageError, match="pipelines of their own already"):
        pipelines.split(project, params(project))


def test_a_damaged_lock_is_refused_and_nothing_is_written(project: Path) -> None:
    (project / "dvc.lock").write_text("stages: {check@one: {cmd")
    before = contents(project)
    with pytest.raises(ArtifactError, match="dvc.lock: is damaged"):
        pipelines.split(project, params(project))
    assert contents(project) == before


def test_pipelines_of_the_users_own_are_left_alone(project: Path) -> None:
    own = project / "pipelines/train/dvc.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("stages: {}\n")
    pipelines.split(project, params(project))
    assert pipelines.bring_into_step(project, params(project)) == []
    assert Path("pipelines/train/dvc.lock") not in pipelines.locks(project)
    pipelines.join(project)
    assert own.read_text() == "stages: {}\n"
    (project / "pipelines/one").mkdir()
    (project / "pipelines/one/dvc.yaml").write_text("stages: {}\n")
    before = contents(project)
    with pytest.raises(ArtifactError, match="pipelines/one/dvc.yaml: is in the way"):
        pipelines.split(project, params(project))
    assert contents(project) == before


@pytest.mark.parametrize("change", ["split", "join"])
def test_it_can_be_taken_up_again_after_a_kill(project: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before each of its writes and removals, and done again: as if it had not been stopped."""

    class Killed(BaseException):
        pass

    def done() -> None:
        pipelines.split(project, params(project)) if change == "split" else pipelines.join(project)

    if change == "join":
        pipelines.split(project, params(project))
    before = contents(project)
    done()
    wanted, steps = contents(project), 0
    writes = {name: getattr(pipelines, name) for name in ("write_text", "_remove")}
    while True:
        shutil.rmtree(project)
        for name, data in before.items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_bytes(data)
        left = [steps]

        def counted(name: str, left: list[int] = left) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                if not left[0]:
                    raise Killed
                left[0] -= 1
                writes[name](*arguments)

            return call

        for name in writes:
            monkeypatch.setattr(pipelines, name, counted(name))
        try:
            done()
        except Killed:
            monkeypatch.undo()
            done()
            assert contents(project) == wanted, steps
            steps += 1
        else:
            break
    assert steps >= 6


def test_targets_are_named_as_dvc_does() -> None:
    assert pipelines.shown("pipelines/one/dvc.yaml:engine@a") == "engine@a"
    assert pipelines.shown("elsewhere/dvc.yaml:engine@a") == "elsewhere/dvc.yaml:engine@a"
    assert pipelines.shown("data.dvc") == "data.dvc"
