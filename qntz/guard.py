"""Work on a user's model in a process of its own: one that hangs, ends the program or takes all memory does not take
the stage with it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import re
import select
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from qntz.errors import DEBUG, CheckError, QntzError, one_line

T = TypeVar("T")
POLL = 0.05  # seconds between two looks at the child's memory
GRACE = 2.0  # seconds that a child has to say where it hangs
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
_DO = "Mend the model's forward, or raise check.{limit} where it needs that."


def guarded(work: Callable[[Callable[[], None]], T], *, seconds: float, memory: int) -> T:
    """What `work` returns, run in a child of this process; it must be possible to pickle it.

    Call it before torch has started threads: the child is a fork.

    Args:
        work: called with a function that it calls when the model is loaded; the memory is counted from there.
        seconds: the child is ended after. memory: bytes that it may take beyond those that the loaded model does.

    Raises:
        CheckError: the time or the memory was not enough, or the child ended without a word; with the Python line that
            it was at, where that can be told. Whatever QntzError the work raises.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile("w+b") as stack:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work(work, writing, stack)
        os.close(writing)
        try:
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                return _result(_waited(child, pipe, stack, seconds, memory))
        finally:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _work(work: Callable[[Callable[[], None]], Any], writing: int, stack: IO[bytes]) -> None:
    """The child's whole life."""
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False, chain=False)
    code = 0
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        try:
            told: Any = ("result", work(lambda: pipe.write(b"L") and None))
        except QntzError as error:
            told = ("refused", type(error), error.as_dict())
        except BaseException as error:
            if "--debug" in sys.argv:
                traceback.print_exc()
            told = ("failed", one_line(error, place=True))
        try:
            pipe.write(b"R" + pickle.dumps(told))
        except Exception as error:
            pipe.write(b"R" + pickle.dumps(("failed", one_line(error))))
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # no exit handlers: they are the parent's


def _waited(child: int, pipe: IO[bytes], stack: IO[bytes], seconds: float, memory: int) -> bytes:
    """What the child told of its work."""
    end, base, told = time.monotonic() + seconds, None, b""
    while True:
        ready, _, _ = select.select([pipe], [], [], POLL)
        if ready:
            chunk = pipe.read(1 << 20)
            if not chunk:
                break
            told += chunk
            if base is None and told.startswith(b"L"):
                base, told = _resident(child), told[1:]
        elif base is not None and _resident(child) - base > memory:
            place = _place(child, stack)
            why = f"the model takes more than {memory / 2**30:.3g} GiB when it runs"
            raise CheckError("the check was ended", where=place, why=why, do=_DO.format(limit="memory_gib"))
        if time.monotonic() > end:
            place = _place(child, stack)
            why = f"the model did not end within {seconds:g} s"
            raise CheckError("the check was ended", where=place, why=why, do=_DO.format(limit="seconds"))
    _, status = os.waitpid(child, 0)
    if not told.startswith(b"R"):
        how = f"signal {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else ""
        how = how or f"exit code {os.waitstatus_to_exitcode(status)}"
        raise CheckError(
            "the model ended the program", why=how, do="Take os._exit, or what crashes, out of the model's code."
        )
    return told[1:]


def _result(told: bytes) -> Any:
    kind, *rest = pickle.loads(told)
    if kind == "result":
        return rest[0]
    if kind == "refused":
        raise rest[0](**rest[1])
    raise QntzError("unexpected error, a bug in qntz or in a plugin", why=rest[0], do=DEBUG)


def _resident(process: int) -> int:
    """The bytes of memory that a process holds; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _place(child: int, stack: IO[bytes]) -> str:
    """The user's line that the child is at; "" where it does not tell."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGUSR1)
    end = time.monotonic() + GRACE
    text = ""
    while time.monotonic() < end and "File" not in text:
        time.sleep(POLL)
        stack.seek(0)
        text = stack.read().decode(errors="replace")
    frames = list(_FRAME.finditer(text))
    installed = (sysconfig.get_paths()["stdlib"], str(Path(__file__).parent), "<")
    users = [f for f in frames if "-packages/" not in f["file"] and not f["file"].startswith(installed)] or frames
    return f"{users[0]['file']}:{users[0]['line']} in {users[0]['function']}" if users else ""
