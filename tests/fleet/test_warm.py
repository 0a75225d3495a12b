"""A stage that starts warm finds what one of its own process finds, and ends as that does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qntz.config import VARIABLES
from qntz.fleet.warm import _SHELLS, _STAGE

SLOW = pytest.mark.slow
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages start warm on Linux")

DRIVER = """
import os, signal, sys

def job(start, way, folder, shell, variables, command):
    import dvc.stage.run as of_dvc
    from dvc.stage.exceptions import StageCmdFailedError
    from qntz.fleet.warm import start_warm
    from qntz.repro.run import HANDED_ON

    os.environ.clear()
    os.environ.update(variables)
    for number in HANDED_ON:  # as a worker does
        signal.signal(number, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    if way == "warm":
        start_warm(start)
    try:
        of_dvc._run(shell or "/bin/sh", command, env={**variables, "DVC_ROOT": folder}, cwd=folder, close_fds=True)
    except StageCmdFailedError as error:
        print(str(error), file=sys.stderr, flush=True)
        os._exit(9)
    sys.stdout.flush()
    os._exit(0)

if __name__ == "__main__":
    from qntz.fleet import workers
    from qntz.fleet.warm import Start
    from qntz.repro.run import environment

    way, folder, shell, change, *command = sys.argv[1:]
    start, variables = Start.now(), environment()
    context = workers.context(start)
    exec(change)
    process = context.Process(target=job, args=(start, way, folder, shell, variables, " ".join(command)))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
PROBE = """
import atexit, json, logging, multiprocessing, os, signal, sys, tempfile, threading, time, warnings
import qntz, stages

child = multiprocessing.Process(target=lambda: None)
child.start()
child.join()

def opened():
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd") if int(n) > 2]
    told = [os.readlink(one).partition(":[")[0] for one in links if os.path.exists(one)]
    return sorted(one for one in told if one not in ("/dev/null", "/proc/self/fd") and "/fd" not in one)

held = tempfile.TemporaryDirectory(prefix="left-")
facts = {
    "name": __name__, "main": sys.modules["__main__"].__file__, "spec": __spec__.name, "argv": sys.argv, "path": sys.path,
    "cwd": os.getcwd(), "qntz": qntz.__file__,
    "open": opened(), "handlers": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    "streams": [[s.encoding, s.errors, s.line_buffering, s.fileno()] for s in (sys.stdout, sys.stderr)],
    "threads": threading.active_count(), "zone": time.tzname, "child": child.exitcode, "mask": len(signal.pthread_sigmask(0, [])),
    "multiprocessing": [multiprocessing.get_start_method(), str(multiprocessing.parent_process()), child.name,
                        multiprocessing.current_process().name],
    "flags": [one for name, one in zip(dir(sys.flags), sys.flags)][:9], "optimized": sys.flags.optimize,
    "logging": [str(one) for one in logging.root.handlers], "umask": os.umask(0o22), "closed": sys.stdin.closed,
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
if how == "interrupted":
    raise KeyboardInterrupt
if how.startswith("exits-"):
    sys.exit(int(how[6:]))
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
    elsewhere, site = project / "elsewhere", project / "site"
    for folder in (elsewhere, site):
        folder.mkdir(exist_ok=True)
    (elsewhere / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(elsewhere / "driver.py"), way, str(project), shell, change]
    command += ["python", "-m", "stages.probe", how]
    environment = {**os.environ, "PYTHONPATH": f"{site}:{REPOSITORY}"}
    for name in ("PYTHONUNBUFFERED", *VARIABLES):
        environment.pop(name, None)
    environment.update(extra)
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    first, _, rest = done.stdout.partition("\n")
    return json.loads(first), rest, done.stderr, done.returncode


ENDS = [
    "exits-0",
    *(pytest.param(one, marks=SLOW) for one in ("exits-3", "text", "raises", "interrupted", "killed", "unbuffered")),
]


@pytest.mark.parametrize("how", ENDS)
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


OTHER = "variables['OTHER'] = '1'"


@pytest.mark.parametrize("name", ["$HOME", "'a'", "a;false", "a>out.txt", "data/*.csv", "../a"])
def test_what_a_shell_has_to_read_is_left_to_it(name: str) -> None:
    assert _STAGE.fullmatch("python -m stages.export digits-int8") is not None
    assert _STAGE.fullmatch(f"python -m stages.export {name}") is None


def test_a_shell_is_known_by_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "bash").write_text("")
    assert {os.path.realpath("/bin/sh"), "/bin/bash"} & _SHELLS
    assert os.path.realpath(tmp_path / "bash") not in _SHELLS


@SLOW
@pytest.mark.parametrize(
    ("shell", "change", "file", "torch"),
    [
        ("", "", "", True),
        ("/bin/bash", "", "other.py", True),
        ("{project}/shell", "", "", False),  # which may do anything
        ("", OTHER, "", False),
        ("", "os.mkdir(start.path[0] + '/new-1.0.dist-info')", "", False),
        ("", "", "yaml.py", False),  # which stages import, where `python -m` starts them
        ("", "", "onnx/__init__.py", False),
        ("/bin/bash", "variables['BASH_ENV'] = os.environ['BASH_ENV'] = ''", "", False),  # which bash reads first
        ("", "", "site/safetensors/__init__.py", False),  # a library that is no installed one
        ("", "", "site/onnx.py", False),  # one that does not load
    ],
    ids=["plain", "bash", "shell", "environment", "packages", "module", "package", "bash-env", "library", "broken"],
)
def test_where_it_would_find_something_else_it_starts_cold(
    project: Path, shell: str, change: str, file: str, torch: bool
) -> None:
    (project / "shell").write_text('#!/bin/sh\nexec /bin/sh "$@"\n')
    (project / "shell").chmod(0o755)
    if file:
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text("raise ValueError" if file == "site/onnx.py" else "")
    (facts, found, _), *_ = run(project, "warm", "exits-0", shell.format(project=project), change)
    assert found == torch
    assert facts["environment"].get("OTHER") == ("1" if change == OTHER else None)
