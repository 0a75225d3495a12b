"""What is forecast is what a real `dvc repro` then does, in a small pipeline with every kind of edit."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc import cli

from qntz.errors import UsageError
from qntz.provenance.forecast import (
    BLOCKED,
    COMMITS,
    COMPOSE,
    FAILS,
    MAY,
    RESTORED,
    RUNS,
    UNCHANGED,
    Forecast,
    Planned,
)
from qntz.provenance.workspace import DvcError, opened, steps
from tests.provenance.conftest import PARAMS, STAGES, write


def forecast(root: Path, *targets: str, **options: bool) -> dict[str, Planned]:
    return composed(root, {}, *targets, **options)


def composed(root: Path, files: dict[Path, bytes], *targets: str, **options: bool) -> dict[str, Planned]:
    """With what compose would write."""
    with opened(root) as repo:
        return {one.stage: one for one in Forecast(repo, root, files, {}, **options).plan(steps(repo, targets))}


def ran(caplog: pytest.LogCaptureFixture) -> tuple[set[str], set[str], int]:
    """The stages that a real run ran and restored, and its exit code."""
    caplog.clear()
    code = cli.main(["repro", "--keep-going"])
    told = "\n".join(record.getMessage() for record in caplog.records)
    found = [
        set(re.findall(pattern, told, re.MULTILINE))
        for pattern in (r"^Running stage '(.+)':$", r"^Stage '(.+)' is cached - skipping run")
    ]
    return found[0], found[1], code


def require_right(
    root: Path, caplog: pytest.LogCaptureFixture, files: dict[Path, bytes] | None = None
) -> dict[str, str]:
    """Forecasts, runs, and compares; returns the actions."""
    told = {stage: one.action for stage, one in composed(root, files or {}).items()}
    run, restored, code = ran(caplog)
    run.discard("compose")
    by = {
        action: {stage for stage in told if told[stage] == action}
        for action in set(told.values()) | {RUNS, RESTORED, MAY}
    }
    assert by[RUNS] <= run <= by[RUNS] | by[MAY], (told, run, restored)
    assert by[RESTORED] <= restored <= by[RESTORED] | by[MAY], (told, run, restored)
    assert (code != 0) == (FAILS in by), told
    return told


def test_each_kind_of_change_and_what_follows_it(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert set(require_right(root, caplog).values()) == {UNCHANGED}
    write(root, "in.txt", "a2\n")  # the letter comes out the same
    told = require_right(root, caplog)
    assert told == {"first": RUNS, "letter": MAY, "folder": MAY, "side": UNCHANGED, "last": MAY}
    write(root, "in.txt", "a1\n")  # as it was before: all of it is known, the folder that `last` reads included
    assert require_right(root, caplog) == {
        "first": RESTORED,
        "letter": RESTORED,
        "folder": UNCHANGED,
        "side": UNCHANGED,
        "last": RESTORED,
    }
    write(root, "build/all/letter.txt", "x")
    (root / "build/all/folder/two").unlink()
    told = forecast(root)
    assert [told[stage].action for stage in STAGES] == [UNCHANGED, RESTORED, RESTORED, UNCHANGED, UNCHANGED]
    (change,) = told["letter"].changes
    assert change.text == "build/all/letter.txt was changed by hand"
    require_right(root, caplog)
    assert set(require_right(root, caplog).values()) == {UNCHANGED}


def test_what_the_cache_has_lost_runs_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(root / ".dvc/cache/files")
    (root / "build/all/side.txt").unlink()
    told = forecast(root)
    assert {one.action for one in told.values()} == {RUNS}  # DVC wants its copies back
    assert told["side"].changes[0].text == "its results are neither here nor in the cache"
    assert told["side"].pull
    require_right(root, caplog)


def test_without_the_cache_dvc_lock_can_be_up_to_date_all_the_same(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(root / "build")
    assert {one.action for one in forecast(root).values()} == {RUNS}
    assert {one.action for one in forecast(root, missing_is_fine=True).values()} == {UNCHANGED}
    write(root, "params.yaml", yaml.safe_dump({**PARAMS, "letter": 1}))
    told = {stage: one.action for stage, one in forecast(root, missing_is_fine=True).items()}
    assert told == {"first": UNCHANGED, "letter": RUNS, "folder": MAY, "side": UNCHANGED, "last": MAY}


def test_a_missing_source_fails_what_reads_it_and_stops_what_follows(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "in.txt").unlink()
    write(root, "params.yaml", yaml.safe_dump({**PARAMS, "side": 1}))
    told = require_right(root, caplog)
    assert told == {"first": FAILS, "letter": BLOCKED, "folder": BLOCKED, "side": RUNS, "last": BLOCKED}


def test_data_that_dvc_is_told_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cli.main(["add", "--quiet", "side.txt"]) == 0
    assert require_right(root, caplog)["side.txt.dvc"] == UNCHANGED
    write(root, "side.txt", "t\n")
    told = require_right(root, caplog)
    assert (told["side.txt.dvc"], told["side"]) == (COMMITS, RUNS)
    (root / "side.txt").unlink()
    assert forecast(root)["side.txt.dvc"].action == FAILS


def test_a_file_in_a_folder_that_is_restored(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    reads = {
        "cmd": "cp build/all/folder/in/one build/inner.txt",
        "deps": ["build/all/folder/in"],
        "outs": ["build/inner.txt"],
    }
    write(root, "dvc.yaml", yaml.safe_dump({"stages": {**STAGES, "inner": reads}}, sort_keys=False))
    assert require_right(root, caplog)["inner"] == RUNS
    shutil.rmtree(root / "build/all/folder")
    told = require_right(root, caplog)
    assert (told["folder"], told["inner"], told["last"]) == (RESTORED, UNCHANGED, UNCHANGED)
    write(root, "in.txt", "b1\n")
    assert require_right(root, caplog)["inner"] == MAY
    write(root, "in.txt", "a1\n")
    told = require_right(root, caplog)
    assert (told["folder"], told["inner"]) == (RESTORED, RESTORED)


@pytest.fixture
def files(root: Path) -> dict[Path, bytes]:
    """What compose writes, in a project where a stage of the user's makes what it digests, and data lie beside."""
    files = {root / "build/config/models/m.yaml": b"key: 1\n"}
    stages = {
        "train": {"cmd": "cp in.txt weights.txt", "deps": ["in.txt"], "outs": ["weights.txt"]},
        "compose": {
            "cmd": COMPOSE,
            "deps": ["weights.txt", "data"],
            "outs": [{"build/config": {"persist": True}}],
            "always_changed": True,
        },
        "check": {
            "cmd": "cp weights.txt c.txt",
            "params": [{"build/config/models/m.yaml": ["key"]}],
            "outs": ["c.txt"],
        },
        "side": STAGES["side"],
    }
    write(root, "dvc.yaml", yaml.safe_dump({"stages": stages}, sort_keys=False))
    write(root, "data/one", "1")
    write(root, "stages/__init__.py", "")
    write(
        root,
        "stages/compose.py",
        "from pathlib import Path\n"
        "path = Path('build/config/models/m.yaml')\n"
        "path.parent.mkdir(parents=True, exist_ok=True)\n"
        "path.write_text('key: 1\\n')\n",
    )
    return files


def test_what_runs_before_compose_decides_all_that_is_composed(
    root: Path, files: dict[Path, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    told = composed(root, files)
    assert {stage: (one.action, one.after) for stage, one in told.items()} == {
        "train": (RUNS, ()),
        "check": (MAY, ("train",)),
        "side": (UNCHANGED, ()),
    }
    assert require_right(root, caplog, files)["check"] == MAY
    assert require_right(root, caplog, files) == dict.fromkeys(("train", "check", "side"), UNCHANGED)


def test_what_keeps_compose_from_running_stops_all_that_is_composed(
    root: Path, files: dict[Path, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.move(root / "data", root / "elsewhere")
    told = composed(root, files)
    assert (told["compose"].action, told["check"].action, told["check"].after) == (FAILS, BLOCKED, ("compose",))
    assert [change.text for change in told["compose"].changes] == ["data is missing"]
    assert composed(root, files, missing_is_fine=True)["compose"].action == FAILS  # it is none of DVC's artifacts
    assert require_right(root, caplog, files)["side"] == UNCHANGED
    shutil.move(root / "elsewhere", root / "data")
    (root / "in.txt").unlink()
    told = composed(root, files)
    assert {stage: (one.action, one.after) for stage, one in told.items()} == {
        "train": (FAILS, ()),
        "compose": (BLOCKED, ("train",)),
        "check": (BLOCKED, ("train",)),
        "side": (UNCHANGED, ()),
    }
    require_right(root, caplog, files)


def test_weights_and_data_of_dvcs_that_are_missing_count_as_what_was_composed(root: Path) -> None:
    """compose digests what is not there as "missing"."""
    composed_file = root / "build/config/models/m.yaml"

    def file(weights: str, **data: str) -> dict[Path, bytes]:
        inputs = {"code": "c", "weights": weights, "data": data, "extra": {}, "model_files": {}}
        return {composed_file: yaml.safe_dump({"model": {"weights": "w.txt"}, "inputs": {"check": inputs}}).encode()}

    stages = {
        "compose": {"cmd": COMPOSE, "deps": ["w.txt", "data"], "outs": [{"build/config": {"persist": True}}]},
        "check": {
            "cmd": "touch c.txt",
            "params": [{"build/config/models/m.yaml": ["model.weights", "inputs.check"]}],
            "outs": ["c.txt"],
        },
    }
    write(root, "dvc.yaml", yaml.safe_dump({"stages": stages}, sort_keys=False))
    write(root, "w.txt", "1")
    write(root, "data/one", "1")
    write(root, "data/README", "of git's")
    whole = file("w1", data="d1", **{"data/one": "o1"})
    write(root, "build/config/models/m.yaml", whole[composed_file].decode())
    write(root, "stages/__init__.py", "")
    write(root, "stages/compose.py", "")
    assert cli.main(["add", "--quiet", "w.txt"]) == 0
    assert cli.main(["add", "--quiet", "data/one"]) == 0
    assert cli.main(["repro", "--quiet"]) == 0
    assert composed(root, whole)["check"].action == UNCHANGED

    (root / "w.txt").unlink()
    (root / "data/one").unlink()
    shutil.rmtree(root / ".dvc/cache")
    (root / "c.txt").unlink()
    lacking = file("missing", data="d2")
    assert composed(root, lacking)["check"].action != UNCHANGED
    assert {one.action for one in composed(root, lacking, missing_is_fine=True).values()} == {UNCHANGED}
    assert composed(root, file("missing", data="d2", other="x"), missing_is_fine=True)["check"].action == RUNS
    (change,) = composed(root, file("w2", data="d2"), missing_is_fine=True)["check"].changes
    assert change.key == "inputs.check.weights"
    pointer = (root / "w.txt.dvc").read_text()
    write(root, "w.txt.dvc", pointer.replace("md5: c4ca42", "md5: 000000"))  # that of other weights
    (change,) = composed(root, lacking, missing_is_fine=True)["check"].changes
    assert change.text == "the weights w.txt is missing"
    (root / "w.txt.dvc").unlink()
    assert composed(root, lacking, missing_is_fine=True)["compose"].action == FAILS


def test_stages_that_always_run_and_that_are_frozen(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    stages = {
        **STAGES,
        "first": {**STAGES["first"], "always_changed": True},
        "side": {**STAGES["side"], "frozen": True},
    }
    write(root, "dvc.yaml", yaml.safe_dump({"stages": stages}, sort_keys=False))
    write(root, "side.txt", "t\n")
    told = require_right(root, caplog)
    assert told == {"first": RUNS, "letter": MAY, "folder": MAY, "side": UNCHANGED, "last": MAY}
    assert [change.text for change in forecast(root)["first"].changes] == ["it always runs"]
    write(root, "build/all/side.txt", "by hand")
    assert require_right(root, caplog)["side"] == COMMITS
    assert require_right(root, caplog)["side"] == UNCHANGED
    (root / "build/all/side.txt").unlink()
    assert forecast(root, missing_is_fine=True)["side"].action == UNCHANGED
    told = require_right(root, caplog)
    assert (told["side"], told["last"]) == (FAILS, BLOCKED)
    (change,) = forecast(root)["side"].changes
    assert change.text == "build/all/side.txt is missing: the stage is frozen"


def test_targets_and_what_dvc_refuses(root: Path) -> None:
    assert list(forecast(root, "letter")) == ["first", "letter"]
    with pytest.raises(UsageError, match="dvc.yaml: no stage 'leter'. Did you mean 'letter'?"):
        forecast(root, "leter")
    lock = (root / "dvc.lock").read_text()
    write(root, "dvc.lock", lock[: lock.index("md5:") + 3])
    with pytest.raises(DvcError, match="dvc.lock.*`qntz repro` mends it"):
        forecast(root)
    with pytest.raises(DvcError, match="is no project of DVC"):
        forecast(root / "..")


EDITS: dict[str, Callable[[Path, random.Random], None]] = {
    "source": lambda root, draw: write(root, "in.txt", draw.choice("ab") + draw.choice("12") + "\n"),
    "side": lambda root, draw: write(root, "side.txt", draw.choice("st") + "\n"),
    "params": lambda root, draw: write(
        root, "params.yaml", yaml.safe_dump({name: draw.randrange(2) for name in PARAMS})
    ),
    "by hand": lambda root, draw: write(root, draw.choice(ARTIFACTS), draw.choice("ab")),
    "missing": lambda root, draw: (root / draw.choice(ARTIFACTS)).unlink(missing_ok=True),
    "folder": lambda root, draw: shutil.rmtree(root / "build/all/folder", ignore_errors=True),
    "lock": lambda root, draw: (root / "dvc.lock").unlink(),
    "cache": lambda root, draw: _lose(root, draw),
    "command": lambda root, draw: _command(root, draw),
}
ARTIFACTS = (
    "build/all/first.txt",
    "build/all/letter.txt",
    "build/all/side.txt",
    "build/all/folder/in/one",
    "build/last.txt",
)


def _lose(root: Path, draw: random.Random) -> None:
    """Removes a file from the cache, or the record of a run."""
    files = sorted(path for path in (root / ".dvc/cache").rglob("*") if path.is_file())
    lost = draw.choice(files)
    lost.unlink()
    if not any(lost.parent.iterdir()):
        lost.parent.rmdir()  # DVC itself stumbles over an empty folder of runs


def _command(root: Path, draw: random.Random) -> None:
    stages = {**STAGES}
    name = draw.choice(list(stages))
    stages[name] = {**stages[name], "cmd": stages[name]["cmd"] + draw.choice(["", " && true"])}
    write(root, "dvc.yaml", yaml.safe_dump({"stages": stages}, sort_keys=False))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_edits_drawn_by_chance(root: Path, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    draw = random.Random(seed)
    seen: set[str] = set()
    for _ in range(12):
        for name in draw.sample(sorted(EDITS), draw.randrange(1, 4)):
            EDITS[name](root, draw)
        seen |= set(require_right(root, caplog).values())
    assert {RUNS, RESTORED, UNCHANGED} <= seen
