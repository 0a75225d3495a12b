"""`qntz inspect`, as a user types it after `dvc repro`."""

from __future__ import annotations

import hashlib
import json
import re

import yaml

from tests.pipeline.conftest import Project


def test_an_engine_is_told_with_what_it_is_made_of(small: Project) -> None:
    done = small.run("qntz", "inspect", "digits-int8")
    assert done.returncode == 0, done.stderr
    folder = small.path / "build/models/digits/engines/digits-int8"
    plan = (folder / "model.engine").read_bytes()
    lines = done.stdout.splitlines()
    assert re.fullmatch(rf"digits-int8: int8 by tensorrt_rtx [\d.]+, {len(plan):,} bytes", lines[0])
    assert f"plan {hashlib.sha256(plan).hexdigest()}" in lines
    assert "  image  float32 [1..64, 1, 8, 8]" in lines
    weights = hashlib.sha256((small.path / "examples/digits/weights.safetensors").read_bytes()).hexdigest()
    assert any(line.split() == ["examples/digits/weights.safetensors", weights] for line in lines)
    assert any(re.fullmatch(r"  onnx +[\d.]+  Apache-2.0", line) for line in lines)
    assert "9 nodes in int8; 0 of those that could be are not" in lines
    head = lines.index("layers of the network before it was built, by precision")
    assert "  int8   9" in lines[head + 1 : head + 4]
    as_json = json.loads(small.run("qntz", "inspect", "digits-int8", "--json").stdout)
    assert as_json == json.loads((folder / "engine.json").read_text())


def test_two_engines_are_told_apart_layer_by_layer(small: Project) -> None:
    alike = small.run("qntz", "inspect", "digits-int8", "--against", "digits-int8")
    assert (alike.returncode, alike.stdout) == (0, "the two are alike\n")
    before = (small.path / "params.yaml").read_text()
    excluded = {
        "model": "digits",
        "quantize": {"use": "int8", "exclude": ["head"]},
        "engine": {"optimization_level": 1},
    }
    engines = {"digits-int8": {"model": "digits", "quantize": {"use": "int8"}}, "digits-head": excluded}
    try:
        small.params(yaml.safe_dump({"models": {"digits": {}}, "engines": engines}))
        small.repro("verify@digits-head")
        done = small.run("qntz", "inspect", "digits-int8", "--against", "digits-head")
        told = json.loads(small.run("qntz", "inspect", "digits-int8", "--against", "digits-head", "--json").stdout)
    finally:
        small.params(before)
        small.repro()
    assert done.returncode == 1, done.stderr
    assert max(map(len, done.stdout.splitlines())) < 140
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["options.optimization_level", "null", "1"] in rows
    assert ["quantize.corrected./head/Gemm", "yes", "-"] in rows
    (head,) = [row for row in rows if row[:1] == ["/head/Gemm"]]
    assert (head[1], head[4]) == ("int8", "-")
    assert "plan_sha256" in {row[0] for row in told["records"]}
    assert "/head/Gemm" in {row[0] for row in told["layers"]}
    assert not {"/stem/0/Conv"} & {row[0] for row in told["layers"]}  # which nothing changed


def test_refusals(small: Project) -> None:
    unknown = small.run("qntz", "inspect", "digits-in8")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == ("error: inspect: params.yaml: no engine 'digits-in8'. Did you mean 'digits-int8'?\n")
    record = small.path / "build/models/digits/engines/digits-int8/engine.json"
    held = record.read_bytes()
    try:
        for text, why in (("{}", "no backend"), ("[]", "[] is not a mapping"), ("{", "")):
            record.unlink()  # DVC links it to its cache
            record.write_text(text)
            done = small.run("qntz", "inspect", "digits-int8")
            assert (done.returncode, done.stdout) == (1, "")
            assert "is damaged" in done.stderr
            assert why in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        record.unlink()
        record.write_bytes(held)
