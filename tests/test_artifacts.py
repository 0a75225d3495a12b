"""Writes are whole or not at all, and the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from qntz import artifacts
from qntz.errors import ArtifactError


def test_npz_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    a = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([True, False])}
    b = dict(reversed(a.items()))
    assert artifacts.npz_bytes(a) == artifacts.npz_bytes(b)
    artifacts.write_npz(tmp_path / "x.npz", a)
    back = artifacts.read_npz(tmp_path / "x.npz")
    assert list(back) == ["a", "b"]
    np.testing.assert_array_equal(back["b"], a["b"])


def test_runs_keep_their_order_and_shapes(tmp_path: Path) -> None:
    runs = [{"z": np.zeros((2, 1)), "a/b": np.ones(i + 1)} for i in range(12)]
    artifacts.write_runs(tmp_path / "r.npz", runs)
    back = artifacts.read_runs(tmp_path / "r.npz")
    assert [list(run) for run in back] == [["z", "a/b"]] * 12
    assert [run["a/b"].shape for run in back] == [(i + 1,) for i in range(12)]
    artifacts.write_runs(tmp_path / "none.npz", [])
    assert artifacts.read_runs(tmp_path / "none.npz") == []


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(RuntimeError), artifacts.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_no_space_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    """/dev/full says ENOSPC to every write."""
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ArtifactError) as error, artifacts.replacing(path) as temporary, artifacts.telling(path):  # noqa: PT012
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 100_000)
    assert "cannot be written: No space left on device" in str(error.value)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifacts.write_text(tmp_path / "build" / "x.json", "{}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x00" * 50])
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.npz: is no \.npz archive"):
        artifacts.read_npz(tmp_path / "x.npz")
    with pytest.raises(ArtifactError, match="is missing"):
        artifacts.read_npz(tmp_path / "y.npz")


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        artifacts.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 500_000)
    assert artifacts.digest_file(tmp_path / "x") == hashlib.sha256(b"abc" * 500_000).hexdigest()


def test_paths() -> None:
    paths = artifacts.ModelPaths(Path("r"), "m")
    assert paths.simplified == Path("r/build/models/m/simplified.onnx")
    assert paths.engine("e").plan == Path("r/build/models/m/engines/e/model.engine")
    with pytest.raises(AttributeError):
        paths.simplifed  # noqa: B018


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "plan", tmp_path / "record"
    first.write_bytes(b"old")
    second.mkdir()
    with pytest.raises(ArtifactError, match="record: cannot be written: Is a directory"):
        artifacts.write_together({first: b"new", second: b"new"})
    assert first.read_bytes() == b"old"
    second.rmdir()
    artifacts.write_together({first: b"new", second: b"newer"})
    assert (first.read_bytes(), second.read_bytes()) == (b"new", b"newer")
    assert sorted(os.listdir(tmp_path)) == ["plan", "record"]


def test_nan_in_json_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"agreement": NaN}')
    with pytest.raises(ArtifactError, match="a.json: is damaged: NaN is no JSON. Remove it"):
        artifacts.read_json(tmp_path / "a.json")
