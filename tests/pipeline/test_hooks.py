"""One plugin that implements every hook, in a real pipeline: each of its records leaves its mark in an artifact."""

from __future__ import annotations

import json

import onnx
import pytest

from tests.pipeline.conftest import Project

PLUGIN = """
from pathlib import Path

from qntz import hookimpl
from qntz.records import *


@hookimpl
def qntz_rules():
    def find(subject):
        yield Finding("small", "note", "examples/digits/model.py", 1, 1, "this model is small", "live object")

    yield Rule("ACME1", "small", "note", "A small model.", "We like them.", "Nothing.", ("trace",), "", find)


@hookimpl
def qntz_module_rewrites():
    def apply(module):
        from torch import nn

        return nn.Threshold(0.0, 0.0)

    yield ModuleRewrite("threshold", lambda module: type(module).__name__ == "ReLU", apply, tolerance=0.0)


@hookimpl
def qntz_symbolics(opset):
    def threshold(g, x, limit, value, inplace=None):
        return g.op("Relu", x)

    yield Symbolic("aten::threshold", threshold)


@hookimpl
def qntz_graph_passes(phase):
    def apply(model):
        model.graph.doc_string += f" {phase}"
        return model, 1

    if phase != "export":  # export drops doc strings, since torch fills them with source lines
        yield GraphPass(f"sign-{phase}", apply)


@hookimpl
def qntz_data_sources():
    def open(options, root):
        import numpy as np

        with np.load(root / "examples/digits/data/test.npz") as data:
            for image, target in zip(data["image"][: options["count"]], data["target"]):
                yield {"image": image, "target": target}

    yield DataSource("first", open)


@hookimpl
def qntz_metrics():
    def score(outputs, targets):
        return float((outputs["output"].argsort(-1)[:, -2:] == targets[:, None]).any(1).mean())

    yield Metric("best_of_two", score, lambda a, b: 0.75)


@hookimpl
def qntz_threshold_methods():
    yield ThresholdMethod("share", lambda histogram, share: histogram.amax * share)


class Echo:
    name = "echo"

    def version(self):
        return "7"

    def refusal(self, config, precision):
        return None

    def why_not_run(self, config):
        return None

    def build(self, onnx_path, inputs, config, progress):
        return Built(Path(onnx_path).read_bytes(), "7", "echo", 0.0, tuple(inputs), ())

    def load(self, plan, config):
        from qntz import ort

        session = ort.session(plan.read_bytes())

        class Run:
            def run(self, inputs):
                return ort.run(session, inputs)

        return Run()


@hookimpl
def qntz_backends():
    yield Echo()


@hookimpl
def qntz_report(run):
    yield ReportRow("Shipping", "engines to ship", "exactly one")


@hookimpl
def qntz_explain(error):
    return "ask the quantization team" if "too far" in str(error) else None
"""
PARAMS = """
models:
  digits:
    torchscript: {{require: [threshold]}}
    export: {{require: ["aten::threshold"]}}
    simplify: {{require: [sign-simplify]}}
    model: {{metric: best_of_two, data: {{test: {{source: first, count: 50, file: null}}}}}}
engines:
  e: {{model: digits, quantize: {{use: int8, method: share, options: {{share: {share}}}}}, engine: {{backend: echo}}}}
"""


@pytest.mark.slow
def test_every_hook_leaves_its_mark(empty_project: Project) -> None:
    (empty_project.path / "plugins/every.py").write_text(PLUGIN)
    empty_project.params(PARAMS.format(share=1.0))
    assert "report@digits" in empty_project.repro()
    folder = empty_project.path / "build/models/digits"

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text())

    assert [f["message"] for f in read("check.json")["findings"]] == ["this model is small"]
    (proof,) = [p for p in read("torchscript.json")["rewrites"] if p["name"] == "threshold"]
    assert (proof["provider"], proof["worst_error"]) == ("plugins/every.py", 0)
    assert proof["places"] == ["stem.2"]  # the blocks call torch.relu, which is no module
    (symbolic,) = [one for one in read("export.json")["symbolics"] if one["provider"] == "plugins/every.py"]
    assert (symbolic["name"], symbolic["fired"] > 0) == ("aten::threshold", True)
    assert onnx.load(str(folder / "simplified.onnx")).graph.doc_string == " simplify"
    assert " quantize" in onnx.load(str(folder / "engines/e/quantized.onnx")).graph.doc_string
    record = read("engines/e/quantize.json")
    assert record["method"] == "share"
    metrics = read("engines/e/metrics.json")
    assert metrics["best_of_two"] >= 0.98
    assert metrics["agreement"] == 0.75  # as the plugin's metric says
    assert metrics["engine_run"] == "yes"
    assert read("engines/e/engine.json")["target"] == "echo"
    page = (empty_project.path / "build/reports/digits.html").read_text()
    assert "engines to ship" in page
    assert "exactly one" in page
    empty_project.params(PARAMS.format(share=0.01))
    done = empty_project.dvc("repro")
    assert done.returncode != 0
    assert "hint (plugins/every.py): ask the quantization team" in done.stderr
