"""The README, followed as a new user would: its files written, its commands run, in order, in a project of their own.

The two set-up commands are run by .ci/run instead.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import ROOT, Project

SET_UP = ("make repro", "make test", ". .venv/bin/activate")
BLOCK = re.compile(r"(?:^`(?P<file>[\w./]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text()


def blocks() -> list[tuple[str, str, str]]:
    """(kind, file that the text before it names, body) of every fenced block."""
    found = []
    for match in BLOCK.finditer(README):
        before = README[: match.start("kind")].rstrip("`\n ").splitlines()[-1]
        named = re.findall(r"`([\w./]+\.(?:py|yaml))`", before)
        found.append((match["kind"], match["file"] or (named[-1] if named else ""), match["body"]))
    return found


def follow(project: Project, kind: str, file: str, body: str) -> None:
    if kind == "console":
        lines = body.splitlines()
        for index, line in enumerate(lines):
            if not line.startswith("$ ") or line[2:] in SET_UP:
                continue
            expected = "".join(lines[index + 1 : index + 2]) if lines[index + 1 : index + 2] else ""
            done = project.run("bash", "-c", line[2:])
            output = done.stdout + done.stderr
            if expected.startswith("error: "):
                assert done.returncode != 0, line
                assert expected in output, output
            else:
                assert done.returncode == 0, f"{line}\n{output[-3000:]}"
    elif kind == "yaml" and file == "params.yaml":
        params = yaml.safe_load((project.path / file).read_text())
        for group, entries in yaml.safe_load(body).items():
            params[group].update(entries)
        (project.path / file).write_text(yaml.safe_dump(params, sort_keys=False))
    elif kind in ("python", "yaml"):
        path = project.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)


def test_every_block_has_a_place() -> None:
    kinds = [(kind, file) for kind, file, _ in blocks()]
    assert [kind for kind, _ in kinds].count("console") >= 8
    assert all(file for kind, file in kinds if kind in ("python", "yaml")), kinds


@pytest.mark.slow
def test_the_readme_works(default: Project, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(default.path, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project", {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org"})
    for kind, file, body in blocks():
        follow(project, kind, file, body)
    assert (project.path / "build/models/mine/engines/mine-fp16/model.engine").stat().st_size > 0
    assert (project.path / "build/models/sure/engines/sure-fp32/model.engine").stat().st_size > 0


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
