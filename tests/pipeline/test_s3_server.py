"""The way into the S3 server that the tests of sharing cut: no client may wait for it, whatever becomes of the server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.pipeline.s3_server import Cutting

SECONDS = 20  # far more than anything here takes
Make = Callable[..., Cutting]


def eventually(holds: Callable[[], Any]) -> bool:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes ways to a peer that reads as it is told to, all ended behind the test."""
    with contextlib.ExitStack() as stack:

        def made(after: int, then: Callable[[], None] = lambda: None, *, serve: Callable[..., None]) -> Cutting:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        serve(listening.accept()[0])

            threading.Thread(target=accept, daemon=True).start()
            stack.callback(lambda: listening.shutdown(socket.SHUT_RDWR))
            way = Cutting(SimpleNamespace(port=listening.getsockname()[1]), after, then)
            stack.callback(way.close)
            return way

        yield made


def connected(way: Cutting) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", urlsplit(way.url).port or 0), timeout=SECONDS)
    one.settimeout(SECONDS)
    return one


def upload(one: socket.socket) -> None:
    while True:
        one.sendall(bytes(1 << 20))


def test_a_client_that_has_filled_the_window_is_reset_at_the_cut(make: Make) -> None:
    """Two connections to a peer that reads nothing: the second is full when the first is cut."""
    kept: list[socket.socket] = []
    gone = threading.Event()
    way = make(1 << 30, gone.set, serve=kept.append)
    with connected(way) as full, connected(way) as other:
        full.settimeout(1)
        with pytest.raises(TimeoutError):
            upload(full)
        assert eventually(lambda: len(kept) == 2)
        way._left = 1
        other.sendall(b"the last")
        assert gone.wait(SECONDS)
        for one in (full, other):
            one.settimeout(SECONDS)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):  # and not TimeoutError: it would wait for ever
                upload(one)
        assert eventually(lambda: not way._open)


def test_then_is_called_although_the_server_is_gone(make: Make) -> None:
    called = threading.Event()
    way = make(3, called.set, serve=lambda _: None)
    failing = Failing()
    way._pass(failing, failing, True)  # type: ignore[arg-type]
    assert (way.cut, called.is_set()) == (True, True)


class Failing:
    """A socket that delivers and takes nothing."""

    def recv(self, count: int) -> bytes:
        return b"some"

    def sendall(self, data: bytes) -> None:
        raise BrokenPipeError

    def shutdown(self, how: int) -> None:
        raise OSError


def test_a_server_that_is_slow_to_answer_holds_up_no_other_client(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting is done by each client's own thread, and no time limit stays on the connection."""
    slow, real = threading.Event(), socket.create_connection
    waiting: list[str] = []

    def connect(*given: Any, **more: Any) -> socket.socket:
        if not waiting and threading.current_thread() is not threading.main_thread():
            waiting.append("the first")
            slow.wait(SECONDS)
        return real(*given, **more)

    monkeypatch.setattr(socket, "create_connection", connect)
    way = make(1 << 30, serve=lambda one: (one.sendall(b"hello"), one.close()))
    with connected(way), connected(way) as second:
        assert second.recv(5) == b"hello"
        slow.set()

    kept: list[socket.socket] = []
    way = make(1 << 30, serve=kept.append)
    with connected(way):
        assert eventually(lambda: kept and len(way._open) == 2)
        assert [one.gettimeout() for one in way._open] == [None, None]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_port_is_left_behind_which_nobody_is(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    way = make(1 << 30, serve=lambda _: None)

    class None_(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", None_)
        with connected(way) as one, contextlib.suppress(ConnectionResetError):
            assert one.recv(1) == b""
    assert eventually(lambda: way._listening.fileno() == -1)
    with pytest.raises(ConnectionRefusedError):
        connected(way)
    other = make(1 << 30, serve=lambda _: None)
    other.close()
    assert eventually(lambda: other._listening.fileno() == -1)
