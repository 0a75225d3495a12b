"""DVC's own command line, `python -m qntz.repro.observed BUSY ALIVE TURN dvc repro ...`, for `qntz.repro.run`.

It tells through the file BUSY where another DVC was in its way: its exit code is the same for that as for a stage that
failed. It ends with all that it has started when the pipe ALIVE ends, which is when who started it is gone, and holds
TURN, the workspace's lock, until then.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

LONGEST = 4000  # bytes of a message
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class _Watch(logging.Handler):
    """Writes the first of DVC's messages of a lock that it did not get to a file."""

    def __init__(self, file: int):
        super().__init__()
        self.file, self.written = file, False

    def emit(self, record: logging.LogRecord) -> None:
        from dvc.lock import LockError

        told = [
            record.exc_info[1] if record.exc_info else None,
            *(record.args if isinstance(record.args, tuple) else ()),
        ]
        for error in told:
            while isinstance(error, BaseException):
                if isinstance(error, LockError) and not self.written:
                    text = " ".join(_ESCAPES.sub("", str(error)).split())
                    os.pwrite(self.file, text.encode()[:LONGEST], 0)
                    self.written = True
                error = error.__cause__


def keep_to_this_process(*files: int) -> None:
    """DVC's daemons, which send reports and look for updates, outlive the run: they are to hold nothing of it."""
    held = [*files]

    def close() -> None:  # once: what this child forks may have given the numbers to files of its own
        while held:
            os.close(held.pop())

    for file in files:
        os.set_inheritable(file, False)
    os.register_at_fork(after_in_child=close)


def main() -> int:
    busy, alive, turn = (int(number) for number in sys.argv[1:4])
    command = sys.argv[4:]
    if sys.path[0] == os.getcwd():  # that of `python -m`: nothing of the project is to stand in for a module of DVC
        del sys.path[0]
    from dvc.cli import main as dvc

    from qntz.errors import QntzError
    from qntz.repro.ending import end_at_the_end_of
    from qntz.repro.mend import mend
    from qntz.repro.run_cache import fetch_by_stage

    keep_to_this_process(busy, alive, turn)
    end_at_the_end_of(alive)
    try:
        for line in mend(Path.cwd()):
            print(line, file=sys.stderr, flush=True)
    except QntzError as error:
        print(f"error: repro: {error}", file=sys.stderr)
        return error.exit_code
    logging.getLogger("dvc").addHandler(_Watch(busy))
    fetch_by_stage()
    sys.argv = command  # DVC names itself by it in its list of who reads and writes what
    return int(dvc(command[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
