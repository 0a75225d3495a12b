"""A stage that starts warm finds what one of its own process finds, and ends as that does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qntz.fleet.warm import SET

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages start warm on Linux")

DRIVER = """
import json, os, sys
sys.path.insert(0, {repository!r})
import dvc.stage.run as of_dvc, qntz.fleet.loaded
from dvc.stage.exceptions import StageCmdFailedError
from qntz.fleet.warm import SET, Start, start_warm
folder, way, shell, change, *command = sys.argv[1:]
start = Start.now()
lock = open("held", "w")
if way == "warm":
    start_warm(start)
exec(change)
env = {{**start.variables, "DVC_STAGE": "probe@a", "DVC_ROOT": folder}}
del env["DVC_STAGE"]  # else it would look for a DVC above
try:
    of_dvc._run(shell or "/bin/sh", " ".join(command), env=env, cwd=folder, shell=False, close_fds=True)
except StageCmdFailedError as error:
    print(error.exit_code if hasattr(error, "exit_code") else str(error), file=sys.stderr)
    sys.exit(9)
"""
PROBE = """
import atexit, json, os, signal, sys, tempfile, threading, time
import qntz, stages

def opened():
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd") if int(n) > 2]
    told = [os.readlink(one) for one in links if os.path.exists(one)]
    return sorted(one for one in told if one not in ("/dev/null", "/proc/self/fd") and "/fd" not in one)

held = tempfile.TemporaryDirectory(prefix="left-")
facts = {
    "name": __name__, "main": sys.modules["__main__"].__file__, "spec": __spec__.name, "argv": sys.argv, "path": sys.path,
    "cwd": os.getcwd(), "hash": hash("a"), "qntz": qntz.__file__,
    "open": opened(), "handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    "streams": [[s.encoding, s.errors, s.line_buffering, s.fileno()] for s in (sys.stdout, sys.stderr)],
    "threads": threading.active_count(), "zone": time.tzname,
}
of_the_shell = ("_", "SHLVL", "OLDPWD")
facts["environment"] = {name: value for name, value in os.environ.items() if name not in of_the_shell}
torch = "torch" in sys.modules
print(json.dumps([facts, torch, held.name]), flush=True)
atexit.register(print, "the end")
threading.Timer(0.3, print, ["a thread"]).start()
how = sys.argv[1]
if how == "text":
    sys.exit("why not")
if how == "raises":
    raise KeyError("lost")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how.isdigit():
    sys.exit(int(how))
"""
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for path, text in {
        "stages/__init__.py": "",
        "stages/probe.py": PROBE,
        "qntz/__init__.py": "",
        "driver.py": "",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def run(
    project: Path, way: str, how: str, shell: str = "", change: str = "", **extra: str
) -> tuple[list[Any], str, str, int]:
    """What the probe found, what it said afterwards, what went to stderr, and the driver's exit code."""
    elsewhere = project / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    code = DRIVER.format(repository=str(REPOSITORY))
    command = [sys.executable, "-c", code, str(project), way, shell, change, "python", "-m", "stages.probe", how]
    environment = {**os.environ, **SET}
    environment.pop("PYTHONUNBUFFERED", None)
    environment.update(extra)
    environment["PYTHONPATH"] = str(project / "site")
    Path(environment["PYTHONPATH"]).mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    first, _, rest = done.stdout.partition("\n")
    return json.loads(first), rest, done.stderr, done.returncode


@pytest.mark.parametrize("how", ["0", "3", "text", "raises", "killed", "unbuffered"])
def test_it_finds_and_leaves_what_a_process_of_its_own_does(project: Path, how: str) -> None:
    extra = {"PYTHONUNBUFFERED": "1"} if how == "unbuffered" else {}
    (facts, torch, folder), said, errors, code = run(project, "warm", how, **extra)
    (wanted, its_torch, _), its_said, its_errors, its_code = run(project, "cold", how, **extra)
    assert (torch, its_torch) == (True, False)
    assert facts == wanted
    assert facts["qntz"] == str(project / "qntz/__init__.py")  # and not the one that started it
    assert (said, code) == (its_said, its_code)
    assert said == ("" if how == "killed" else "a thread\nthe end\n")
    assert errors.splitlines()[-1:] == its_errors.splitlines()[-1:]
    assert (how != "text") or "why not" in errors.splitlines()
    assert (how != "raises") or "KeyError: 'lost'" in errors.splitlines()
    assert os.path.exists(folder) == (how == "killed")


OTHER = "start = Start({**start.variables, 'OTHER': '1'}, start.path, start.installed)"


@pytest.mark.parametrize(
    ("shell", "change", "file", "torch"),
    [
        ("", "", "", True),
        ("/bin/bash", "", "other.py", True),
        ("{project}/shell", "", "", False),  # which may do anything
        ("", OTHER, "", False),
        ("", "os.mkdir(os.environ['PYTHONPATH'] + '/new-1.0.dist-info')", "", False),
        ("", "", "yaml.py", False),  # which stages import, where `python -m` starts them
        ("", "", "onnx/__init__.py", False),
    ],
    ids=["plain", "bash", "shell", "environment", "packages", "module", "package"],
)
def test_where_it_would_find_something_else_it_starts_cold(
    project: Path, shell: str, change: str, file: str, torch: bool
) -> None:
    (project / "shell").write_text('#!/bin/sh\nexec /bin/sh "$@"\n')
    (project / "shell").chmod(0o755)
    if file:
        (project / file).parent.mkdir(exist_ok=True)
        (project / file).write_text("")
    (facts, found, _), *_ = run(project, "warm", "0", shell.format(project=project), change)
    assert found == torch
    assert facts["environment"].get("OTHER") == ("1" if change == OTHER else None)
