"""An S3 server on this machine whose data outlive it, and a way into it that ends it in the middle of an upload.

The server is JuiceFS's gateway: MinIO's front, signatures and multipart uploads included, over a folder and SQLite.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

USER, SECRET, BUCKET = "qntz-test", "a-secret-of-this-test", "models"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
FEW_TRIES = {"AWS_MAX_ATTEMPTS": "2", "AWS_RETRY_MODE": "standard"}  # of a server that is gone


def program() -> str | None:
    """The server's program, where it is installed."""
    beside = Path(sys.executable).with_name("juicefs")
    return str(beside) if beside.is_file() else shutil.which("juicefs")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Server:
    """The server over a folder; started again it has what it had."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._meta = f"sqlite3://{folder / 'meta.db'}"
        made = [self._meta, BUCKET, "--bucket", f"{folder / 'data'}", "--trash-days", "0"]
        subprocess.run([program() or "", "--no-agent", "format", *made], check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        """Returns when it answers."""
        environment = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": SECRET}
        options = ["--no-usage-report", "--no-banner", "--cache-size", "0", "--metrics", "127.0.0.1:0"]
        options += ["--log", str(self.folder / "log"), "--cache-dir", str(self.folder / "cache")]
        command = [program() or "", "--no-agent", "gateway", self._meta, f"127.0.0.1:{self.port}", *options]
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/minio/health/live", timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "out").read_text()[-3000:])

    def kill(self) -> None:
        """Ends it at once, as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class Cutting:
    """A way to the server; after so many bytes of uploads, through all connections together, it calls `then` once and
    resets these connections. Later ones go through."""

    def __init__(self, server: Server, after: int, then: Callable[[], None]) -> None:
        self._server, self._left, self._then = server, after, then
        self._lock, self._open, self._closed = threading.Lock(), list[socket.socket](), False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it

    def _accept(self) -> None:
        with self._listening:  # whatever ends this, no client waits at a port behind which nobody is
            while True:
                try:
                    client, _ = self._listening.accept()
                except OSError:
                    if self._closed:
                        return
                    raise
                try:
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()
                except RuntimeError:
                    client.close()
                    raise

    def _serve(self, client: socket.socket) -> None:
        """Both ways of one connection. In the end both sockets are closed, and not only shut down: a client that has
        filled the window would wait for ever to send the rest."""
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._server.port), timeout=60)
            except OSError:  # it is gone
                _reset_when_closed(client)
                return
            with server:
                server.settimeout(None)
                with self._lock:
                    self._open += [client, server]
                back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
                back.start()
                self._pass(client, server, True)
                back.join()
                with self._lock:
                    self._open = [one for one in self._open if one not in (client, server)]

    def _pass(self, source: socket.socket, target: socket.socket, uploads: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 14):
                if uploads and self._is_the_last(len(data)):
                    with contextlib.suppress(OSError):
                        target.sendall(data[: len(data) // 2])
                    self._cut()
                    return
                target.sendall(data)
        _shut_down(source, target)

    def _is_the_last(self, count: int) -> bool:
        with self._lock:
            before, self._left = self._left, self._left - count
            if before > 0 >= self._left:
                self.cut = True
                return True
            return False

    def _cut(self) -> None:
        self._then()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    _reset_when_closed(one)
            _shut_down(*self._open)  # wakes their threads, which close them


def _reset_when_closed(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut_down(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
