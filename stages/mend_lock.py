"""Sets a damaged dvc.lock and the damaged list of DVC's own locks aside, before DVC stumbles over them: `make repro`
runs this first.

DVC rewrites both in place; a kill in that moment leaves half a file, which DVC then refuses. The results of the stages
are in DVC's run cache, keyed by their inputs, so a run without dvc.lock restores them. The list names what running
processes read and write, and holds nothing once none runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LOCK = Path("dvc.lock")
RUNNING = Path(".dvc/tmp/rwlock")


def damage(path: Path) -> str | None:
    """Why DVC would refuse this file; None where it would not."""
    import yaml
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        COMPILED_LOCKFILE_SCHEMA(data)
        for name, stage in (data.get("stages") or {}).items():
            for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                if "hash" in entry and entry["hash"] not in entry:
                    return f"{name}: {entry['path']}: no {entry['hash']!r}"
    except (yaml.YAMLError, UnicodeDecodeError, Invalid, TypeError) as error:
        return str(error).splitlines()[0]
    return None


def drop_if_damaged(path: Path) -> bool:
    """Removes the list of DVC's locks where DVC could not read it, and no DVC is about to write it."""
    from dvc.lock import LockError, make_lock
    from dvc.rwlock import RWLOCK_LOCK, SCHEMA
    from voluptuous import Invalid

    try:
        with make_lock(str(path.with_name(RWLOCK_LOCK)), tmp_dir=str(path.parent)):
            try:
                SCHEMA(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, Invalid):
                path.unlink()
                return True
    except LockError:
        return False  # it is being written
    return False


def main() -> int:
    if RUNNING.is_file() and drop_if_damaged(RUNNING):
        print(f"{RUNNING} was damaged, and is removed: it names running processes, and DVC writes it anew.")
    why = damage(LOCK) if LOCK.is_file() else None
    if why is not None:
        LOCK.replace(LOCK.with_suffix(".lock.damaged"))
        print(f"dvc.lock was damaged ({why}); it is dvc.lock.damaged now, and the run cache restores what was done.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
