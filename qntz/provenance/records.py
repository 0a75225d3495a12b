"""DVC's own records (dvc.lock, `.dvc` files), read whole although a DVC may be at work, and without holding it up."""

from __future__ import annotations

import io
import os
import time
from typing import IO, Any

from dvc.fs import LocalFileSystem
from dvc.lock import LockBase, LockError

RECORDS = (".lock", ".dvc")
STILL = 1.0  # seconds without a change, after which a record is not being written
PATIENCE = 30.0  # seconds, at most, for one that is


class Records(LocalFileSystem):
    """DVC's file system, where each record is as it was at one moment: DVC reads it several times, and writes it in
    place.

    It is read under DVC's lock, which is held for that moment alone: a DVC whose stage has ended gives up, and loses
    the result, where it does not get it within 3 s. Where another holds it for longer (`dvc push` does), the record is
    read without, once nobody writes it.

    Args:
        lock: DVC's own.
    """

    def __init__(self, lock: LockBase):
        super().__init__()
        self._lock, self._busy = lock, False
        self._read: dict[str, bytes] = {}

    def open(self, path: Any, mode: str = "r", **kwargs: Any) -> IO[Any]:
        if mode != "r" or not str(path).endswith(RECORDS):
            return super().open(path, mode, **kwargs)
        if path not in self._read:
            self._read[path] = self._whole(path)
        return io.TextIOWrapper(io.BytesIO(self._read[path]), encoding=kwargs.get("encoding"))

    def _whole(self, path: str) -> bytes:
        if not self._busy:
            try:
                with self._lock:
                    return _bytes(path)
            except LockError:
                self._busy = True
        deadline = time.monotonic() + PATIENCE
        while True:
            before, data = _state(path), _bytes(path)
            time.sleep(STILL)
            if data and _state(path) == before:  # DVC empties it first, and takes its time
                return data
            if time.monotonic() > deadline:
                raise LockError(path)


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _state(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns
