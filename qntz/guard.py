"""Work in a process of its own, on a user's model or by a builder: one that hangs, ends the program or takes all memory
does not take the stage with it."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import re
import select
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from qntz.errors import DEBUG, MAKE_ROOM, ArtifactError, CheckError, QntzError, one_line
from qntz.parent import end_with
from qntz.redact import redacted

T = TypeVar("T")
POLL = 0.05  # seconds between two looks at the child's memory
LONGEST = 1e8  # seconds that a timer takes
AGAIN = 1.0  # seconds between two alarms
GRACE = 2.0  # seconds that a child has to say where it hangs
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')
LIMITS = {"seconds": "check.seconds", "memory": "check.memory_gib"}
_LOADED, _DONE, _NO_SPACE = b"L", b"D", b"N"  # what the child tells; the last with the system's number of the error


def ended_by_model(how: str) -> QntzError:
    """The error for a model that ended the program. how: by an exit code or signal, in words."""
    do = "Take os._exit, or what crashes, out of the model's code."
    return CheckError("the model ended the program", why=how, do=do)


def guarded(
    work: Callable[[Callable[[], None]], T],
    *,
    seconds: float = LONGEST,
    memory: int | None = None,
    limits: Mapping[str, str] = LIMITS,
    what: str = "the check",
    ended: Callable[[str], QntzError] = ended_by_model,
    meanwhile: Callable[[], None] = lambda: None,
) -> T:
    """What `work` returns, run in a child of this process; it must be possible to pickle it.

    Call it before torch has started threads: the child is a fork. It has a session of its own, which ends with it.

    Args:
        work: called with a function that it calls when the model is loaded; the memory is counted from there.
        seconds: the child is ended after. memory: bytes that it may take beyond those that the loaded model does, None
            for as many as there are. limits: what a user sets the two by. what: is ended, in words. ended: makes the
            error where the child ends without a word. meanwhile: called in this process while the child works; no limit
            is watched until it is done, and what the child raises goes before a QntzError of its.

    Raises:
        CheckError: the time or the memory was not enough; with the Python line that the child was at, where that can be
            told. ArtifactError: there is no space for what the work returns. Whatever QntzError the work raises, and
            what `ended` makes, also of sys.exit and where Python had no memory left.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    parent = os.getpid()
    with tempfile.TemporaryFile("w+b") as stack, tempfile.TemporaryFile("w+b") as result:
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _work(work, writing, stack, result, parent)
            finally:
                os._exit(1)  # whatever happens: what stands above is the parent's, and so are the exit handlers
        os.close(writing)
        try:
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                failure = _failure_of(meanwhile)
                _wait(child, pipe, stack, seconds, memory, limits, what, ended)
                made: T = _result(result, ended)
                if failure is not None:
                    raise failure
                return made
        finally:
            for end in (os.killpg, os.kill):  # what it has started, and itself, where it had no time for a session
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    end(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _failure_of(work: Callable[[], None]) -> QntzError | None:
    """What the work raises, to be told where the child, which may know more of it, does not fail."""
    try:
        work()
    except QntzError as error:
        return error
    return None


class TimeIsUp(BaseException):
    """Ends what takes too long; nothing that a model catches."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeIsUp in Python code that takes longer, and again each second in code that catches it; only where a
    signal can be waited for, in the main thread. An alarm of the caller's goes off later by what this takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        raise TimeIsUp

    kept = signal.signal(signal.SIGALRM, end)
    left = signal.setitimer(signal.ITIMER_REAL, min(seconds, LONGEST), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if kept is None else kept)  # None: a handler that C has set
        signal.setitimer(signal.ITIMER_REAL, *left)


def _work(
    work: Callable[[Callable[[], None]], Any], writing: int, stack: IO[bytes], result: IO[bytes], parent: int
) -> None:
    """The child's whole life. What it makes goes through a file, which takes a large model sooner than a pipe."""
    os.setsid()
    end_with(parent)
    gc.freeze()  # the parent's rubbish is the parent's: a session of ONNX Runtime waits for its threads when it ends
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False, chain=False)
    with os.fdopen(writing, "wb") as pipe:

        def tell(kind: bytes) -> None:
            pipe.write(kind)
            pipe.flush()

        try:
            told: Any = ("result", work(lambda: tell(_LOADED)))
        except QntzError as error:
            known = next(kind for kind in type(error).__mro__ if kind.__module__ == QntzError.__module__)
            told = ("refused", known, error.as_dict())  # a plugin's own class may be unknown to the parent
        except MemoryError:
            told = ("ended", "MemoryError")
        except SystemExit as error:
            told = ("ended", f"sys.exit({error.code!r})")
        except BaseException as error:
            if "--debug" in sys.argv:
                print(redacted(traceback.format_exc()), file=sys.stderr, end="")
            told = ("failed", one_line(error, place=True))
        try:
            pickle.dump(told, result, protocol=5)
            result.flush()
        except OSError as error:
            tell(_NO_SPACE + str(error.errno).encode() + b" ")
            os._exit(1)
        except Exception as error:  # whatever the objects raise that were to be pickled
            result.seek(0)
            pickle.dump(("failed", one_line(error)), result)
            result.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        tell(_DONE)
    os._exit(0)


def _wait(
    child: int,
    pipe: IO[bytes],
    stack: IO[bytes],
    seconds: float,
    memory: int | None,
    limits: Mapping[str, str],
    what: str,
    ended: Callable[[str], QntzError],
) -> None:
    """Returns when the child is done; raises CheckError where it is not in time or takes too much, and what `ended`
    makes where it ends."""
    end, base = time.monotonic() + seconds, None

    def too_much(why: str, limit: str) -> CheckError:
        do = f"Mend the model's forward, or raise {limits[limit]} where it needs that."
        return CheckError(f"{what} was ended", where=_place(child, stack), why=why, do=do)

    while True:
        ready, _, _ = select.select([pipe], [], [], POLL)
        if ready:
            told = pipe.read(64)
            if not told:
                break
            if _NO_SPACE in told:
                why = os.strerror(int(told.partition(_NO_SPACE)[2]))
                raise ArtifactError("what was made cannot be kept", where=tempfile.gettempdir(), why=why, do=MAKE_ROOM)
            if _DONE in told:
                return
            base = _resident(child) if base is None else base
        elif memory is not None and base is not None and _resident(child) - base > memory:
            raise too_much(f"the model takes more than {memory / 2**30:.3g} GiB when it runs", "memory")
        if time.monotonic() > end:
            raise too_much(f"the model did not end within {seconds:g} s", "seconds")
    _, status = os.waitpid(child, 0)
    how = f"signal {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else ""
    how = how or f"exit code {os.waitstatus_to_exitcode(status)}"
    raise ended(how)


def _result(written: IO[bytes], ended: Callable[[str], QntzError]) -> Any:
    written.seek(0)
    kind, *rest = pickle.load(written)
    if kind == "result":
        return rest[0]
    if kind == "refused":
        raise rest[0](**rest[1])
    if kind == "ended":
        raise ended(rest[0])
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
    frames = [frame for frame in frames if not frame["file"].startswith("<")]
    installed = (f"{sysconfig.get_paths()['stdlib']}/", f"{Path(__file__).parent}/")
    users = [f for f in frames if "-packages/" not in f["file"] and not f["file"].startswith(installed)] or frames
    return f"{users[0]['file']}:{users[0]['line']} in {users[0]['function']}" if users else ""
