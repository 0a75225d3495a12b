"""The dataclasses refuse what cannot be used, and a stage is granted no more than its key holds."""

from __future__ import annotations

import pytest
import yaml

from qntz.config import READS, STAGES, CheckConfig, Config, ModelConfig, build, granted, tensor_specs
from qntz.errors import ConfigError

MODEL = {
    "factory": {"_target_": "package.Net"},
    "inputs": {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8]}},
    "dims": {"batch": {"min": 1, "opt": 8, "max": 64}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dims": {"batch": {"min": 9, "opt": 8, "max": 64}}},
            "model.dims.batch: min 9, opt 8, max 64 are out of order",
        ),
        (
            {"dims": {"bach": {"min": 1, "opt": 8, "max": 64}}},
            "model.inputs.image.shape: dimension 'batch' has no sizes",
        ),
        ({"inputs": {}}, "model.inputs: the model has no inputs"),
        (
            {"inputs": {"ids": {"dtype": "int64", "shape": [2]}}},
            "model.inputs.ids.range: an input of int64 needs a range",
        ),
        ({"inputs": {"x": {"dtype": "float23", "shape": [2]}}}, "Did you mean 'float32'?"),
        ({"inputs": {"x": {"shape": [0]}}}, "model.inputs.x.shape: 0 is no dimension"),
        ({"factory": None}, "a model comes from exactly one of factory, torchscript and program"),
        ({"torchscript": "net.ts"}, "a model comes from exactly one of factory, torchscript and program"),
        ({"program": "net.pt2"}, "a model comes from exactly one of factory, torchscript and program"),
        ({"factory": {"width": 3}}, "model.factory: no class is named"),
        ({"metric": "accuracy"}, "model.metric: metric 'accuracy' has no data to be measured on"),
        ({"data": {"test": {"file": "x.npz"}}}, "model.data.test: no data source is named"),
        *(
            (
                {"data": {"calibrate": {"source": "npz", "count": count}}},
                f"model.data.calibrate.count: {count!r} is no count",
            )
            for count in (0, -1, 2.5, "2", True)
        ),
        ({"wieghts": "x"}, "model: unknown key 'wieghts'. Did you mean 'weights'?"),
        ({"weights": 3}, "model.weights: 3 is not of type str"),
        ({"probes": {"count": True}}, "model.probes.count: True is not of type int"),
    ],
)
def test_a_bad_model_is_refused_with_its_key(change: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Config, {"model": {**MODEL, **change}})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("quantize", {"precision": "int9"}, "quantize.precision: unknown value 'int9'. Did you mean 'int8'?"),
        ("quantize", {"layers": {"head": {"method": 3}}}, "quantize.layers.head.method: 3 is no name"),
        ("quantize", {"layers": {"head": {"options": 3}}}, "quantize.layers.head.options: 3 is no mapping"),
        ("quantize", {"layers": {"head": {"scale": 3}}}, "quantize.layers.head: unknown value 'scale'"),
        ("quantize", {"block": 32}, "quantize.block: 32 inputs share no scale in TensorRT. Give 64 or 128."),
        ("export", {"opset": 12}, "export.opset: opset 12 is out of reach"),
        ("engine", {"compute_capabilities": ["sm88"]}, "engine.compute_capabilities: unknown value 'sm88'"),
        ("engine", {"optimization_level": 6}, "engine.optimization_level: 6 is no level"),
        ("check", {"severity": {"float64": "fatal"}}, "check.severity.float64: unknown value 'fatal'"),
        ("torchscript", {"method": "guess"}, "torchscript.method: unknown value 'guess'"),
        ("verify", {"tolerance": {"agreement": 2}}, "verify.tolerance.agreement: 2.0 is no fraction"),
        ("calibrate", {"batch_size": 0}, "calibrate.batch_size: 0 is too small"),
    ],
)
def test_a_bad_section_is_refused_with_its_key(section: str, value: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Config, {"model": MODEL, section: value})
    assert message in str(error.value)


def test_shape_ranges_follow_the_dimensions() -> None:
    model = build(
        ModelConfig, {**MODEL, "inputs": {**MODEL["inputs"], "mask": {"dtype": "bool", "shape": ["batch", 3]}}}
    )
    image, mask = tensor_specs(model.inputs, model.dims)
    assert (image.name, image.min, image.opt, image.max) == ("image", (1, 1, 8, 8), (8, 1, 8, 8), (64, 1, 8, 8))
    assert (mask.dtype, mask.max) == ("bool", (64, 3))


def test_a_stage_sees_what_it_reads_and_nothing_else() -> None:
    composed = {"model": {**MODEL, "weights": "w"}, "export": {"opset": 18}, "quantize": {}}
    view = granted("export", composed)
    assert view.export.opset == 18
    assert view.model.inputs["image"].shape == ["batch", 1, 8, 8]
    with pytest.raises(AttributeError):
        view.model.weights  # noqa: B018
    with pytest.raises(AttributeError):
        view.quantize  # noqa: B018


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_depends_on_what_the_stage_reads(root, stage: str) -> None:
    """dvc.yaml names the same keys as READS, and the stage's own digests."""
    declared = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage]["do"]["params"]
    (keys,) = declared[0].values()
    assert keys == [*READS[stage], f"inputs.{stage}"]


def test_a_bare_off_that_yaml_1_1_takes_for_false_is_off() -> None:
    assert CheckConfig(severity={"float64": "False"}).severity == {"float64": "off"}
