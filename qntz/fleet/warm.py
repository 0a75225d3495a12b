"""Stages that start warm: in a process that is forked where the libraries which stages import are loaded already.

Most of what a small stage takes is the import of torch and its like, which is the same each time. A worker of
`qntz repro -j` comes from a process that has them, so its stages are forked from it, in place of being started anew. A
stage has nothing else of it: the project's and qntz's own modules are imported anew, from where `python -m` finds them,
and open files, handlers of signals and streams are those of a process of its own. Where anything is otherwise than it
would be in one (another environment, packages that changed meanwhile, a file of the project in a library's place, a
command that is no stage's), the command is run as DVC runs it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from qntz.parent import call_process, end_with
from qntz.repro.run import HANDED_ON, environment
from qntz.watch import OWN, distributions_in, is_installed

SET = {"PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "passive"}  # with which the stages that capture and export start over
_STAGE = re.compile(r"python -m (stages\.\w+) (\S+)")
_SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh")  # which only start it; another one may do more
_GIVEN = ("DVC_", "CUDA_VISIBLE_DEVICES")  # set for each stage, and read by no library while it is imported


@dataclass(frozen=True)
class Start:
    """How the process was started that has the libraries.

    Attributes:
        variables: its environment. path: where `python -m` looks, after the working directory. installed: the
            distributions in there, as they were before.
    """

    variables: Mapping[str, str]
    path: tuple[str, ...]
    installed: tuple[tuple[str, ...], ...]

    @classmethod
    def now(cls) -> Start:
        """As it would be started now."""
        variables = {**environment(), **SET}
        told = subprocess.run(
            [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\0', end='')"],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        path = tuple(told.stdout.split("\0"))
        return cls(variables, path, _installed(path))

    @contextlib.contextmanager
    def environ(self) -> Iterator[None]:
        """This process's environment, for the time being: what it starts meanwhile has it."""
        kept = dict(os.environ)
        os.environ.update(self.variables)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(kept)

    def is_fit(self, executable: str, variables: Mapping[str, str], folder: str) -> bool:
        """Whether a stage may start warm: in a folder, with an environment, by a shell."""
        if sys.platform != "linux" or os.path.basename(executable) not in _SHELLS:
            return False
        if _plain({**variables, **SET}) != _plain(self.variables) or _installed(self.path) != self.installed:
            return False
        loaded = {one.partition(".")[0] for one in sys.modules} - {*OWN}
        return not any(_module_of(entry) in loaded for entry in os.scandir(folder))


def _plain(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(_GIVEN)}


def _installed(path: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(distributions_in(one)) for one in path)


def _module_of(entry: os.DirEntry[str]) -> str:
    """The module that a file or folder is; "" where it is none."""
    if entry.name.endswith(".py"):
        return entry.name[:-3]
    return entry.name if os.path.exists(os.path.join(entry.path, "__init__.py")) else ""


def start_warm(start: Start) -> None:
    """DVC in this process forks the stages that it runs, where they may start warm."""
    import dvc.stage.run as of_dvc
    from dvc.stage.exceptions import StageCmdFailedError

    cold: Callable[..., None] = of_dvc._run

    def run(executable: str, cmd: str, **options: Any) -> None:
        stage = _STAGE.fullmatch(cmd)
        if stage is None or not start.is_fit(executable, options["env"], options["cwd"]):
            cold(executable, cmd, **options)
            return
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            _be(stage[1], stage[2], start, options["cwd"], {**options["env"], **SET})
        kept = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does: the stage hears it as well
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        finally:
            signal.signal(signal.SIGINT, kept)
        if code:
            raise StageCmdFailedError(cmd, code if code > 0 else 128 - code)  # as shells tell a signal

    of_dvc._run = run


def _be(module: str, name: str, start: Start, folder: str, variables: Mapping[str, str]) -> NoReturn:
    """This process, just forked, is `python -m MODULE NAME` in a folder, and ends as that does."""
    code = 1
    try:
        end_with()  # as a stage does itself, a moment later
        call_process(f"{module.partition('.')[2]}@{name}")
        _begin_anew(start, folder, variables)
        sys.argv = [module, name]
        code = _exit_code_of(module)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for its threads, as the end of a program does
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code_of(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _begin_anew(start: Start, folder: str, variables: Mapping[str, str]) -> None:
    """Takes away what a process of its own would not have of this one."""
    for number in HANDED_ON:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    gc.freeze()  # what is there stays as it is, for good
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    # their numbers stay taken: what holds one may still close it
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != null:
            with contextlib.suppress(OSError):  # that by which they were listed
                os.dup2(null, number, inheritable=False)
    for stream, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, stream, _opened(number, getattr(sys, f"__{stream}__"), bool(variables.get("PYTHONUNBUFFERED"))))
    os.environ.clear()
    os.environ.update({**variables, "PWD": folder})  # which the shell sets
    time.tzset()
    os.chdir(folder)
    for one, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        is_own = one.partition(".")[0] in OWN
        if is_own or (isinstance(file, str) and os.path.isabs(file) and not is_installed(file)):
            del sys.modules[one]
    sys.path[:] = [folder, *start.path]
    importlib.invalidate_caches()


def _opened(number: int, before: io.TextIOWrapper, unbuffered: bool) -> io.TextIOWrapper:
    """A stream as Python opens it at its start."""
    raw = io.FileIO(number, "w", closefd=False)
    if unbuffered:
        return io.TextIOWrapper(raw, before.encoding, before.errors, write_through=True)  # type: ignore[type-var]
    return io.TextIOWrapper(io.BufferedWriter(raw), before.encoding, before.errors, line_buffering=number == 2)
