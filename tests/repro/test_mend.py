"""What a kill left of dvc.lock is set aside; what is damaged in another way is refused in one line, and left."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.lock import HardlinkLock, Lock
from dvc.repo import Repo

from qntz.errors import ArtifactError
from qntz.repro.mend import damage, dvc_lock, mend

WHOLE = """\
schema: '2.0'
stages:
  first:
    cmd: python -m stages.first ä
    deps:
    - path: in.txt
      hash: md5
      md5: 60b725f10c9c85c70d97880dfe8191b3
      size: 2
    params:
      build/config/models/m.yaml:
        model.weights: 'a ''name'''
    outs:
    - path: one.txt
      hash: md5
      md5: 60b725f10c9c85c70d97880dfe8191b3
      size: 2
  last:
    cmd: cp one.txt two.txt
    outs:
    - path: two.txt
      hash: md5
      md5: 60b725f10c9c85c70d97880dfe8191b3
      size: 2
"""


def refused_by_dvc(root: Path) -> bool:
    repo = Repo(str(root))
    try:
        loaded = Lockfile(repo, str(root / "dvc.lock")).load()
    except DvcException:
        return True
    finally:
        repo.close()
    # what it stumbles over as it loads a stage
    entries = [e for s in (loaded.get("stages") or {}).values() for e in (*s.get("deps", ()), *s.get("outs", ()))]
    return any("hash" in entry and entry["hash"] not in entry for entry in entries)


def test_wherever_it_is_cut_off_it_is_mended_where_dvc_refuses_it(workspace: Path) -> None:
    lock = workspace / "dvc.lock"
    whole = WHOLE.encode()
    for cut in range(1, len(whole) + 1):
        lock.write_bytes(whole[:cut])
        found = damage(lock)
        assert found is None or found.cut, (whole[:cut], found)
        if found is None and cut % 5 == 0:
            assert not refused_by_dvc(workspace), whole[:cut]
    assert found is None


def test_it_is_set_aside_and_nothing_that_lies_there_is_lost(workspace: Path) -> None:
    cuts = (WHOLE.rindex("md5:") + 2, WHOLE.index("- path:") + 4, WHOLE.rindex("hash:") + 7)
    for cut, name in zip(cuts, ("dvc.lock.damaged", "dvc.lock.damaged.2", "dvc.lock.damaged.3"), strict=True):
        (workspace / "dvc.lock").write_text(WHOLE[:cut])
        (told,) = mend(workspace)
        assert told.startswith("dvc.lock was cut off (")
        assert told.endswith(f"); it is {name} now, and the run cache restores what was done.")
        assert (workspace / name).read_text() == WHOLE[:cut]
        assert not (workspace / "dvc.lock").exists()
    assert mend(workspace) == []
    (workspace / "dvc.lock").write_bytes(WHOLE[:300].encode() + bytes(4096 - 300))
    assert mend(workspace)[0].startswith("dvc.lock was cut off (a null byte)")


CONFLICT = WHOLE.replace(
    "    cmd: cp one.txt two.txt\n",
    "<<<<<<< HEAD\n    cmd: cp one.txt two.txt\n=======\n    cmd: mv one.txt two.txt\n>>>>>>> theirs\n",
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CONFLICT,
            "dvc.lock:19: DVC refuses it: it has the marks of a merge conflict. Take one side "
            "(`git checkout --ours dvc.lock`): the run cache restores what was done.",
        ),
        (WHOLE.replace("'2.0'", "'3.0'"), "dvc.lock: DVC refuses it: its schema is '3.0', which DVC "),
        (WHOLE.replace("schema: '2.0'", "schema: 2"), "dvc.lock: DVC refuses it: its schema is 2, which DVC "),
        (
            WHOLE.replace("    cmd: python", "   cmd: python"),
            "dvc.lock:5: DVC refuses it: mapping values are not allowed in this context. Mend",
        ),
        (WHOLE.replace("  first:\n", "  first:\n    cmdd: 1\n"), "dvc.lock: DVC refuses it: extra keys not allowed"),
        (WHOLE.replace("      md5: 60", "      mdd: 60", 1).replace("mdd", "etag", 1), "first: in.txt: no 'md5'"),
        ("[]\n", "dvc.lock: DVC refuses it: expected a dictionary. Mend it, or remove it"),
    ],
)
def test_what_is_damaged_in_another_way_is_refused_and_left(workspace: Path, text: str, message: str) -> None:
    (workspace / "dvc.lock").write_text(text)
    assert refused_by_dvc(workspace)
    with pytest.raises(ArtifactError) as caught:
        mend(workspace)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (workspace / "dvc.lock").read_text() == text


def test_a_folder_in_its_place_is_told_in_one_line(workspace: Path) -> None:
    (workspace / "dvc.lock").mkdir()
    with pytest.raises(ArtifactError, match="dvc.lock: cannot be read: Is a directory. Remove what is in its place"):
        mend(workspace)


def test_what_cannot_be_written_is_told_in_one_line(workspace: Path) -> None:
    (workspace / ".dvc/tmp/rwlock.lock").mkdir(parents=True)
    (workspace / ".dvc/tmp/rwlock").write_text("{")
    with pytest.raises(ArtifactError, match="tmp/rwlock.lock: cannot be written: Is a directory. DVC keeps its locks"):
        mend(workspace)


def test_the_lock_is_of_the_kind_that_dvc_is_told_to_use(workspace: Path) -> None:
    state = workspace / ".dvc/tmp"
    assert isinstance(dvc_lock(state, "lock"), Lock)
    (workspace / ".dvc/config").write_text(
        "[core]\n    analytics = false\n    no_scm = true\n    hardlink_lock = true\n"
    )
    assert isinstance(dvc_lock(state, "lock"), HardlinkLock)
    (workspace / "dvc.lock").write_text(WHOLE[: WHOLE.rindex("md5:") + 2])
    assert len(mend(workspace)) == 1
    (workspace / "dvc.lock").write_text(WHOLE[: WHOLE.rindex("md5:") + 2])
    with Repo(str(workspace)) as repo, repo.lock:  # DVC writes it
        assert mend(workspace) == []
    (workspace / ".dvc/config").write_text("[core\n")
    assert isinstance(dvc_lock(state, "lock"), Lock)
