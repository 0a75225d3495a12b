"""A subject in a process of its own (`qntz.bench.served`), whose memory is its own, and whose end is no other's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from socket import socketpair
from typing import IO, Any

from qntz.bench.subject import Subject
from qntz.errors import BackendError

LONGEST = 900.0  # seconds that one command may take: torch.compile's, of a large model


class Worker:
    """The benchmark's side: a subject in its process. A context, at whose end the process is gone."""

    def __init__(self, subject: Subject):
        self.subject = subject
        ours, theirs = socketpair()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "qntz.bench.served", str(theirs.fileno()), str(os.getpid())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=subject.root, stdout=self._said, stderr=self._said
        )
        theirs.close()
        self._pipe = Connection(ours.detach())
        self.is_gone = False

    def ask(self, command: str, *arguments: Any) -> Any:
        """What the process answers; raises BackendError where it refuses, ends or does not answer."""
        try:
            self._pipe.send((command, arguments))
            if not self._pipe.poll(LONGEST):
                self.is_gone = True
                self._process.kill()
                raise BackendError(
                    f"{self.subject.name} does not answer", why=f"{command}: nothing after {LONGEST:g} s"
                )
            kind, told = self._pipe.recv()
        except (EOFError, OSError) as error:
            self.is_gone = True
            raise BackendError(f"{self.subject.name} ended", why=self._fate()) from error
        if kind == "refused":
            raise BackendError(f"{self.subject.name} does not run", why=told)
        return told

    def _fate(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}; its last line: {lines[-1].strip()[:300]}" if lines else how

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()
        self._said.close()
