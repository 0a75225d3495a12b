"""TensorRT's calibration cache and ranges.json: each from the other, and what one lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qntz.errors import QuantizeError
from qntz.quantize.cache import as_cache, as_json, missing, read_ranges

# 3c010204 is 0.00787401571869850158691, the float32 next to 1 / 127; 3f800000 is 1.
CACHE = "TRT-8601-EntropyCalibration2\nimage: 3c010204\nlayers: 0/relu: 3f800000\n"


def test_a_cache_is_read_with_its_scales_as_big_endian_float32():
    assert read_ranges(CACHE, "c") == {"image": pytest.approx(1.0, rel=1e-7), "layers: 0/relu": 127.0}


@pytest.mark.parametrize(
    "header", ["TRT-7103-EntropyCalibration2", "TRT-8601-MinMaxCalibration", "TRT-100300-LegacyCalibration"]
)
def test_every_version_up_to_ten_is_read(header):
    assert list(read_ranges(f"{header}\nx: 3f800000\n\n", "c")) == ["x"]


def test_there_and_back_keeps_every_scale():
    random = np.random.default_rng(1)
    ranges = {f"t{i}": float(amax) for i, amax in enumerate(np.exp2(random.uniform(-40, 40, 200)))}
    by_cache = read_ranges(as_cache(ranges), "c")
    assert as_cache(by_cache) == as_cache(ranges)
    by_json = read_ranges(json.dumps(as_json(ranges, "int8", "mse")), "r")
    assert by_json == ranges
    assert by_cache == pytest.approx(ranges, rel=1e-6)


def test_what_one_lacks_is_listed():
    assert missing({"a": 1, "b": 2}, {"b": 5, "d": 1, "c": 1}) == (["a"], ["c", "d"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c: is no calibration cache and no ranges.json. It begins with TRT-<version>-<calibrator>."),
        (
            "hello\nx: 3f800000\n",
            "c: is no calibration cache and no ranges.json. It begins with TRT-<version>-<calibrator>.",
        ),
        ("TRT-110000-EntropyCalibration2\n", "c: is of version 110000: TensorRT 11 has no calibration caches."),
        (
            "TRT-8601-EntropyCalibration2\nx 3f800000\n",
            "c:2: 'x 3f800000' is no scale. A line is a tensor, a colon, and the 8 hex digits of its scale.",
        ),
        (
            "TRT-8601-EntropyCalibration2\n\nx: 3f8000\n",
            "c:3: 'x: 3f8000' is no scale. A line is a tensor, a colon, and the 8 hex digits of its scale.",
        ),
        (
            "TRT-8601-EntropyCalibration2\nx: 7fc00000\n",
            "c:2: 'x: 7fc00000' is no scale. A line is a tensor, a colon, and the 8 hex digits of its scale.",
        ),
        ("TRT-8601-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", "c:3: tensor 'x' is there twice."),
        ("{}", "c: is no ranges.json: KeyError: 'tensors'."),
        ('{"tensors": {"x": {"amax": 0}}}', "c: amax of 'x' is 0.0. It is a number above 0."),
    ],
)
def test_others_are_refused_with_their_line(text, message):
    with pytest.raises(QuantizeError) as caught:
        read_ranges(text, "c")
    assert str(caught.value) == message


def ranges(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qntz.cli", "ranges", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_converts_and_compares(tmp_path):
    (tmp_path / "old.cache").write_text(CACHE)
    done = ranges(tmp_path, "old.cache", "ranges.json")
    assert (done.returncode, done.stdout) == (0, "ranges.json: 2 tensors\n"), done.stderr
    told = json.loads((tmp_path / "ranges.json").read_text())["tensors"]
    assert told["layers: 0/relu"] == {"amax": 127.0, "scale": 1.0}
    del told["image"]
    (tmp_path / "fewer.json").write_text(json.dumps({"tensors": {**told, "z": {"amax": 2}}}))
    back = ranges(tmp_path, "ranges.json", "new.cache", "--against", "fewer.json")
    assert back.returncode == 1
    assert back.stdout == "new.cache: 2 tensors\nonly in ranges.json: image\nonly in fewer.json: z\n"
    assert (tmp_path / "new.cache").read_text().splitlines()[1:] == CACHE.splitlines()[1:]
    same = ranges(tmp_path, "new.cache", "--against", "old.cache")
    assert (same.returncode, same.stdout) == (0, "the same 2 tensors\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("old.cache",), 2, "error: ranges: old.cache: nothing to do. Name a target, or --against another file.\n"),
        (("gone", "x.json"), 1, "error: ranges: gone: cannot be read: No such file or directory.\n"),
        (("huge.json", "x.cache"), 1, "error: ranges: ranges: amax 1e+41 of 'a' has no scale in float32.\n"),
        (("tiny.json", "x.json"), 1, "error: ranges: ranges: amax 1e-50 of 'a' has no scale in float32.\n"),
        (
            ("fp8.json", "x.cache"),
            1,
            "error: ranges: fp8.json: are ranges of fp8: a calibration cache is int8's. Name a .json.\n",
        ),
        (("old.cache", "folder"), 2, "error: ranges: folder: is a folder. Name a file.\n"),
        (("bytes", "x.json"), 1, "error: ranges: bytes: is no calibration cache and no ranges.json: it is no text.\n"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, arguments, code, message):
    (tmp_path / "old.cache").write_text(CACHE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "fp8.json").write_text(json.dumps(as_json({"a": 448.0}, "fp8", "max")))
    for name, amax in (("huge", 1e41), ("tiny", 1e-50)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"tensors": {"a": {"amax": amax}}}))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    done = ranges(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", message)
    assert not any((tmp_path / name).exists() for name in ("x.json", "x.cache"))
