"""Where the shipped files lie: in the tree of a clone, or inside the package of an installed wheel."""

from __future__ import annotations

from pathlib import Path

from qntz.errors import ArtifactError
from qntz.scaffold import table

INSIDE = Path(__file__).parent / "files"  # as setup.py puts them into a wheel


def source_root() -> Path:
    """The folder that the table's patterns are relative to; raises ArtifactError where this installation has none."""
    tree = Path(__file__).parent.parent.parent
    for root in (INSIDE, tree):
        if (root / "dvc.yaml").is_file() and (root / "stages" / "entry.py").is_file():
            return root
    do = "Install it again from where it came from: `pip install --force-reinstall --no-deps` of its clone or wheel."
    raise ArtifactError("the files of a project are not in this installation of qntz", where=str(INSIDE), do=do)


def shipped(name: str) -> str:
    """The text of one of the files; raises ArtifactError as `source_root`."""
    return (source_root() / name).read_text(encoding="utf-8")


def shipped_files(patterns: tuple[str, ...]) -> dict[str, bytes]:
    """The files that patterns of the table name, by their paths in a project; raises ArtifactError as `source_root`."""
    root = source_root()
    return {name: (root / name).read_bytes() for name in table.files(root, patterns)}
