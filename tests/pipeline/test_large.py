"""The models of transformers, outside of the default list, from the class to the engine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import new_project

pytestmark = pytest.mark.slow
# Parameters by their papers: ResNet-50 has 25.6 million, ViT-B/16 86.6, BERT base 109.5 (and a head of two classes).
MILLIONS = {"resnet50": (25.4, 25.7), "vit_base": (86.4, 86.7), "bert_base": (109.3, 109.6)}
# Convolutions and linear layers by the papers, and two products a layer of attention.
QUANTIZED = {"resnet50": 54, "vit_base": 1 + 12 * 8 + 1, "bert_base": 12 * 8 + 1}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Removed at once, unlike tmp_path: a run leaves a gigabyte."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path).resolve()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name != "resnet50" else []) for name in MILLIONS]
)
def test_a_large_model_becomes_engines_of_half_precision_and_of_int8(name: str, folder: Path) -> None:
    pytest.importorskip("transformers")
    project = new_project(folder / "project")
    half = f"{{model: {name}, quantize: {{use: fp16}}}}"
    # Weights drawn by chance, on images of noise: resnet50 keeps 14 dB by any method, which only trained ones improve.
    low = "{sqnr_db: 10, agreement: 0.5}"
    int8 = f"{{model: {name}, quantize: {{use: int8, tolerance: {low}}}, verify: {{tolerance: {low}}}}}"
    project.params(f"models: {{{name}: {{}}}}\nengines: {{half: {half}, int8: {int8}}}\n")
    ran = project.repro()
    assert {stage.partition("@")[2] for stage in ran} == {name, "half", "int8"}
    model = project.path / "build/models" / name
    least, most = MILLIONS[name]
    parameters = json.loads((model / "torchscript.json").read_text())["parameters"]
    assert least <= parameters / 1e6 <= most
    engine = json.loads((model / "engines/half/engine.json").read_text())
    assert (engine["backend"], engine["precision"]) == ("tensorrt_rtx", "fp16")
    # two bytes a parameter, and what the engine is beside its weights
    assert 1.9 * parameters < (model / "engines/half/model.engine").stat().st_size == engine["bytes"] < 3 * parameters
    metrics = json.loads((model / "engines/half/metrics.json").read_text())
    assert metrics["sqnr_db"] > 40  # 11 bits of mantissa are 66 dB; some fifty layers cost up to a quarter of it
    assert metrics["engine_run"] == "yes" or metrics["engine_run"].startswith("no: ")
    told = json.loads((model / "engines/int8/quantize.json").read_text())
    assert len(told["quantized"]) >= QUANTIZED[name]
    assert (model / "engines/int8/model.engine").stat().st_size > parameters / 2
    assert told["figures"]["sqnr_db"] > 10


@pytest.mark.soak
def test_a_large_model_becomes_engines_of_fp8_and_int4(folder: Path) -> None:
    pytest.importorskip("transformers")
    project = new_project(folder / "project")
    low = "tolerance: {sqnr_db: 5, agreement: 0.5}"
    fp8 = f"{{model: bert_base, quantize: {{use: fp8, {low}}}, verify: {{{low}}}, engine: {{compute_capabilities: [sm89]}}}}"
    int4 = f"{{model: bert_base, quantize: {{use: int4, elsewhere: fp16, {low}}}, verify: {{{low}}}}}"
    project.params(f"models: {{bert_base: {{}}}}\nengines: {{fp8: {fp8}, int4: {int4}}}\n")
    assert {stage.partition("@")[2] for stage in project.repro()} == {"bert_base", "fp8", "int4"}
    model = project.path / "build/models/bert_base/engines"
    told = {name: json.loads((model / name / "quantize.json").read_text()) for name in ("fp8", "int4")}
    assert len(told["fp8"]["quantized"]) >= QUANTIZED["bert_base"]
    assert len(told["int4"]["quantized"]) >= 12 * 6  # linear layers
    assert told["fp8"]["figures"]["sqnr_db"] > 10  # weights drawn by chance, as above
    assert told["int4"]["figures"]["sqnr_db"] > 5
    # Of 109 million parameters 86 stand in linear layers, the rest, embeddings, in half precision.
    assert (model / "int4/model.engine").stat().st_size < 1.4 * (86e6 / 2 + 23.8e6 * 2)
