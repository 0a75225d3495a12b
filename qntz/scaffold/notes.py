"""What may go wrong next in a repository that has become a project, told beforehand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qntz.environment import other_python
from qntz.scaffold.git import git
from qntz.scaffold.requirement import EXAMPLE, PLACES, lacking, requirement, unpushed

DISCOVERED = ("conf", "stages", "plugins")  # of the new folders those that setuptools takes for packages


def notes(root: Path, written: Sequence[str]) -> Iterator[str]:
    """A sentence for each: another `python` on PATH, a project that does not ask for qntz, files that git ignores, and
    setuptools' discovery."""
    if why := other_python():
        yield why
    yield from _requirement(root, written)
    if ignored := _ignored(root, written):
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        yield f"git ignores {', '.join(ignored[:3])}{more}, so a clone would lack them: see `git check-ignore -v FILE`."
    if _discovers(root):
        yield (
            f"setuptools finds this project's packages by itself, and {', '.join(DISCOVERED)} at the top stop it: name "
            'yours in pyproject.toml, [tool.setuptools] packages = ["yours"].'
        )


def _requirement(root: Path, written: Sequence[str]) -> Iterator[str]:
    file, asked = lacking(root), requirement()
    if file and asked:
        yield f"{file} does not name qntz, and what installs this project elsewhere needs it: add {asked}."
    elif file:
        yield (
            f"{file} does not name qntz, and what installs this project elsewhere needs it: say there where it is to "
            f"be installed from, for instance {EXAMPLE}; the qntz of PyPI is another project."
        )
    if asked and (file or PLACES[0] in written) and unpushed(asked):
        yield f"no branch of its remote has this commit of qntz, so nobody else can install it: push it ({asked})."


def _ignored(root: Path, names: Sequence[str]) -> list[str]:
    told = git(root, "check-ignore", "--stdin", "-z", stdin="\0".join(names)) or ""
    return [name for name in told.split("\0") if name]


def _discovers(root: Path) -> bool:
    """Whether a build of the project by setuptools looks for packages at the top."""
    path = root / "pyproject.toml"
    if not path.is_file() or (root / "src").is_dir() or (root / "setup.cfg").is_file() or (root / "setup.py").is_file():
        return False
    if sys.version_info < (3, 11):  # no tomllib
        return False
    import tomllib

    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # damaged: whoever builds the project says so
        return False
    backend = _table(told, "build-system").get("build-backend", "setuptools.build_meta")
    settings = _table(_table(told, "tool"), "setuptools")
    named = {"packages", "py-modules"} & settings.keys()
    return "project" in told and str(backend).startswith("setuptools") and not named


def _table(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of a TOML file; an empty one where it is missing, or is none: whoever builds the project says so."""
    table = told.get(key)
    return table if isinstance(table, dict) else {}
