"""What GitHub Actions and GitLab CI do with the files in the root, as far as it can be done without them: scripts are
taken from the YAML in order and run by bash in an environment that holds what the service gives. Actions (`uses:`), the
images of GitLab's jobs and their caches and artifacts are left out."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.pipeline.conftest import ROOT, stages_run

WORKFLOW = ROOT / ".github/workflows/pipeline.yml"
GITLAB = ROOT / ".gitlab-ci.yml"
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
MACHINE = ("PIP_", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT", "REQUESTS_CA")
"""Beginnings of what a runner's own image may set: where packages come from."""


@dataclass
class Runner:
    """A machine that a job finds: a home, a folder for temporary files, and on PATH a Python that has all packages but
    qntz. The job's own `pip install` finds them there, and installs qntz."""

    path: Path

    def __post_init__(self) -> None:
        for folder in ("home", "tmp"):
            (self.path / folder).mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", self.path / "venv"], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        inner, outer = (Path(prefix) / "lib" / version / "site-packages" for prefix in (self.path / "venv", sys.prefix))
        for package in outer.iterdir():
            if "qntz" not in package.name and not (inner / package.name).exists():
                (inner / package.name).symlink_to(package)

    def env(self) -> dict[str, str]:
        machine = {name: value for name, value in os.environ.items() if name.startswith(MACHINE)}
        tools = f"{self.path / 'venv' / 'bin'}:{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"
        return {**machine, "HOME": f"{self.path}/home", "TMPDIR": f"{self.path}/tmp", "PATH": tools, "CI": "true"}


@dataclass
class Done:
    """What became of a job: the steps by name ("success", "failure", "skipped"), all that they printed, the summary, the
    outputs of the job, and the variables that its steps have set."""

    steps: dict[str, str] = field(default_factory=dict)
    printed: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)

    @property
    def ran(self) -> set[str]:
        return stages_run(self.printed) - {"compose"}

    @property
    def failed(self) -> list[str]:
        return [name for name, outcome in self.steps.items() if outcome == "failure"]


def value_of(expression: str, contexts: Mapping[str, Any]) -> Any:
    """The value of an expression of GitHub's (https://docs.github.com/actions, Evaluate expressions), of the operators
    and functions that the file uses; a name that is not there is None."""

    def found(name: str) -> Any:
        place: Any = contexts
        for part in name.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        return place

    words = re.findall(r"'[^']*'|&&|\|\||==|!=|!|[()]|[\w.-]+", expression)
    assert "".join(words) == re.sub(r"\s+(?=(?:[^']*'[^']*')*[^']*$)", "", expression), expression
    signs = {"&&": "and", "||": "or", "!": "not", "==": "==", "!=": "!=", "(": "(", ")": ")"}
    functions = {"fromJSON": json.loads, "cancelled": lambda: False}
    code = " ".join(
        signs.get(word) or (word if word[0] == "'" or word in functions else f"found({word!r})") for word in words
    )
    return eval(code, {"__builtins__": {}}, {"found": found, **functions})


def filled(text: Any, contexts: Mapping[str, Any]) -> str:
    """A text of the file with its `${{ }}` put in."""

    def shown(match: re.Match[str]) -> str:
        value = value_of(match[1].strip(), contexts)
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return re.sub(r"\$\{\{(.*?)\}\}", shown, str(text))


def holds(condition: Any, contexts: Mapping[str, Any]) -> bool:
    match = re.fullmatch(r"\$\{\{(.*)\}\}", str(condition))
    assert match, condition
    return bool(value_of(match[1].strip(), contexts))


def _pairs(path: Path) -> dict[str, str]:
    """What a step has written to one of its files, which is then gone."""
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    path.unlink()
    return {key: value for key, _, value in pairs}


def starts(job: str, contexts: Mapping[str, Any]) -> bool:
    """Whether a job of pipeline.yml starts, after those that it needs."""
    return holds(yaml.safe_load(WORKFLOW.read_text())["jobs"][job]["if"], contexts)


def run_github(
    job: str, clone: Path, runner: Runner, contexts: Mapping[str, Any], edited: Mapping[str, str] | None = None
) -> Done:
    """Runs the steps of a job of pipeline.yml in a clone.

    Args:
        contexts: github, secrets, vars and needs as the service fills them. edited: variables at the file's top that a
            user has set to something else.
    """
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["defaults"]["run"]["shell"] == "bash"  # without which there is no pipefail
    steps, done = workflow["jobs"][job], Done()
    folder = runner.path / "github" / f"{job}-{clone.name}"
    (folder / "temp").mkdir(parents=True)
    files = {name: folder / name.lower() for name in ("STEP_SUMMARY", "OUTPUT", "ENV", "PATH")}
    github = contexts["github"]
    given = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(clone),
        "RUNNER_TEMP": str(folder / "temp"),
        **{f"GITHUB_{name}": str(path) for name, path in files.items()},
        **{
            f"GITHUB_{name.upper()}": github.get(name, "")
            for name in ("event_name", "ref", "ref_name", "base_ref", "repository")
        },
    }
    env = {name: str(value) for name, value in {**workflow["env"], **(edited or {})}.items()}
    known: dict[str, Any] = {**contexts, "env": env, "steps": {}}
    env |= {
        name: filled(value, known) for name, value in steps.get("env", {}).items()
    }  # the context is the same mapping
    for number, step in enumerate(steps["steps"]):
        name, condition = step.get("name", step.get("uses", "").partition("@")[0]), step.get("if")
        fine = not done.failed
        if condition is None or "cancelled()" not in condition:  # else it means a failed job too
            wanted = fine and (condition is None or holds(condition, known))
        else:
            wanted = holds(condition, known)
        outcome = "skipped"
        if "uses" in step:
            done.actions += [name] * wanted
            outcome = "success" if wanted else "skipped"
        elif wanted:
            for path in files.values():
                path.touch()
            own = {key: filled(value, known) for key, value in step.get("env", {}).items()}
            ended = subprocess.run(
                [*BASH, step["run"]], cwd=clone, env={**runner.env(), **given, **env, **own},
                capture_output=True, text=True, timeout=1200, check=False,
            )  # fmt: skip
            done.printed += ended.stdout + ended.stderr
            outcome = "success" if ended.returncode == 0 else "failure"
            outputs, more = (_pairs(files[one]) for one in ("OUTPUT", "ENV"))
            done.variables |= more
            env |= more  # what a step writes there, later steps and conditions are given
            if "id" in step:
                known["steps"][step["id"]] = {"outputs": outputs}
        if "id" in step:
            known["steps"].setdefault(step["id"], {})["outcome"] = outcome
        done.steps[name if name not in done.steps else f"{name} {number}"] = outcome
        assert not (clone / ".dvc/config.local").exists(), f"{name} leaves the credentials behind"
    if files["STEP_SUMMARY"].exists():
        done.summary = files["STEP_SUMMARY"].read_text()
    done.outputs = {name: filled(value, known) for name, value in steps.get("outputs", {}).items()}
    return done


def run_gitlab(job: str, clone: Path, runner: Runner, given: Mapping[str, str]) -> Done:
    """Runs the scripts of a job of .gitlab-ci.yml in a clone; given: the variables of the project and the pipeline."""
    file = yaml.safe_load(GITLAB.read_text())
    own = file[job]
    whole = {**file.get(own.get("extends", ""), {}), **own}
    variables = {**given, "GITLAB_CI": "true", "CI_PROJECT_DIR": str(clone)}
    for name, value in {**file["variables"], **whole.get("variables", {})}.items():
        variables.setdefault(name, string.Template(str(value)).safe_substitute(variables))
    env, done = {**runner.env(), **variables}, Done()
    scripts = {
        "script": [*whole.get("before_script", ()), *whole["script"]],
        "after_script": whole.get("after_script", ()),
    }
    for name, lines in scripts.items():
        ended = subprocess.run(
            [*BASH, "\n".join(lines)], cwd=clone, env=env, capture_output=True, text=True, timeout=1200, check=False
        )
        done.printed += ended.stdout + ended.stderr
        done.steps[name] = "success" if ended.returncode == 0 else "failure"
    assert not (clone / ".dvc/config.local").exists()
    if (clone / "summary.md").exists():
        done.summary = (clone / "summary.md").read_text()
    return done
