"""The scripts of both files, run in clones of a small project, with a folder as DVC remote.

Not run: the actions (checkout, setup-python, the artifacts and the upload of the findings), GitLab's images and caches,
and the job that posts a note. The clone stands for the checkout; PyTorch is there before `pip install` asks for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.service import BASH, GITLAB, WORKFLOW, Done, Runner, run_github, run_gitlab, starts
from tests.pipeline.conftest import Project, new_project

pytestmark = pytest.mark.slow

INT8 = {"model": "digits", "quantize": {"use": "int8"}}
ENGINES = {"digits-fp32": {"model": "digits", "engine": {"use": "onnxruntime"}}, "digits-int8": INT8}
MODEL = {f"{stage}@digits" for stage in ("check", "torchscript", "export", "simplify", "calibrate")}
BUILT = {f"{stage}@{engine}" for stage in ("quantize", "engine", "verify") for engine in ENGINES}


# what a stage of a fork's pull request runs
HOSTILE = """
import os, sys
if sys.argv[0].endswith("torchscript.py"):
    with open(os.environ["GITHUB_ENV"], "a") as file:
        file.write("TRUSTED=true\\n")
"""


@dataclass
class Hosted:
    """A repository on a service, and its DVC remote."""

    path: Path

    @property
    def remote(self) -> Path:
        return self.path / "remote"

    @property
    def secret(self) -> str:
        return f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {self.remote}\n"

    def clone(self, name: str) -> Project:
        subprocess.run(["git", "clone", "-q", self.path / "origin.git", self.path / name], check=True)
        return Project(self.path / name)

    def stored(self) -> set[str]:
        return {str(path.relative_to(self.remote)) for path in self.remote.rglob("*") if path.is_file()}


def commit(project: Project, text: str, *push: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in (("add", "-A"), (*identity, "commit", "-q", "-m", text), *([("push", "-q", *push)] if push else [])):
        done = project.run("git", *command)
        assert done.returncode == 0, done.stderr


def params(**changed: Any) -> str:
    return yaml.safe_dump({"models": {"digits": {}}, "engines": ENGINES, **changed})


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    path = tmp_path_factory.mktemp("hosted")
    project = new_project(path / "sources")
    project.params(params())
    commit(project, "two engines")
    assert project.run("git", "branch", "-M", "main").returncode == 0
    subprocess.run(["git", "clone", "-q", "--bare", path / "sources", path / "origin.git"], check=True)
    return Hosted(path)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runner"))


def event(name: str, source: str = "us/ours", **more: Any) -> dict[str, Any]:
    """What the service tells of a push to main, or of a pull request to it."""
    github = {"repository": "us/ours", "actor": "me", "event_name": name, "ref_name": "main", "ref": "refs/heads/main"}
    told: dict[str, Any] = {"repository": {"default_branch": "main"}}
    if name == "pull_request":
        github |= {"ref_name": "7/merge", "ref": "refs/pull/7/merge", "base_ref": "main"}
        told["pull_request"] = {"head": {"repo": {"full_name": source}}}
    return {"github": {**github, "event": told}, "vars": {}, "secrets": {}, **more}


@pytest.fixture(scope="module")
def first(hosted: Hosted, runner: Runner) -> Done:
    """The first run, on main: it builds all, and pushes."""
    push = event("push", secrets={"DVC_CONFIG_LOCAL": hosted.secret})
    done = run_github("build", hosted.clone("first").path, runner, push)
    assert done.failed == [], done.printed[-4000:]
    return done


def test_the_first_run_on_main_builds_everything_and_pushes_it(hosted: Hosted, first: Done) -> None:
    assert first.ran == {*MODEL, *BUILT, "report@digits"}
    assert first.outputs == {"gpu": "", "findings": ""}
    assert first.steps["Push"] == "success"
    assert first.actions.count("actions/upload-artifact") == 2  # the reports and the findings; nothing for a GPU
    plan = hosted.path / "first/build/models/digits/engines/digits-int8/model.engine"
    lock = yaml.safe_load((hosted.path / "first/dvc.lock").read_text())
    digests = {out["path"]: out["md5"] for out in lock["stages"]["engine@digits-int8"]["outs"]}
    md5 = digests["build/models/digits/engines/digits-int8/model.engine"]
    assert (hosted.remote / "files/md5" / md5[:2] / md5[2:]).read_bytes() == plan.read_bytes()
    assert first.summary.startswith("## digits\n")
    assert "| digits-int8 | int8 | tensorrt\\_rtx |" in first.summary
    assert "Against" not in first.summary
    (sarif,) = (hosted.path / "first/build/models").glob("*/check.sarif")
    (one,) = json.loads(sarif.read_text())["runs"]
    assert one["automationDetails"] == {"id": "qntz/digits/"}


def test_another_clone_builds_nothing_and_a_pull_request_pushes_nothing(
    hosted: Hosted, runner: Runner, first: Done
) -> None:
    before = hosted.stored()
    pull = event("pull_request", secrets={"DVC_CONFIG_LOCAL": hosted.secret})
    done = run_github("build", hosted.clone("second").path, runner, pull)
    assert (done.failed, done.ran) == ([], set()), done.printed[-4000:]
    assert (done.steps["Push"], hosted.stored()) == ("skipped", before)
    engine = "build/models/digits/engines/digits-int8/model.engine"
    assert (hosted.path / "second" / engine).read_bytes() == (hosted.path / "first" / engine).read_bytes()
    assert "Not compared: digits-fp32, digits-int8: not in the dvc.lock of origin/main." in done.summary


def test_a_pull_request_is_compared_with_main(hosted: Hosted, runner: Runner, first: Done) -> None:
    main = Project(hosted.path / "first")
    commit(main, "built", "origin", "main")
    clone = hosted.clone("changed")
    entropy = {"model": "digits", "quantize": {"use": "int8", "method": "entropy"}}
    clone.params(params(engines={"digits-int8": entropy, "digits-half": {"model": "digits"}}))
    commit(clone, "entropy")
    pull = event("pull_request", secrets={"DVC_CONFIG_LOCAL": hosted.secret})
    done = run_github("build", clone.path, runner, pull)
    assert done.failed == [], done.printed[-4000:]
    assert not MODEL & done.ran
    assert {"quantize@digits-int8", "verify@digits-int8", "verify@digits-half", "report@digits"} <= done.ran
    was, now = (
        json.loads((path / "build/models/digits/engines/digits-int8/metrics.json").read_text())["sqnr_db"]
        for path in (main.path, clone.path)
    )
    head = done.summary.index("### Against `origin/main`")
    row = next(line for line in done.summary[head:].splitlines() if line.startswith("| digits-int8 | SQNR |"))
    assert f"| {was:.1f}\u00a0dB | {now:.1f}\u00a0dB | " in row
    assert f"{now - was:+.3g}\u00a0dB" in row
    assert "New: digits-half." in done.summary[head:]
    assert "Gone: digits-fp32." in done.summary[head:]


def test_a_fork_has_no_secrets_and_builds_all_by_itself(hosted: Hosted, runner: Runner, first: Done) -> None:
    """Nor does it get a GPU where its code says that it is trusted."""
    clone = hosted.clone("fork")
    with (clone.path / "plugins/complex_rotary.py").open("a") as plugin:
        plugin.write(HOSTILE)
    # nor does a remote that is committed keep it from that, where only credentials open it
    assert clone.dvc("remote", "add", "-d", "storage", "ssh://127.0.0.1:1/nothing").returncode == 0
    assert clone.dvc("remote", "modify", "storage", "verify", "true").returncode == 0
    pull = event("pull_request", source="them/ours", vars={"QNTZ_GPU_RUNNER": '["gpu"]'})
    done = run_github("build", clone.path, runner, pull)
    assert done.failed == [], done.printed[-4000:]
    assert done.ran == {*MODEL, *BUILT, "report@digits"}
    assert "### Against `origin/main`" in done.summary
    assert done.variables["TRUSTED"] == "true"
    needs = {"build": {"outputs": {**done.outputs, "gpu": "report@digits", "findings": "1", "trusted": "true"}}}
    for job in ("gpu", "findings"):
        assert not starts(job, {**pull, "needs": needs, "env": done.variables})
        assert starts(job, {**event("pull_request", vars=pull["vars"]), "needs": needs})


def test_a_remote_that_does_not_answer_fails_the_build(hosted: Hosted, runner: Runner) -> None:
    clone = hosted.clone("broken")
    secret = (
        "[core]\n    remote = storage\n['remote \"storage\"']\n    url = ssh://127.0.0.1:1/nothing\n    verify = true\n"
    )
    done = run_github("build", clone.path, runner, event("push", secrets={"DVC_CONFIG_LOCAL": secret}))
    assert (done.failed[0], done.ran, done.steps["Push"]) == ("Build", set(), "skipped")
    assert "✕ Not built: it stopped at check." in done.summary


def test_a_secret_without_a_default_remote_and_engines_without_a_gpu_are_told(hosted: Hosted, runner: Runner) -> None:
    clone = hosted.clone("no_default")
    secret = "['remote \"storage\"']\n    access_key_id = me\n"
    push = event("push", secrets={"DVC_CONFIG_LOCAL": secret})
    done = run_github("build", clone.path, runner, push, {"GPU_BACKENDS": "tensorrt_rtx"})
    assert "::warning::Engines that want a GPU are not built, since no runner has one for this: rep" in done.printed
    assert "Build" in done.failed
    assert "::error::DVC_CONFIG_LOCAL is set, but no remote is the default" in done.printed


def test_a_job_with_a_gpu_builds_the_rest_from_what_it_is_handed(hosted: Hosted, runner: Runner, first: Done) -> None:
    """TensorRT-RTX stands for a backend that wants a GPU: it builds here without one."""
    edited = {"GPU_BACKENDS": "tensorrt_rtx", "INSTALL_GPU": ""}
    given = {"secrets": {"DVC_CONFIG_LOCAL": hosted.secret}, "vars": {"QNTZ_GPU_RUNNER": '["gpu"]'}}
    clone, other = hosted.clone("without_gpu"), hosted.clone("with_gpu")
    done = run_github("build", clone.path, runner, event("push", **given), edited)
    assert (done.failed, done.ran) == ([], set()), done.printed[-4000:]
    assert done.outputs["gpu"].split() == ["report@digits"]
    assert "Hand what was built to the job with the GPU" in done.actions
    assert "| digits-int8 |" in done.summary
    assert "not built: stopped at engine" in done.summary
    shutil.copytree(clone.path / ".dvc/cache", other.path / ".dvc/cache")  # what the artifact is for
    needs = {"build": {"outputs": done.outputs}}
    rest = run_github("gpu", other.path, runner, {**event("push", vars=given["vars"]), "needs": needs}, edited)
    assert rest.failed == [], rest.printed[-4000:]
    assert rest.ran == {"engine@digits-int8", "verify@digits-int8", "report@digits"}
    assert "not built" not in rest.summary


def test_gitlab_builds_nothing_anew_and_a_gate_fails_the_job(hosted: Hosted, runner: Runner, first: Done) -> None:
    secret = hosted.path / "secret"
    secret.write_text(hosted.secret)
    given = {"DVC_CONFIG_LOCAL": str(secret), "CI_DEFAULT_BRANCH": "main", "CI_COMMIT_BRANCH": "main"}
    clone = hosted.clone("gitlab")
    done = run_gitlab("build", clone.path, runner, given)
    assert (done.failed, done.ran) == ([], set()), done.printed[-4000:]
    assert done.summary.startswith("## digits\n")
    assert json.loads((clone.path / "code-quality.json").read_text()) == []
    gate = {"digits": {"report": {"gates": {"digits-int8": {"sqnr_db": 150}}}}}
    clone.params(params(models=gate))
    base = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    merge = {"CI_MERGE_REQUEST_DIFF_BASE_SHA": base, "CI_MERGE_REQUEST_PROJECT_ID": "1"}
    before = hosted.stored()
    failed = run_gitlab(
        "build", clone.path, runner,
        {**given, **merge, "CI_COMMIT_BRANCH": "", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "1"},
    )  # fmt: skip
    assert (failed.failed, failed.ran) == (["script"], {"report@digits"}), failed.printed[-4000:]
    assert "✕ Not fit to ship: 1 of 1 gate failed." in failed.summary
    assert f"### Against `{base}`" in failed.summary
    assert hosted.stored() == before
    idle = run_gitlab("gpu", clone.path, runner, {**given, "INSTALL_GPU": ""})
    assert (idle.failed, idle.printed.splitlines()[-1]) == ([], "No engine wants a GPU.")


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_a_package_in_src_is_installed_beside_requirements(runner: Runner, tmp_path: Path, service: str) -> None:
    """Which name it themselves, as some do."""
    (tmp_path / f"src/of_{service}").mkdir(parents=True)
    (tmp_path / f"src/of_{service}/__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools"]\n[project]\nname = "of_{service}"\nversion = "1"\n'
    )
    (tmp_path / "requirements.txt").write_text("pluggy\n-e .\n")
    if service == "github":
        steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["build"]["steps"]
        (script,) = (step["run"] for step in steps if step.get("name") == "Install")
    else:
        script = yaml.safe_load(GITLAB.read_text())[".pipeline"]["before_script"][0]
    env = {**runner.env(), "INSTALL": "", "INSTALL_BESIDES": "", "EXTRA_INDEX": ""}
    done = subprocess.run([*BASH, script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = ["python", "-c", f"import of_{service}; print(of_{service}.__file__)"]
    told = subprocess.run(asked, cwd="/", env=env, capture_output=True, text=True, check=True).stdout
    assert told == f"{tmp_path}/src/of_{service}/__init__.py\n"
