"""dvc.lock in the order of a serial run."""

from __future__ import annotations

from pathlib import Path

import yaml

from qntz.fleet.locked import put_in_order, recorded
from qntz.repro.mend import DVC_LOCK, dvc_lock, state_folder


def write(lock: Path, stages: list[str]) -> None:
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {s: {"cmd": s} for s in stages}}, sort_keys=False))


def test_new_stages_follow_in_dvcs_order(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    lock = tmp_path / "dvc.lock"
    assert recorded(lock) == []
    put_in_order(tmp_path, Path("dvc.lock"), [], ["a"])
    assert not lock.exists()
    write(lock, ["c", "a", "gone"])
    before = recorded(lock)
    write(lock, ["c", "a", "gone", "e", "d", "b", "elsewhere"])
    put_in_order(tmp_path, Path("dvc.lock"), before, ["a", "b", "c", "d", "e"])
    assert recorded(lock) == ["c", "a", "gone", "b", "d", "e", "elsewhere"]
    assert yaml.safe_load(lock.read_text())["stages"]["b"] == {"cmd": "b"}


def test_what_is_in_order_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    lock = tmp_path / "dvc.lock"
    write(lock, ["a", "b"])
    state = lock.stat().st_mtime_ns
    put_in_order(tmp_path, Path("dvc.lock"), ["a"], ["a", "b"])
    assert lock.stat().st_mtime_ns == state


def test_what_is_cut_off_or_written_by_another_is_left(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    lock = tmp_path / "dvc.lock"
    write(lock, ["b", "a"])
    whole = lock.read_text()
    lock.write_text(whole[:-4])
    put_in_order(tmp_path, Path("dvc.lock"), [], ["a", "b"])
    assert lock.read_text() == whole[:-4]
    lock.write_text(whole)
    with dvc_lock(state_folder(tmp_path), DVC_LOCK):
        put_in_order(tmp_path, Path("dvc.lock"), [], ["a", "b"])
    assert lock.read_text() == whole
    put_in_order(tmp_path, Path("dvc.lock"), [], ["a", "b"])
    assert recorded(lock) == ["a", "b"]
