"""Stages that start warm: in a process that is forked where the libraries which stages import are loaded already.

Most of what a small stage takes is the import of torch and its like, which is the same each time. A worker of
`qntz repro -j` comes from a process that has them, so its stages are forked from it, in place of being started anew. A
stage has nothing else of it: the project's and qntz's own modules are imported anew, from where `python -m` finds them,
and open files, handlers of signals, streams and what multiprocessing knows are those of a process of its own. Its hash
seed is 0, which decides nothing (`make reproduce` builds with others). Where anything else is otherwise than it would
be in one (another environment, packages that changed meanwhile, libraries that are no installed ones, a file of the
project in a library's place, a command that is no stage's), the command is run as DVC runs it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import io
import itertools
import json
import logging
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
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from qntz.config import CAPTURING, NAME, VARIABLES
from qntz.parent import call_process, end_with
from qntz.repro.run import HANDED_ON, environment
from qntz.watch import OWN, distributions_in, is_installed, modules_of_files

HERE = sys.platform == "linux"  # elsewhere a process with threads of the system's own is none to be forked
_STAGE = re.compile(rf"python -m (stages\.\w+) ({NAME.pattern})")
_SHELLS = {f"{at}/{name}" for at in ("/bin", "/usr/bin") for name in ("sh", "dash", "bash")}  # another may do more
_READ_BY_SHELLS = ("BASH_ENV", "BASH_FUNC_")  # what they do first
_GIVEN = ("DVC_", "CUDA_VISIBLE_DEVICES")  # set for each stage, and read by no library while it is imported
_FACTS = "import json, sys; print(json.dumps([sys.path[1:], list(sys.flags)]))"


@dataclass(frozen=True)
class Start:
    """How the process is started that has the libraries.

    Attributes:
        variables: its environment. path: where `python -m` looks, after the working directory. flags: Python's, in such
            a process. installed: the distributions in there, as they were before. warm: whether there is one at all.
    """

    variables: Mapping[str, str]
    path: tuple[str, ...]
    flags: tuple[int, ...]
    installed: tuple[tuple[str, ...], ...]
    warm: bool = HERE

    @classmethod
    def now(cls) -> Start:
        """As it would be started now."""
        variables = {**environment(), **VARIABLES}
        asked = [sys.executable, "-c", _FACTS]
        told = subprocess.run(asked, env=variables, capture_output=True, text=True, check=True).stdout
        path, flags = json.loads(told.splitlines()[-1])
        return cls(variables, tuple(path), tuple(flags), _installed(path))

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
        """Whether a stage may start warm here: in a folder, with an environment, by a shell."""
        if os.path.realpath(executable) not in _SHELLS or not _all_loaded():
            return False
        if any(name.startswith(_READ_BY_SHELLS) for name in variables) or tuple(sys.flags) != self.flags:
            return False
        if _plain({**variables, **VARIABLES}) != _plain(self.variables) or _installed(self.path) != self.installed:
            return False
        if any(not is_installed(file) for name, file in modules_of_files() if name.partition(".")[0] not in _REPLACED):
            return False
        loaded = {one.partition(".")[0] for one in sys.modules} - {*OWN}
        return not any(_module_of(entry) in loaded for entry in os.scandir(folder))


_REPLACED = (*OWN, "__main__", "__mp_main__")  # modules that a stage has anew


def _all_loaded() -> bool:
    """Whether there is all that was to be loaded here: a part that failed may fail otherwise a second time."""
    module = sys.modules.get("qntz.fleet.loaded")
    return module is not None and not module.FAILED


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
    """DVC in this process forks the stages that it runs, where they may start warm. One that starts them otherwise than
    is known here does so."""
    import dvc.stage.run as of_dvc
    from dvc.stage.exceptions import StageCmdFailedError

    cold: Callable[..., None] = getattr(of_dvc, "_run", None)  # type: ignore[assignment]
    if _Main is None or cold is None or [*inspect.signature(cold).parameters] != ["executable", "cmd", "kwargs"]:
        return

    def run(executable: str, cmd: str, **options: Any) -> None:
        stage = _STAGE.fullmatch(cmd)
        fit = stage is not None and {"env", "cwd"} <= options.keys()
        if stage is None or not fit or not start.is_fit(executable, options["env"], options["cwd"]):
            cold(executable, cmd, **options)
            return
        code = _forked(stage[1], stage[2], start, options["cwd"], options["env"])
        if code:
            raise StageCmdFailedError(cmd, code if code > 0 else 128 - code)  # as shells tell a signal

    of_dvc._run = run


def _forked(module: str, name: str, start: Start, folder: str, variables: Mapping[str, str]) -> int:
    """The exit code of a stage that starts warm; below zero for a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # until each has handlers of its own
    process = os.fork()
    if process == 0:
        _be(module, name, start, folder, variables, before)
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does: the stage hears it as well
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        signal.signal(signal.SIGINT, kept)


def _be(
    module: str, name: str, start: Start, folder: str, variables: Mapping[str, str], mask: set[signal.Signals]
) -> NoReturn:
    """This process, just forked, is `python -m MODULE NAME` in a folder, and ends as that does."""
    code = 1
    try:
        end_with()  # as a stage does itself, a moment later
        call_process(f"{module.partition('.')[2]}@{name}")
        _begin_anew(start, folder, {**variables, **(VARIABLES if module.partition(".")[2] in CAPTURING else {})})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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
            ctypes.CDLL(None).fflush(None)  # what libraries in C have printed
        os._exit(code)


def _exit_code_of(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _begin_anew(start: Start, folder: str, variables: Mapping[str, str]) -> None:
    """Takes away what a process of its own would not have of this one."""
    for number in HANDED_ON:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    gc.freeze()  # what is there stays as it is, for good
    _end_anew()
    _multiprocess_anew()
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
    for one in [name for name in sys.modules if name.partition(".")[0] in _REPLACED]:
        del sys.modules[one]
    sys.path[:] = [folder, *start.path]
    importlib.invalidate_caches()
    if "numpy.random" in sys.modules:  # else all stages of a run would draw the same
        sys.modules["numpy.random"].seed()


def _end_anew() -> None:
    """At the end nothing is done that DVC has registered, nor what libraries did as they were loaded, which cannot be
    told from it; what a stage registers itself, and what multiprocessing and logging have to do, is."""
    from multiprocessing import util

    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    atexit.register(logging.shutdown)
    atexit.register(util._exit_function)  # type: ignore[attr-defined]


# taken while something holds it: Python's own module lets go of its name
_Main = next((one for one in BaseProcess.__subclasses__() if one.__name__ == "_MainProcess"), None)


def _multiprocess_anew() -> None:
    """multiprocessing knows that this is a child, and how it was started."""
    from multiprocessing import context, forkserver, process, resource_tracker

    context._default_context._actual_context = None  # type: ignore[attr-defined]
    process._parent_process = None  # type: ignore[attr-defined]
    process._current_process = _Main()
    process._children = set()  # type: ignore[attr-defined]
    process._process_counter = itertools.count(1)  # type: ignore[attr-defined]
    resource_tracker._resource_tracker.__init__()  # type: ignore[misc]
    forkserver._forkserver.__init__()  # type: ignore[misc, attr-defined]


def _opened(number: int, before: io.TextIOWrapper, unbuffered: bool) -> io.TextIOWrapper:
    """A stream as Python opens it at its start."""
    raw = io.FileIO(number, "w", closefd=False)
    if unbuffered:
        return io.TextIOWrapper(raw, before.encoding, before.errors, write_through=True)  # type: ignore[type-var]
    return io.TextIOWrapper(io.BufferedWriter(raw), before.encoding, before.errors, line_buffering=number == 2)
