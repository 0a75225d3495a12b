"""A machine in trouble in the middle of `dvc repro`: a full disk, a folder that is read-only, too little memory. It is
told, and the next run ends with the digests of an undisturbed one."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import Project, new_project

pytestmark = pytest.mark.slow
MEMORY = Path("/sys/fs/cgroup/memory")
BUILT = "engine@digits-int8"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Goes from one trouble into the next; what it has built in between stays."""
    project = new_project(tmp_path_factory.mktemp("trouble"))
    project.params("models: {digits: {}}\nengines: {digits-int8: {model: digits, quantize: {use: int8}}}\n")
    return project


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many kilobytes in the place of a folder; 0 for one that is read-only. What was there comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size}k" if size else "ro"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("NOT RUN: mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def limited(megabytes: int) -> Iterator[Path]:
    """The file that takes processes which may have so much memory together; the kernel kills one that wants more."""
    group = MEMORY / f"qntz-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"NOT RUN: no control group of memory can be made: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(megabytes << 20))
        yield group / "cgroup.procs"
    finally:
        taken_away(group)


def taken_away(group: Path) -> None:
    """The kernel takes a moment over processes that it has killed, and keeps their group until then; none may stay."""
    deadline = time.monotonic() + 60
    while True:
        try:
            group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise AssertionError(f"left running: {(group / 'cgroup.procs').read_text().split()}") from error
            time.sleep(0.1)
        else:
            return


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines in which a run that failed says why."""
    assert done.returncode != 0, done.stdout[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]


# where a file is linked out of the cache, DVC says of either that no kind of link works
FULL, READ_ONLY = ("No space left on device", "No possible cache link types"), ("Read-only file system",)


@pytest.mark.parametrize(
    ("folder", "size"),
    [
        *((folder, size) for folder in ("build", ".dvc/cache") for size in (8, 64, 256, 1024, 0)),
        *((".dvc/tmp", 8), (".dvc/tmp", 0)),  # DVC's own state is small
    ],
)
def test_a_full_disk_and_a_folder_that_is_read_only(project: Project, folder: str, size: int) -> None:
    """The sizes fall into other stages; none is enough for the engine."""
    with mounted(project.path / folder, size):
        done = project.dvc("repro")
    lines = told(done)
    assert any(words in line for line in lines for words in (FULL if size else READ_ONLY)), done.stderr
    if folder == "build":
        assert any(line.startswith(("error: ", "ERROR: failed to reproduce")) for line in lines)


def test_too_little_memory_for_the_builder(project: Project, small: Project) -> None:
    """The kernel ends it, as it ends what takes most; with more of it the same run goes on."""
    project.repro("quantize@digits-int8")
    killed = 0
    for megabytes in (90, 120, 160):
        with limited(megabytes) as processes:
            done = project.run("sh", "-c", f"echo $$ > {processes} && exec dvc repro {BUILT}")
        assert done.returncode != 0
        killed += any("the builder ended: signal SIGKILL. Nothing was kept of it." in line for line in told(done))
        assert not list((project.path / "build/models/digits/engines/digits-int8").glob("*model.engine*"))
    assert killed


def test_the_end_is_that_of_an_undisturbed_run(project: Project, small: Project) -> None:
    """After all of the above, or what of it could be run."""
    project.repro()
    assert project.digests() == small.digests()
    assert (project.path / "build/models/digits/engines/digits-int8/model.engine").stat().st_size > 0
    assert not [*(project.path / "build").rglob("*.tmp"), *(project.path / ".dvc/cache").rglob("*.tmp")]
    assert project.qntz("status").returncode == 0
