"""A stage ends with the `dvc` that started it: killed or not, nothing goes on writing behind its back."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from qntz.parent import end_with


def die_with_parent() -> None:
    """Lets Linux send SIGKILL when the parent ends, and watches the `dvc` above a shell that may stand between.

    A process whose `dvc` is gone already, in the moments before this call, ends at once, and says so.
    """
    end_with()
    if sys.platform != "linux":
        return
    if "DVC_STAGE" not in os.environ:
        return  # started by hand
    ancestors = _ancestors()
    listed = _listed()
    above = next((pid for pid in ancestors if pid in listed or _is_dvc(pid)), None)
    if above is None and len(ancestors) <= 2:  # nothing but the shell and what takes orphans in
        told = "the dvc that started it has ended, and so it does. Where something else started it, unset DVC_STAGE."
        print(f"error: {os.environ['DVC_STAGE']}: {told}", file=sys.stderr, flush=True)
        os._exit(1)
    if above is None:
        return
    started = _started(above)

    def watch() -> None:
        while _started(above) == started:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _ancestors() -> list[int]:
    """The process ids above this one, the parent first."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 0:
        found.append(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _listed() -> set[int]:
    """The processes that name themselves in DVC's list as they run a stage, whatever program they are."""
    folder = next((one for one in (Path.cwd(), *Path.cwd().parents) if (one / ".dvc").is_dir()), Path.cwd())
    for _ in range(20):
        try:
            listed = json.loads((folder / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
            read = [one for some in listed.get("read", {}).values() for one in some]
            return {int(one["pid"]) for one in (*listed.get("write", {}).values(), *read)}
        except OSError:
            break
        except (ValueError, LookupError, TypeError, AttributeError):  # it is just being written
            time.sleep(0.05)
    return set()


def _is_dvc(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(part.rsplit(b"/", 1)[-1] in (b"dvc", b"dvc.exe") for part in command)


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks; None where it is gone or only waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
