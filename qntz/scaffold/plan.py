"""What is to be written where, worked out and checked before anything is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from qntz import plugins
from qntz.errors import ArtifactError, PluginError, UsageError
from qntz.scaffold import table
from qntz.scaffold.git import branch, git
from qntz.scaffold.model import Entry
from qntz.scaffold.requirement import PLACES, UNKNOWN, requirement
from qntz.scaffold.shipped import shipped, shipped_files

DEPS = re.compile(r"^(    deps: )\[[^]\n]*\]", re.MULTILINE)  # compose's: the others have a line each
BRANCHES = re.compile(r"^(    branches: )\[[^]\n]*\]", re.MULTILINE)
PARAMS = """\
# Captured and exported once each; conf/model/<name>.yaml, or another with `use:`. A mapping under a group overrides it.
models:
{models}
# Each built from an entry of models, whose overrides it inherits.
engines:
{engines}
"""
EXAMPLE_ENTRIES = {
    "models": ["  digits: {}"],
    "engines": [
        "  digits-fp32: {model: digits}",
        "  digits-fp16: {model: digits, quantize: {use: fp16}}",
        "  digits-int8: {model: digits, quantize: {use: int8}}",
    ],
}
"""Not read from the params.yaml beside the shipped files: in a clone that is in use it is somebody's own."""
IGNORED = {
    ".gitignore": ("/build/", "__pycache__/", "/dvc_plots/", "dvc.lock.damaged*"),
    ".dvcignore": ("__pycache__/", "*.tmp"),
}
"""Lines that these files need: added where they lack them."""
WORKFLOW = table.CI[0]
PLOTS = ".dvc/plots/"  # of the repository of DVC, which may begin further up


@dataclass(frozen=True)
class Plan:
    """What makes a folder a project.

    Attributes:
        root: the folder. files: new ones, by path relative to it. lines: to be added to a file, by its name. git, dvc:
            whether there is no repository yet. dvc_root: of the repository of DVC, there or to be made. subdir: whether
            that lies below git's. branch: the one that CI builds, on which a new repository begins. left_out: a
            sentence for each thing that was left out.
    """

    root: Path
    files: Mapping[str, bytes]
    lines: Mapping[str, Sequence[str]]
    git: bool
    dvc: bool
    dvc_root: Path
    subdir: bool
    branch: str = "main"
    left_out: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Where one of its files goes."""
        return (self.dvc_root if name.startswith(PLOTS) else self.root) / name


def plan_of(root: Path, entry: Entry | None = None) -> Plan:
    """The plan of a project at `root`, which need not exist, with an entry of its own or the example; raises
    ArtifactError where this installation has no files to copy."""
    git_root = _above(root, ".git")
    dvc_root = _above(root, ".dvc/config", until=git_root)
    at_top = git_root in (None, root)
    kinds = (table.PIPELINE, table.CI if at_top else (), table.EXAMPLE_FILES if entry is None else ())
    files = {name: data for kind in kinds for name, data in shipped_files(kind).items()}
    files[table.PARAMS] = _params(entry).encode()
    if entry is not None:
        files["dvc.yaml"] = pipeline(shipped("dvc.yaml"), entry.deps).encode()
        files[f"conf/model/{entry.name}.yaml"] = entry.conf.encode()
    if at_top and not any((root / name).exists() for name in PLACES):
        files[PLACES[0]] = f"{requirement() or UNKNOWN}\n".encode()
    trunk = branch(git_root or next(place for place in (root, *root.parents) if place.is_dir()))
    if WORKFLOW in files:
        files[WORKFLOW] = _on_push(files[WORKFLOW], trunk)
    lines = {name: _missing_lines(root / name, wanted) for name, wanted in IGNORED.items()}
    left_out = () if at_top else (f"no CI files: they belong to the top of the repository, {git_root}",)
    return Plan(
        root,
        dict(sorted(files.items())),
        {name: missing for name, missing in lines.items() if missing},
        git=git_root is None and dvc_root is None,  # DVC without git is somebody's choice
        dvc=dvc_root is None,
        dvc_root=dvc_root or root,
        subdir=not at_top,
        branch=trunk,
        left_out=left_out,
    )


def pipeline(text: str, deps: Sequence[str]) -> str:
    """dvc.yaml with other dependencies of compose in the place of this repository's."""
    flow = yaml.safe_dump(list(deps), default_flow_style=True, width=10**9, allow_unicode=True).strip()
    made, count = DEPS.subn(lambda match: match[1] + flow, text)
    if count != 1:
        raise ArtifactError("compose has no one line of deps", where="dvc.yaml", do="Install qntz anew.")
    return made


def _params(entry: Entry | None) -> str:
    """params.yaml with the example's entries or the given ones."""
    entries = EXAMPLE_ENTRIES if entry is None else entry.params
    return PARAMS.format(**{kind: "\n".join(lines) for kind, lines in entries.items()})


def _on_push(workflow: bytes, name: str) -> bytes:
    """The workflow that runs at a push to that branch alone."""
    pattern = re.sub(r"([+!])", r"\\\1", name)  # which mean something in a pattern, and may be in a name
    flow = yaml.safe_dump([pattern], default_flow_style=True, width=10**9, allow_unicode=True).strip()
    return BRANCHES.sub(lambda match: match[1] + flow, workflow.decode()).encode()


def _above(folder: Path, name: str, until: Path | None = None) -> Path | None:
    """The nearest folder upwards that has an entry of that name, no further than `until`."""
    for place in (folder, *folder.parents):
        if (place / name).exists():
            return place
        if place == until:
            break
    return None


def _missing_lines(path: Path, wanted: Iterable[str]) -> list[str]:
    """Those that a file of patterns lacks, with or without the slashes around them."""
    there = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    known = {line.strip().strip("/") for line in there}
    return [line for line in wanted if line.strip("/") not in known]


def require_free(plan: Plan) -> None:
    """Raises UsageError where anything of the plan is in the way, ArtifactError where the folder cannot be written, and
    PluginError where plugins/ holds files that are no plugins; a file of the same content is not in the way."""
    nearest = next(place for place in (plan.root, *plan.root.parents) if place.exists())
    if not nearest.is_dir():
        raise UsageError("is no folder", where=str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ArtifactError("cannot be written", where=str(nearest), why="permission denied")
    if plan.git and shutil.which("git") is None:
        raise ArtifactError("git is not installed", why="DVC keeps its files in a git repository", do="Install git.")
    if plan.dvc and not plan.git and (pattern := _ignoring(plan.root / ".dvc" / "config")):
        do = "Nothing was written. Take the pattern out: DVC keeps its configuration in git."
        raise UsageError("git ignores .dvc", where=_where(plan), why=pattern, do=do)
    if names := sorted(set(_in_the_way(plan))):
        verb, it = ("is", "it") if len(names) == 1 else ("are", "them")
        do = f"Move {it} away, or give a folder of its own: qntz init FOLDER."
        if (plan.root / "stages" / "entry.py").is_file():
            do = "It is a project already: a further model is a conf/model/NAME.yaml, and an entry of params.yaml."
        raise UsageError(f"{', '.join(names)} {verb} in the way", where=_where(plan), do=f"Nothing was written. {do}")
    for path in plugins.local_files(plan.root):
        if plugins.hooks_in(path) == []:
            do = "Let its name begin with an underscore, move it, or give a folder of its own: qntz init FOLDER."
            why = "qntz loads every file of plugins/"
            raise PluginError("is no plugin of qntz", where=str(path.relative_to(plan.root)), why=why, do=do)


def _ignoring(path: Path) -> str:
    """The pattern by which git ignores a file that need not be there, with its place; "" where it does not."""
    folder = next(place for place in path.parents if place.is_dir())
    if git(folder, "check-ignore", str(path)) is None:
        return ""
    return (git(folder, "check-ignore", "--verbose", str(path)) or "").partition("\t")[0]


def _where(plan: Plan) -> str:
    return "" if plan.root == Path.cwd() else str(plan.root)


def _in_the_way(plan: Plan) -> Iterator[str]:
    """What stands at a place that is wanted, or where a folder is wanted."""
    for name, data in plan.files.items():
        path = plan.path(name)
        if os.path.lexists(path):
            if not path.is_file() or path.read_bytes() != data:
                yield name
            continue
        top = path.parents[len(Path(name).parts) - 1]
        for folder in path.parents[: len(Path(name).parts) - 1]:
            if os.path.lexists(folder) and not folder.is_dir():
                yield folder.relative_to(top).as_posix()
    for name in plan.lines:
        if os.path.lexists(plan.root / name) and not (plan.root / name).is_file():
            yield name
    if plan.dvc and os.path.lexists(plan.root / ".dvc"):
        yield ".dvc"  # without a configuration: DVC would refuse it
