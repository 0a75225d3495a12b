"""The environment that stages run in: DVC starts them with the `python` on PATH, which has to be this one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SECONDS = 60
_ASK = "import sys, importlib.util as u; print(sys.prefix); print(u.find_spec('qntz') is not None)"


def python_on_path() -> tuple[str, str, bool] | None:
    """The `python` on PATH, the prefix of its environment ("" where it does not run), and whether it finds qntz; None
    where there is none."""
    found = shutil.which("python")
    if found is None:
        return None
    try:
        done = subprocess.run(
            [found, "-c", _ASK], capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return found, "", False
    prefix, _, finds = done.stdout.strip().partition("\n")
    return found, prefix if done.returncode == 0 else "", finds == "True"


def is_this(told: tuple[str, str, bool] | None) -> bool:
    """Whether what `python_on_path` tells is the environment that this runs in."""
    return told is not None and bool(told[1]) and Path(told[1]).resolve() == Path(sys.prefix).resolve()


def other_python() -> str:
    """A sentence where the `python` on PATH is not of this environment, with what to do; "" where it is."""
    told = python_on_path()
    if is_this(told):
        return ""
    what = "there is no `python` on PATH" if told is None else f"`python` on PATH is {told[0]}"
    return f"{what}, and DVC starts the stages with it. Activate this environment: {activation()}."


def activation() -> str:
    """What a shell is told to put this environment first on PATH."""
    script = Path(sys.prefix) / "bin" / "activate"
    if script.is_file():
        return f". {script}"
    return f"export PATH={Path(sys.executable).parent}:$PATH"
