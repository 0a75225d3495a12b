"""What the digests of `inputs.<stage>` are made of, kept beside the memo, so that two can be told apart by name.

dvc.lock holds one digest for all of a stage's code, so that it stays small: DVC writes it anew at each stage. Which
module changed stands here instead, a file for each state that was composed. No stage reads it: where a digest is not
found (a fresh clone, a state of long ago), only the name is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from qntz.artifacts import BUILD, write_text
from qntz.fingerprint import digest

FOLDER = BUILD / "memo" / "parts"
MOST = 200  # states, of some 40 KB each

Parts = Mapping[str, Mapping[str, str]]
"""By digest the names (of modules, of files) that it is made of, each with its own digest."""


def keep(root: Path, parts: Parts) -> None:
    """Keeps a state where it is not kept yet; the states that were not composed for longest go."""
    folder = root / FOLDER
    path = folder / f"{digest(sorted(parts))}.json"
    with contextlib.suppress(FileNotFoundError):  # also where another process takes it away now
        os.utime(path)
        return
    pairs: dict[tuple[str, str], int] = {}
    of = {whole: [pairs.setdefault(pair, len(pairs)) for pair in names.items()] for whole, names in parts.items()}
    write_text(path, json.dumps({**of, "pairs": list(pairs)}))
    for old in _newest_first(folder)[MOST:]:
        old.unlink(missing_ok=True)  # another process may do the same


def kept(root: Path, whole: str) -> dict[str, str] | None:
    """What a digest is made of, by name; None where that is not known here."""
    for path in _newest_first(root / FOLDER):
        try:
            text = path.read_text(encoding="utf-8")
            state = json.loads(text) if whole in text else {}
            if whole in state:
                return dict(state["pairs"][index] for index in state[whole])
        except (OSError, ValueError, TypeError, LookupError):  # removed meanwhile, or damaged: as good as not there
            continue
    return None


def _newest_first(folder: Path) -> list[Path]:
    def age(path: Path) -> float:
        try:
            return -path.stat().st_mtime
        except OSError:
            return 0.0

    return sorted(folder.glob("*.json"), key=age)
