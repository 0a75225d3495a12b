"""DVC's records are read whole and at one moment, whoever is at work, and nobody waits for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from dvc.lock import make_lock

from qntz.provenance import records
from qntz.provenance.workspace import DvcError, opened, steps
from tests.provenance.conftest import STAGES, write


def recorded(root: Path) -> set[str]:
    """The stages that dvc.lock has, as DVC tells it."""
    with opened(root) as repo:
        return {stage.addressing for stage in steps(repo, ()) if any(out.hash_info for out in stage.outs)}


def test_a_stage_that_ends_meanwhile_keeps_its_result(root: Path) -> None:
    slow = {"slow": {"cmd": "sleep 2 && echo 1 > slow.txt", "outs": ["slow.txt"]}}
    write(root, "dvc.yaml", yaml.safe_dump({"stages": {**STAGES, **slow}}, sort_keys=False))
    command = [sys.executable, "-m", "dvc", "repro", "slow"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert running.stdout is not None
    said = iter(running.stdout.readline, "")
    assert any(line.startswith("Running stage 'slow'") for line in said)
    with opened(root) as repo:
        assert steps(repo, ())
        assert running.wait(60) == 0, "".join(said)
    assert "slow" in recorded(root)


def test_it_is_the_same_moment_however_often_dvc_reads_it(root: Path) -> None:
    with opened(root) as repo:
        assert steps(repo, ())
        (root / "dvc.lock").unlink()
        write(root, "dvc.lock", yaml.safe_dump({"schema": "2.0"}))
        repo._reset()
        assert any(out.hash_info for stage in repo.index.stages for out in stage.outs)
    assert not recorded(root)


@pytest.mark.slow
def test_a_dvc_that_holds_its_lock_for_long_is_not_in_the_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "STILL", 0.3)
    whole = (root / "dvc.lock").read_text()
    lock = make_lock(str(root / ".dvc/tmp/lock"))

    def rewrite() -> None:  # as DVC does: it empties the file, works out what to write, and writes it piece by piece
        with (root / "dvc.lock").open("w") as file:
            time.sleep(4)
            for line in whole.splitlines(keepends=True):
                file.write(line)
                file.flush()
                time.sleep(0.01)

    with lock:
        assert recorded(root) == set(STAGES)  # nobody writes
        writer = threading.Thread(target=rewrite)
        writer.start()
        time.sleep(0.1)
        assert recorded(root) == set(STAGES)
        writer.join()
        monkeypatch.setattr(records, "PATIENCE", 0.0)
        (root / "dvc.lock").write_text("")
        with pytest.raises(DvcError, match="dvc.lock: another DVC is at work here, and writes it. Run it again"):
            recorded(root)


def test_what_goes_away_meanwhile_is_told(root: Path) -> None:
    def looked_at() -> None:
        with opened(root):
            shutil.move(root / "in.txt", root / "elsewhere")
            (root / "in.txt").read_text()

    with pytest.raises(DvcError, match="in.txt: went away while it was read. Run it again"):
        looked_at()
