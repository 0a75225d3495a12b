"""What a process tells Linux of itself: that it ends with the one that started it, and what it is called."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


def end_with(parent: int | None = None) -> None:
    """Lets Linux send this process SIGKILL when its parent ends; at once, where `parent` is gone already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def call_process(name: str) -> None:
    """What `top` and `ps` show of this process, as far as Linux keeps it: 15 bytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))
