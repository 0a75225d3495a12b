"""Who runs stages here, by the list in which each DVC names itself while it does: who reads and writes which path.

A DVC that was killed stays in it, and its process id may be another's by now. DVC takes that one for it, and refuses
for as long as it lives; here it is compared with what the list says.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CLOCK = 2.0  # seconds by which the times of processes and files may be apart


def entries(listed: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Each that reads or writes, with its `pid` and `cmd`."""
    yield from listed.get("write", {}).values()
    for some in listed.get("read", {}).values():
        yield from some


def at_work(path: Path) -> str | None:
    """The DVC that runs a stage, its command and process, by the list at `path`; None where none does, or the list is
    just being written."""
    try:
        written = path.stat().st_mtime
        running = {int(one["pid"]): str(one["cmd"]) for one in entries(json.loads(path.read_text(encoding="utf-8")))}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # DVC itself decides
        return None
    found = (pid for pid, command in running.items() if is_it(pid, command, written, path.parent))
    return next((f"{shown(running[pid])} (process {pid})" for pid in found), None)


def is_it(pid: int, command: str, written: float, state: Path) -> bool:
    """Whether a process is the one that named itself so in the list, rather than none, or another that has its id now.

    Args:
        command: its arguments as Python had them, by blanks. written: when the list was, at the latest. state: the
            folder of the list.
    """
    import psutil

    program, _, arguments = command.partition(" ")
    ends = (f" {arguments}",) if arguments else (program, Path(program).stem)  # the last is how `python -m` has it
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        fits = " ".join(process.cmdline()).endswith(ends)
        later = process.create_time() > written + CLOCK
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # of another user, who does not let it be seen
    here = False
    with contextlib.suppress(psutil.Error, OSError):
        here = Path(process.cwd()).is_relative_to(state.parent.parent.resolve())
    # what calls DVC from Python may have changed its arguments, or work elsewhere; and clocks are set
    return (fits and here) or (not later and (fits or here))


def shown(command: str) -> str:
    """A command as it is told: without the folder of its program."""
    program, *rest = command.split(" ")
    return f"`{' '.join([os.path.basename(program), *rest])}`"
