"""Sets a damaged dvc.lock aside, before DVC stumbles over it: `make repro` runs this first.

DVC rewrites dvc.lock in place after each stage; a kill in that moment leaves half a file, which DVC then refuses. The
results of the stages are in DVC's run cache, keyed by their inputs, so a run without dvc.lock restores them.
"""

from __future__ import annotations

import sys
from pathlib import Path

LOCK = Path("dvc.lock")


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


def main() -> int:
    why = damage(LOCK) if LOCK.is_file() else None
    if why is not None:
        LOCK.replace(LOCK.with_suffix(".lock.damaged"))
        print(f"dvc.lock was damaged ({why}); it is dvc.lock.damaged now, and the run cache restores what was done.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
