"""The order of what dvc.lock records, which a run side by side leaves as its stages ended: as one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qntz.artifacts import write_text
from qntz.repro.mend import DVC_LOCK, damage, dvc_lock, state_folder

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def recorded(lock: Path) -> list[str]:
    """The stages that a dvc.lock records, in its order; none where there is no such file."""
    return list(_load(lock).get("stages") or {}) if lock.is_file() else []


def put_in_order(root: Path, lock: Path, before: Sequence[str], order: Sequence[str]) -> None:
    """Orders the stages of a dvc.lock as a serial run leaves them: those that stood there before it first, as they
    stood, then the new ones as they were gone through. One that is damaged, or that another DVC writes, stays as it is.

    Args:
        lock: relative to the root. before: as `recorded` told before the run. order: the stages as DVC goes through
            them.
    """
    from dvc.lock import LockError
    from dvc.utils.serialize import dumps_yaml

    if not (root / lock).is_file():
        return
    place = {stage: number for number, stage in enumerate([*before, *(one for one in order if one not in before)])}
    try:
        with dvc_lock(state_folder(root), DVC_LOCK):
            if damage(root / lock) is not None:
                return
            told = _load(root / lock)
            stages = told["stages"]
            wanted = sorted(stages, key=lambda stage: place.get(stage, len(place)))
            if wanted != list(stages):
                write_text(root / lock, dumps_yaml({**told, "stages": {stage: stages[stage] for stage in wanted}}))
    except LockError:  # the order is for those who read it
        return


def _load(lock: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.load(lock.read_text(encoding="utf-8"), Loader=_Loader) or {}
    return found
