"""Work in a process of its own: what it returns, what it raises, and every way in which it can end badly."""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qntz.errors import ArtifactError, CheckError, DataError, QntzError
from qntz.guard import guarded

GIB = 2**30


def test_the_result_comes_back() -> None:
    assert guarded(lambda loaded: {"pid": os.getpid(), "data": b"x" * 200_000}, seconds=20, memory=GIB) != {}
    assert guarded(lambda loaded: os.getpid(), seconds=20, memory=GIB) != os.getpid()


def test_a_refusal_comes_back_as_it_was() -> None:
    def work(loaded):
        raise DataError("no samples", where="data", why="empty", do="Add some.")

    with pytest.raises(DataError) as caught:
        guarded(work, seconds=20, memory=GIB)
    assert caught.value.as_dict() == {"what": "no samples", "where": "data", "why": "empty", "do": "Add some."}


def test_another_error_is_told_with_its_line() -> None:
    with pytest.raises(
        QntzError, match=r"unexpected error.*ZeroDivisionError: division by zero \(test_guard\.py:\d+\)"
    ):
        guarded(lambda loaded: 1 / 0, seconds=20, memory=GIB)


def test_no_space_for_the_result_is_told() -> None:
    def work(loaded):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return b"x" * 200_000

    with pytest.raises(ArtifactError, match="what was made cannot be kept: File too large. Free space there"):
        guarded(work, seconds=20)


def test_what_ends_without_memory_or_by_sys_exit_is_told() -> None:
    def hungry(loaded):
        raise MemoryError

    with pytest.raises(CheckError, match="the model ended the program: MemoryError"):
        guarded(hungry, seconds=20)
    with pytest.raises(CheckError, match=r"the model ended the program: sys\.exit\(4\)"):
        guarded(lambda loaded: sys.exit(4), seconds=20)


def hangs(loaded):
    loaded()
    while True:
        time.sleep(0.01)  # the line that hangs


def test_what_hangs_is_ended_in_time_with_its_line() -> None:
    started = time.monotonic()
    with pytest.raises(CheckError, match=r"test_guard\.py:\d+ in hangs: .*did not end within 1 s\."):
        guarded(hangs, seconds=1, memory=GIB)
    assert time.monotonic() - started < 15


def test_what_takes_too_much_memory_is_ended() -> None:
    def work(loaded):
        before = np.ones(2**25)  # 256 MiB that the loaded model takes count for nothing
        loaded()
        time.sleep(0.3)
        held = [np.ones(2**24) for _ in range(80)]  # 10 GiB, written
        return len(held) + len(before)

    with pytest.raises(CheckError, match=r"takes more than 0\.5 GiB when it runs\. .*check\.memory_gib"):
        guarded(work, seconds=60, memory=GIB // 2)


def test_what_ends_the_program_is_told() -> None:
    with pytest.raises(CheckError, match=r"the model ended the program: exit code 3\."):
        guarded(lambda loaded: os._exit(3), seconds=20, memory=GIB)
    with pytest.raises(CheckError, match=r"the model ended the program: signal SIGABRT\."):
        guarded(lambda loaded: os.abort(), seconds=20, memory=GIB)


def test_what_the_model_started_does_not_hold_the_result_back_and_is_ended(tmp_path):
    """A process that the model forks holds the pipe open, and would outlive the check."""
    told = tmp_path / "pid"

    def work(loaded):
        loaded()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        told.write_text(str(child))
        return "done"

    started = time.monotonic()
    assert guarded(work, seconds=30, memory=2**30) == "done"
    assert time.monotonic() - started < 20
    for _ in range(50):
        state = Path(f"/proc/{told.read_text()}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.1)
    pytest.fail("the model's own process still runs")


def test_a_child_that_cannot_tell_its_result_does_not_go_on_as_the_parent(tmp_path):
    """It has closed every file, its pipe among them: no result, and no second run of what follows."""
    after = tmp_path / "after"

    def work(loaded):
        os.closerange(3, 64)

    parent = os.getpid()
    with pytest.raises(CheckError, match="the model ended the program"):
        guarded(work, seconds=30, memory=2**30)
    with after.open("a") as file:
        file.write(f"{os.getpid()}\n")
    assert after.read_text().split() == [str(parent)]


def test_an_error_of_a_class_that_only_the_child_knows_is_told():
    def work(loaded):
        class Strange(CheckError):
            pass

        raise Strange("no good", where="net.py:3", why="because", do="Mend it.")

    with pytest.raises(CheckError, match=r"net\.py:3: no good: because\. Mend it\."):
        guarded(work, seconds=30, memory=2**30)


def test_a_limit_is_named_as_the_user_sets_it():
    with pytest.raises(CheckError, match="raise --seconds where it needs that"):
        guarded(lambda loaded: time.sleep(20), seconds=1, memory=2**30, limits={"seconds": "--seconds", "memory": "-"})


def test_the_parents_rubbish_is_not_collected_in_the_child() -> None:
    ended = []

    class Session:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            ended.append(os.getpid())

    def work(loaded):
        gc.collect()
        return list(ended)

    gc.disable()
    try:
        Session()
        assert guarded(work, seconds=20, memory=GIB) == []
    finally:
        gc.enable()
    gc.collect()
    assert ended == [os.getpid()]


def test_the_parent_can_work_meanwhile(tmp_path: Path) -> None:
    """The child waits for what the parent writes: neither would end if they worked in turn."""
    told, flag = [], tmp_path / "flag"

    def meanwhile() -> None:
        told.append(os.getpid())
        flag.touch()

    def work(_) -> int:
        while not flag.exists():
            time.sleep(0.01)
        return os.getpid()

    child = guarded(work, seconds=20, meanwhile=meanwhile)
    assert told == [os.getpid()]
    assert child != os.getpid()


def test_a_parent_that_fails_meanwhile_takes_the_child_along(tmp_path: Path) -> None:
    note = tmp_path / "child"

    def work(_) -> None:
        note.write_text(str(os.getpid()))
        time.sleep(60)

    def meanwhile() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
        raise RuntimeError("no")  # a QntzError would wait for what the child has to say

    with pytest.raises(RuntimeError, match="no"):
        guarded(work, meanwhile=meanwhile)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
