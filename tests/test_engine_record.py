"""engine.json, whole and damaged, as the report, `qntz inspect` and `qntz bench` read it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from qntz import cli
from qntz.artifacts import EnginePaths, ModelPaths, write_bytes, write_json
from qntz.config import EngineConfig
from qntz.engine_record import read_engine_record
from qntz.errors import ArtifactError
from qntz.report import gather
from tests.report.conftest import engine_records, model_records

OPTIONS = {name: value for name, value in dataclasses.asdict(EngineConfig()).items() if name != "backend"}
IMAGE = {"name": "image", "dtype": "float32", "min": [1, 1, 8, 8], "opt": [8, 1, 8, 8], "max": [64, 1, 8, 8]}
WHOLE: dict[str, Any] = {
    "backend": "onnxruntime",
    "version": "1.22",
    "target": "any CPU",
    "precision": "fp32",
    "options": OPTIONS,
    "inputs": [IMAGE],
    "outputs": [{"name": "logits", "dtype": "float32", "min": [1, 10], "opt": [-1, 10], "max": [64, 10]}],
    "bytes": 4,
    "plan_sha256": hashlib.sha256(b"plan").hexdigest(),
    "made_from": {"files": {"weights": "ab"}, "tools": {"onnx": "1.18"}, "code": "cd"},
    "details": {"layers_by_precision": {"fp32": 3}},
    "licences": {"onnx": "Apache-2.0"},
}
DAMAGED: list[tuple[Any, str]] = [
    ([], "is damaged: [] is not a mapping"),
    ({**WHOLE, "inputs": [1]}, "is damaged: inputs: 1 is not a mapping"),
    ({**WHOLE, "inputs": [{**IMAGE, "min": [1, "one"]}]}, "is damaged: inputs.0.min: 'one' is not of type int"),
    ({**WHOLE, "inputs": [{**IMAGE, "max": None}]}, "is damaged: inputs.0.max: None is not a list"),
    ({**WHOLE, "outputs": [{**IMAGE, "max": [64]}]}, "is damaged: outputs.0: min, opt and max differ in rank"),
    ({**WHOLE, "bytes": "many"}, "is damaged: bytes: 'many' is not of type int"),
    ({**WHOLE, "plan_sha256": 5}, "is damaged: plan_sha256: 5 is not of type str"),
    ({**WHOLE, "made_from": {"tools": []}}, "is damaged: made_from.tools: [] is not a mapping"),
    ({**WHOLE, "details": {"layers_by_precision": 1}}, "is damaged: details.layers_by_precision: 1 is not a mapping"),
    ({**WHOLE, "licences": ["MIT"]}, "is damaged: licences: ['MIT'] is not a mapping"),
]
PARAMS = """
models: {digits: {}}
engines:
  digits-fp32: {model: digits, engine: {use: onnxruntime}}
  other: {model: digits, engine: {use: onnxruntime}}
"""


def test_a_whole_record_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    write_json(path, {**WHOLE, "of_a_later_qntz": 1})
    assert read_engine_record(path, WHOLE) == {**WHOLE, "of_a_later_qntz": 1}
    write_json(path, {"bytes": 4})
    assert read_engine_record(path) == {"bytes": 4}
    with pytest.raises(ArtifactError) as caught:
        read_engine_record(path, ("bytes", "target"), "Build it.")
    assert str(caught.value) == f"{path}: is damaged, or of an older qntz: no target. Build it."


@pytest.mark.parametrize(("record", "told"), DAMAGED, ids=range(len(DAMAGED)))
def test_the_report_tells_what_is_damaged(tmp_path: Path, record: Any, told: str) -> None:
    paths = ModelPaths(tmp_path, "digits")
    model_records(paths)
    engine_records(paths.engine("digits-fp32"), engine=record)
    with pytest.raises(ArtifactError) as caught:
        gather(paths, ["digits-fp32"])
    assert str(caught.value) == f"{paths.engine('digits-fp32').engine_json}: {told}. Remove it and run `dvc repro`."


@pytest.fixture
def built(project: Path, monkeypatch: pytest.MonkeyPatch) -> EnginePaths:
    """digits-fp32 with a whole record, beside bytes that are no engine."""
    (project / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(project)
    paths = ModelPaths(project, "digits").engine("digits-fp32")
    engine_records(paths, engine=WHOLE, quantize={"quantized": [], "skipped": {}, "operators_after": {"Conv": 2}})
    write_bytes(paths.plan, b"plan")
    write_bytes(paths.quantized, b"graph")
    return paths


def test_the_commands_tell_what_is_damaged(built: EnginePaths, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(command: str, path: Path) -> str:
        assert cli.main([command, "digits-fp32"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        return line.partition(path.name)[2]

    for record, told in DAMAGED:
        write_json(built.engine_json, record)
        assert refused("inspect", built.engine_json) == f": {told}. Run `dvc repro verify@digits-fp32`."
        assert refused("bench", built.engine_json) == f": {told}. Run `dvc repro engine@digits-fp32`."
    write_json(built.engine_json, WHOLE)
    write_json(built.quantize_json, {"quantized": 5})
    told = ": is damaged: quantized: 5 is not a list. Run `dvc repro verify@digits-fp32`."
    assert refused("inspect", built.quantize_json) == told


def test_a_whole_record_is_shown(built: EnginePaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "digits-fp32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits-fp32: fp32 by onnxruntime 1.22, 4 bytes"
    assert {"  onnx  1.18  Apache-2.0", "  image  float32 [1..64, 1, 8, 8]", "  Conv  2"} <= set(lines)


def test_layers_are_told_apart_in_the_words_of_the_report(
    built: EnginePaths, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, names = "index,layer,tensor,op,sqnr_db", ("lost", "kept", "noisy")
    for paths, figures in ((built, ("-inf", "inf", "18.5")), (built.of.engine("other"), ("40.25", "", "41"))):
        rows = [
            f"{at},{name},{name},Conv,{figure}" for at, (name, figure) in enumerate(zip(names, figures, strict=True))
        ]
        engine_records(paths, engine=WHOLE, quantize={}, layers="\n".join([columns, *rows, ""]))
    assert cli.main(["inspect", "digits-fp32", "--against", "other"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        "layer digits-fp32 other",
        "lost - broken - 40.2 dB",
        "kept - exact -",
        "noisy - 18.5 dB - 41.0 dB",
    ]


def test_a_benchmark_in_which_nothing_runs_says_so(built: EnginePaths, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "digits-fp32", "--runtimes", "engine", "--batch", "1", "--seconds", "0.02", "--rounds", "1"]
    assert cli.main([*command, "--json"]) == 1  # its plan is no engine
    said = capsys.readouterr()
    told = json.loads(said.out)
    (one,) = told["not_run"]
    assert (told["timings"], one["subject"]) == ([], "onnxruntime: digits-fp32")
    (line,) = said.err.splitlines()
    assert line.startswith("error: bench: nothing could be timed: onnxruntime: digits-fp32: ")
    assert one["why"].rstrip(".") in line
