"""fp8 and int4 by `dvc repro`, from the calibration to the engine."""

from __future__ import annotations

import json

import onnx
import pytest
import yaml

from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow
MODELS = {"digits": {}, "sums": {"use": "digits"}}


def test_fp8_and_int4_end_in_engines(small: Project) -> None:
    before = (small.path / "params.yaml").read_text()
    eights = {"quantize": {"use": "fp8", "elsewhere": "fp16"}, "engine": {"compute_capabilities": ["sm89", "sm120"]}}
    fours = {"quantize": {"use": "int4", "exclude": ["blocks.*"], "tolerance": {"metric_drop": 0.02}}}
    engines = {"digits-fp8": {"model": "digits", **eights}, "digits-int4": {"model": "sums", **fours}}
    try:
        small.params(yaml.safe_dump({"models": MODELS, "engines": engines}))
        ran = small.repro()
        assert {"engine@digits-fp8", "engine@digits-int4"} <= set(ran)
        folder = small.path / "build/models/digits/engines/digits-fp8"
        told = json.loads((folder / "quantize.json").read_text())
        assert told["method"] == "max"
        assert len(told["quantized"]) == 9
        assert told["figures"]["sqnr_db"] > 25
        assert told["figures"]["accuracy"] > 0.98
        kinds = {one.data_type for one in onnx.load(folder / "quantized.onnx").graph.initializer}
        assert kinds >= {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT16}
        assert json.loads((folder / "engine.json").read_text())["precision"] == "fp8"
        # Weights alone take no calibration data.
        composed = yaml.safe_load((small.path / "build/config/models/sums.yaml").read_text())
        assert composed["calibrate"]["needed"] is False
        told = json.loads((small.path / "build/models/sums/engines/digits-int4/quantize.json").read_text())
        assert told["quantized"] == ["/head/Gemm"]
        assert told["layers"]["/head/Gemm"]["module"] == "head"
        measured = small.run("qntz", "sensitivity", "digits-int4")
        assert measured.returncode == 0, measured.stderr
        assert "/head/Gemm" in measured.stdout

        engines["digits-fp8"]["engine"] = {}
        small.params(yaml.safe_dump({"models": MODELS, "engines": engines}))
        refused = small.run("dvc", "repro", "quantize@digits-fp8")
        assert refused.returncode != 0
        assert (
            "compute_capabilities: fp8 takes compute capabilities by name: tensorrt_rtx's default is for Ampere too,"
            " which has no fp8. Set [sm89, sm120], or those of your GPUs."
        ) in refused.stderr
        assert "Running stage 'quantize@digits-fp8'" in refused.stdout  # which says so again, and does nothing
    finally:
        small.params(before)
        small.repro()
