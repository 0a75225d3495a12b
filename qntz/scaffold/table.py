"""What `qntz init` copies: patterns of files relative to the root of qntz's own repository, which are the only source.

setup.py reads this table, and puts the same files into the wheel; so nothing but the standard library is imported here.
"""

from __future__ import annotations

from pathlib import Path

PIPELINE = (
    "dvc.yaml",
    ".dvc/plots/*.json",
    "conf/config.yaml",
    "conf/check/*.yaml",
    "conf/torchscript/*.yaml",
    "conf/export/*.yaml",
    "conf/simplify/*.yaml",
    "conf/calibrate/*.yaml",
    "conf/quantize/*.yaml",
    "conf/engine/*.yaml",
    "conf/verify/*.yaml",
    "conf/report/*.yaml",
    "stages/*.py",
    "plugins/complex_rotary.py",
)
"""The DAG, its configuration, its entry points and one plugin."""

CI = (".github/workflows/pipeline.yml", ".gitlab-ci.yml")
"""What runs it elsewhere."""

PARAMS = "params.yaml"
"""The entries, which are written for each project: this repository's are its own."""

EXAMPLE = "digits"
"""The model of a project that names none."""

EXAMPLE_FILES = (
    f"conf/model/{EXAMPLE}.yaml",
    "examples/__init__.py",
    f"examples/{EXAMPLE}/*.py",
    f"examples/{EXAMPLE}/README.md",
    f"examples/{EXAMPLE}/weights.safetensors",
    f"examples/{EXAMPLE}/data/*.npz",
)
"""Its source, weights and data."""


def files(root: Path, patterns: tuple[str, ...]) -> list[str]:
    """The files under `root` that the patterns name, relative to it, each pattern's sorted. One that matches nothing
    names nothing."""
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    return [path.relative_to(root).as_posix() for paths in found for path in paths if path.is_file()]


def all_files(root: Path) -> list[str]:
    """Everything that the table names, as `files` has it."""
    return files(root, (*PIPELINE, *CI, *EXAMPLE_FILES))
