"""What the report reads, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable

import pytest

from qntz.artifacts import ModelPaths, write_json, write_text
from qntz.errors import ArtifactError
from qntz.report import gather
from qntz.report.run import LayerFigure, Material, ProbeFigure
from tests.report.conftest import engine_records, model_records

Writer = Callable[..., ModelPaths]


def test_the_figures_of_an_engine_are_read_as_they_stand(one_engine: Writer):
    run = gather(one_engine(), ["digits-int8"])
    (engine,) = run.engines
    assert engine.layers == (
        LayerFigure(0, "/stem/Conv", "/stem/Conv_output_0", "Conv", 41.25),
        LayerFigure(2, "/head/Gemm", "logits", "Gemm", 18.5),
    )
    assert engine.probes == (
        ProbeFigure("0", "logits", "2x10", 0.021, 33.25),
        ProbeFigure("1", "logits", "3x10", 0.019, None),
    )
    assert (engine.plan_bytes, engine.onnx_bytes, engine.precision) == (92160, 22528, "int8")
    assert (engine.was_run, engine.why_not_run, run.metric) == (True, "", "accuracy")


def test_engines_keep_the_order_in_which_they_were_named(paths: ModelPaths):
    model_records(paths)
    for name in ("b", "a", "c"):
        engine_records(paths.engine(name))
    assert [engine.name for engine in gather(paths, ["c", "a", "b"]).engines] == ["c", "a", "b"]


def test_sizes_fall_back_on_kilobytes(one_engine: Writer):
    metrics = {"engine_kb": 1.5, "onnx_kb": 2.0}
    engine = gather(one_engine(engine={}, quantize={}, metrics=metrics), ["digits-int8"]).engines[0]
    assert (engine.plan_bytes, engine.onnx_bytes) == (1536, 2048)


def test_an_absent_figure_is_none_and_a_null_one_is_nan(one_engine: Writer):
    engine = gather(one_engine(metrics={"worst_rel_error": None}), ["digits-int8"]).engines[0]
    assert engine.figure("agreement") is None
    assert math.isnan(engine.figure("worst_rel_error"))


@pytest.mark.parametrize(
    ("metrics", "was_run", "why"),
    [
        ({"engine_run": "no: no CUDA GPU on this machine"}, False, "no CUDA GPU on this machine"),
        ({}, None, "verify does not say"),
    ],
)
def test_an_engine_that_was_not_run_says_why(one_engine: Writer, metrics, was_run, why):
    engine = gather(one_engine(metrics=metrics), ["digits-int8"]).engines[0]
    assert (engine.was_run, engine.why_not_run) == (was_run, why)


def test_the_hook_gets_the_json_records(one_engine: Writer):
    given = gather(one_engine(), ["digits-int8"]).as_dict()
    assert json.loads(json.dumps(given, allow_nan=False)) == given
    assert sorted(given) == ["check", "engines", "export", "model", "simplify", "torchscript"]
    assert given["engines"]["digits-int8"]["metrics"]["accuracy"] == 0.9711
    assert given["engines"]["digits-int8"]["engine"]["target"] == "sm89"


def test_the_bill_of_materials_holds_what_is_there(one_engine: Writer):
    run = gather(one_engine(), ["digits-int8"])
    assert run.materials == (
        Material("model.onnx", 5, hashlib.sha256(b"model").hexdigest()),
        Material("engines/digits-int8/model.engine", 4, hashlib.sha256(b"plan").hexdigest()),
    )


def test_an_engine_that_is_not_the_recorded_one_is_refused(one_engine: Writer):
    stated, found = hashlib.sha256(b"another").hexdigest(), hashlib.sha256(b"plan").hexdigest()
    paths = one_engine(engine={"plan_sha256": stated})
    with pytest.raises(ArtifactError) as caught:
        gather(paths, ["digits-int8"])
    plan = paths.engine("digits-int8").plan
    assert str(caught.value) == (
        f"{plan}: is not the engine that engine.json describes: its SHA-256 begins with {found[:12]}, "
        f"the record's with {stated[:12]}. Run `dvc repro engine@digits-int8`."
    )


def test_a_missing_record_is_refused(one_engine: Writer):
    paths = one_engine()
    paths.engine("digits-int8").metrics.unlink()
    with pytest.raises(ArtifactError, match=r"metrics\.json: is missing\. Run `dvc repro`\."):
        gather(paths, ["digits-int8"])


def test_missing_layer_figures_are_refused(one_engine: Writer):
    paths = one_engine()
    paths.engine("digits-int8").layer_figures.unlink()
    with pytest.raises(ArtifactError, match=r"layers\.csv: is missing\. Run `dvc repro`\."):
        gather(paths, ["digits-int8"])


def test_a_record_that_is_a_list_is_refused(one_engine: Writer):
    paths = one_engine()
    write_json(paths.export_json, [1])
    with pytest.raises(ArtifactError, match=r"export\.json: is no record: it holds a list\."):
        gather(paths, ["digits-int8"])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("index,layer,op,sqnr_db\n", "lacks a column: tensor not in the first line. Remove it and run `dvc repro`."),
        (
            "index,layer,tensor,op,sqnr_db\n0,a,b,Conv,high\n",
            "is damaged: 'high' is no number. Remove it and run `dvc repro`.",
        ),
        (
            "index,layer,tensor,op,sqnr_db\n-1,a,b,Conv,3\n",
            "is damaged: '-1' is no index. Remove it and run `dvc repro`.",
        ),
    ],
)
def test_damaged_layer_figures_are_refused(one_engine: Writer, layers, message):
    paths = one_engine()
    write_text(paths.engine("digits-int8").layer_figures, layers)
    with pytest.raises(ArtifactError) as caught:
        gather(paths, ["digits-int8"])
    assert str(caught.value) == f"{paths.engine('digits-int8').layer_figures}: {message}"


def test_infinite_and_absent_layer_figures_are_told_apart(one_engine: Writer):
    layers = "index,layer,tensor,op,sqnr_db\n0,a,a0,Relu,inf\n1,b,b0,Relu,-inf\n2,c,c0,Relu,\n3,d,d0,Relu,nan\n"
    engine = gather(one_engine(layers=layers), ["digits-int8"]).engines[0]
    assert [layer.sqnr_db for layer in engine.layers] == [math.inf, -math.inf, None, None]
