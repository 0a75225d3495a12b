"""The files for CI by their schemas, and by what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qntz.scaffold.requirement import PLACES
from tests.ci.service import BASH, GITLAB, WORKFLOW, holds, starts

JOBS = yaml.safe_load(WORKFLOW.read_text())["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]


@pytest.mark.parametrize(("schema", "file"), [("github-workflows", WORKFLOW), ("gitlab-ci", GITLAB)])
def test_the_schema_of_the_service_holds(schema: str, file: Any, tmp_path: Any) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    for good, bad in (
        (r"(timeout(?:-minutes)?): \w+", r"\1: [soon]"),
        (r"(on_new_commit): none|(\bneeds): build", r"\1\2: 1"),
    ):
        broken.write_text(re.sub(good, bad, file.read_text()))
        assert subprocess.run([*command, broken], capture_output=True, check=False).returncode == 1


def test_actions_are_pinned_to_commits() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text())
    assert len(used) == sum("uses" in step for _, step in STEPS)
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_a_job_may_read_the_sources_and_no_more_and_only_the_upload_writes_findings() -> None:
    file = yaml.safe_load(WORKFLOW.read_text())
    assert file["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "findings": {"contents": "read", "actions": "read", "security-events": "write"}
    }
    assert not [step for name, step in STEPS if name == "findings" and "run" in step]  # nothing of the project's runs
    checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * 3


def test_every_job_ends_some_time_and_a_new_push_ends_the_run_of_the_last() -> None:
    assert all(job["timeout-minutes"] > 0 for job in JOBS.values())
    assert yaml.safe_load(WORKFLOW.read_text())["concurrency"]["group"] == "pipeline-${{ github.ref }}"
    file = yaml.safe_load(GITLAB.read_text())
    jobs = {name: job for name, job in file.items() if "script" in job}
    assert set(jobs) == {"build", "gpu", "note"}
    assert all(job["timeout"] and job["interruptible"] for job in jobs.values())
    assert file["workflow"]["auto_cancel"] == {"on_new_commit": "interruptible"}


def test_a_new_push_to_the_default_branch_leaves_the_run_that_pushes_to_the_remote() -> None:
    in_progress = yaml.safe_load(WORKFLOW.read_text())["concurrency"]["cancel-in-progress"]
    assert not holds(in_progress, {"github": {"event_name": "push"}})
    assert holds(in_progress, {"github": {"event_name": "pull_request"}})
    merge, default = yaml.safe_load(GITLAB.read_text())["workflow"]["rules"]
    assert merge == {"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'}
    assert default == {"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH", "auto_cancel": {"on_new_commit": "none"}}


def test_secrets_are_given_to_the_steps_that_talk_to_the_remote_alone() -> None:
    given = [step["name"] for _, step in STEPS if "secrets." in str(step.get("env"))]
    assert given == ["Build", "Report", "Push"] * 2
    assert WORKFLOW.read_text().count("${{ secrets.") == len(given)


def test_no_script_holds_text_that_the_service_puts_in() -> None:
    """A branch's or a title's text would be a program there."""
    assert not [step["run"] for _, step in STEPS if "${{" in step.get("run", "")]


def scripts() -> Iterator[str]:
    yield from (step["run"] for _, step in STEPS if "run" in step)
    for job in yaml.safe_load(GITLAB.read_text()).values():
        if isinstance(job, dict):
            yield from ("\n".join(job[key]) for key in ("before_script", "script", "after_script") if key in job)


def test_bash_can_read_every_script() -> None:
    found = list(scripts())
    assert len(found) == 6 + 5 + 2 + 3  # build, gpu; of GitLab before and after, and its three jobs
    for script in found:
        done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_both_install_and_find_the_remote_alike() -> None:
    """What stands twice in the workflow is the same text, but for what the GPU runner installs besides."""
    one, other = (
        {step["name"]: step["run"] for step in JOBS[job]["steps"] if "run" in step} for job in ("build", "gpu")
    )
    for name in one.keys() & other.keys() - {"Install", "Report"}:
        assert one[name] == other[name]
    besides = 'read -ra besides <<< "$INSTALL_GPU"\nwhat+=("${besides[@]}")\n'
    assert other["Install"].replace(besides, "") == one["Install"]


def event(name: str, source: str | None, actor: str) -> dict[str, Any]:
    """The context `github` of a push, or of a pull request from the repository `source`."""
    head = {"head": {"repo": {"full_name": source} if source else None}}
    return {"event_name": name, "repository": "us/ours", "actor": actor, "event": {"pull_request": head}}


@pytest.mark.parametrize(
    ("name", "source", "actor", "trusted"),
    [
        ("push", None, "me", True),
        ("workflow_dispatch", None, "me", True),
        ("pull_request", "us/ours", "me", True),
        ("pull_request", "them/ours", "them", False),
        ("pull_request", None, "them", False),  # the fork is gone
        ("pull_request", "us/ours", "dependabot[bot]", False),
    ],
)
def test_who_is_trusted(name: str, source: str | None, actor: str, trusted: bool) -> None:
    """Whatever the outputs are that a step of the job before has written, and its variables."""
    github = event(name, source, actor)
    assert holds(JOBS["build"]["env"]["TRUSTED"], {"github": github}) is trusted
    outputs = {"gpu": "report@a", "findings": "1", "trusted": "true", "TRUSTED": "true"}
    given = {"needs": {"build": {"outputs": outputs}}, "vars": {"QNTZ_GPU_RUNNER": '["gpu"]'}}
    given["env"] = {"TRUSTED": "true", "GITHUB_EVENT_NAME": "push", "GITHUB_REPOSITORY": source, "GITHUB_ACTOR": "me"}
    for job in ("gpu", "findings"):
        assert starts(job, {**given, "github": github}) is trusted
    (handed,) = (step["if"] for _, step in STEPS if step.get("with", {}).get("name") == "dvc-cache" and "if" in step)
    assert holds(handed, {**given, "github": github, "steps": {"targets": {"outputs": outputs}}}) is trusted


def test_no_condition_asks_for_what_a_step_can_change() -> None:
    conditions = [*(job.get("if", "") for job in JOBS.values()), *(step.get("if", "") for _, step in STEPS)]
    assert not [condition for condition in conditions if "env." in condition or "TRUSTED" in condition.upper()]
    assert set(JOBS["build"]["outputs"]) == {"gpu", "findings"}


# what is installed


def install_scripts() -> Iterator[str]:
    yield from (step["run"] for _, step in STEPS if step.get("name") == "Install")
    yield yaml.safe_load(GITLAB.read_text())[".pipeline"]["before_script"][0]


@pytest.mark.parametrize("script", list(install_scripts()), ids=("build", "gpu", "gitlab"))
@pytest.mark.parametrize(
    ("files", "asked"),
    [
        ({"pyproject.toml": "[project]\n"}, "-e ."),
        ({"requirements.txt": "", "requirements.lock": ""}, "-r requirements.txt -c requirements.lock"),
        ({"requirements.txt": "", "pyproject.toml": "[tool.ruff]\n"}, "-r requirements.txt"),
        ({"requirements.txt": "", "pyproject.toml": "[project]\nname = 'x'\n"}, "-r requirements.txt -e ."),
        ({"requirements.txt": "", "pyproject.toml": "# x\n[ build-system ]\n"}, "-r requirements.txt -e ."),
        ({"requirements.txt": "", "setup.py": ""}, "-r requirements.txt -e ."),
        ({"requirements.txt": "", "setup.cfg": "[metadata]\n"}, "-r requirements.txt"),  # which pip does not install
        (
            {"requirements.txt": "", "setup.py": "", "requirements.lock": ""},
            "-r requirements.txt -e . -c requirements.lock",
        ),
    ],
)
def test_what_is_installed(tmp_path: Path, script: str, files: dict[str, str], asked: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "tools/python").chmod(0o755)
    for install, expected in (("", asked), ("-e .[hf] dvc-s3", "-e .[hf] dvc-s3")):
        env = {"PATH": f"{tmp_path}/tools:/usr/bin:/bin", "INSTALL": install, "EXTRA_INDEX": "", "INSTALL_GPU": ""}
        done = subprocess.run([*BASH, script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        lock = " -c requirements.lock" if install and "requirements.lock" in files else ""
        assert (done.stdout, done.stderr) == (f"-m pip install {expected}{lock}\n", "")


def test_the_cache_has_a_key_for_every_file_that_pip_installs_by() -> None:
    """The action fails where it finds none of them."""
    used = [step["with"] for _, step in STEPS if step.get("uses", "").startswith("actions/setup-python")]
    expected = ["requirements.lock", "requirements.txt", "pyproject.toml", "setup.py", "setup.cfg"]
    assert [one["cache-dependency-path"].split() for one in used] == [expected] * 2
    assert set(PLACES) < set(expected)
