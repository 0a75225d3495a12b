"""Runs a question in a Python process of its own: what crashes, hangs or prints there does no harm here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECONDS = 120
ANSWER = "qntz-doctor:"  # at the beginning of the line that holds the answer; what is asked may print others


class Failed(Exception):
    """The process gave no answer; its text says why, in a line."""


def ask(code: str, arguments: Sequence[str] = (), root: Path | None = None, seconds: float = SECONDS) -> Any:
    """What the code hands to `answer(value)`, which is defined for it, as JSON keeps it; raises Failed."""
    whole = f"import json, sys\ndef answer(value): print({ANSWER!r} + json.dumps(value), flush=True)\n{code}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", whole, *arguments],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"did not end within {seconds:g} s") from None
    told = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if told and done.returncode == 0:
        return json.loads(told[-1].removeprefix(ANSWER))
    raise Failed(_why(done.returncode, done.stderr))


def _why(code: int, errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if not line.startswith(("^", "~"))), "")
    if code < 0:
        crash = f"the process crashed: {signal.Signals(-code).name}"
        return f"{crash} ({last})" if last else crash
    return last or f"the process ended with exit code {code}"
