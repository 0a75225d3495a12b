"""The options of an engine: each reaches the API of each version that has it, and is refused by those that have not."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path

import numpy as np
import pytest

from qntz.builtin import _tensorrt_timing
from qntz.builtin._tensorrt_options import FLAGS, REFIT
from qntz.builtin.tensorrt_rtx import qntz_backends
from qntz.config import (
    COMPATIBILITIES,
    MEMORY_POOLS,
    TACTIC_SOURCES,
    TILING,
    VERBOSITIES,
    Config,
    DimConfig,
    EngineConfig,
    InputConfig,
    build,
    tensor_specs,
)
from qntz.errors import BackendError, ConfigError
from qntz.progress import Silent
from qntz.records import TensorSpec
from qntz.targets import HAVE, RTX_CAPABILITIES
from tests.engine.engine_graphs import BATCH, WEIGHT, linear
from tests.engine.fake_tensorrt import recorded
from tests.engine.test_tensorrt_api import VERSIONS, Bench, bench  # noqa: F401

SET = {
    "memory_pools": {"tactic_dram": 1 << 30, "tactic_shared_memory": 1 << 16},
    "tiling_level": "moderate",
    "aux_streams": 0,
    "verbosity": "detailed",
    "tf32": True,
    "sparse_weights": True,
    "weight_streaming": True,
    "tactic_sources": ["jit_convolutions"],
}


def of(bench: Bench, **options) -> EngineConfig:  # noqa: F811
    full = bench.backend.name == "tensorrt"
    return EngineConfig(bench.backend.name, compute_capabilities=["sm89"] if full else [], **options)


def test_options_reach_the_builder(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    config = of(bench, **SET)
    assert bench.backend.refusal(config, "fp32") is None
    bench.built(linear(tmp_path), BATCH, config=config)
    trt, seen = bench.trt, bench.trt.seen
    options = seen["config"]
    assert options._set == {"TF32", "SPARSE_WEIGHTS", "WEIGHT_STREAMING"}
    assert seen["pools"] == {"TACTIC_DRAM": 1 << 30, "TACTIC_SHARED_MEMORY": 1 << 16}
    assert options._tiling_optimization_level is trt.TilingOptimizationLevel.MODERATE
    assert options._max_aux_streams == 0
    assert options._profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    assert seen["tactics"] == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)


def test_without_any_only_tf32_is_taken_away(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    bench.built(linear(tmp_path), BATCH, config=of(bench))
    options = bench.trt.seen["config"]
    assert options._set == set()
    assert "pools" not in bench.trt.seen
    assert "_builder_optimization_level" not in options.__dict__
    assert "_hardware_compatibility_level" not in options.__dict__


def test_what_only_tensorrt_has(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    own = {"hardware_compatibility": "ampere_plus", "version_compatible": True, "exclude_lean_runtime": True}
    if bench.backend.name == "tensorrt":
        config = of(bench, **own, refit="identical", strip_plan=True)
        assert bench.backend.refusal(config, "fp32") is None
        bench.built(linear(tmp_path), BATCH, config=config)
        options = bench.trt.seen["config"]
        assert options._set == {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT_IDENTICAL", "STRIP_PLAN"}
        assert options._hardware_compatibility_level is bench.trt.HardwareCompatibilityLevel.AMPERE_PLUS
        return
    for name, value in {**own, "timing_cache": True}.items():
        given = {name: value, "version_compatible": True} if name == "exclude_lean_runtime" else {name: value}
        told = str(bench.backend.refusal(of(bench, **given), "fp32"))
        asked = "version_compatible" if "version_compatible" in given else name
        assert told.startswith(f"engine.{asked}: tensorrt_rtx has no {asked}: tensorrt has this option.")


def test_tactic_sources_of_tensorrt_10(bench: Bench) -> None:  # noqa: F811
    refusal = bench.backend.refusal(of(bench, tactic_sources=["cublas"]), "fp32")
    if bench.trt.__version__.startswith("10."):
        assert refusal is None
    else:
        assert f"{bench.trt.__name__} {bench.trt.__version__} has no tactic source cublas: TensorRT 10 has it" in str(
            refusal
        )


LACKING = [
    ("sparse_weights", True, "sparse_weights", "BuilderFlag", "SPARSE_WEIGHTS"),
    ("weight_streaming", True, "weight_streaming", "BuilderFlag", "WEIGHT_STREAMING"),
    ("version_compatible", True, "version_compatible", "BuilderFlag", "VERSION_COMPATIBLE"),
    ("tf32", True, "tf32", "BuilderFlag", "TF32"),
    ("refit", "identical", "refit: identical", "BuilderFlag", "REFIT_IDENTICAL"),
    ("memory_pools", {"tactic_shared_memory": 1}, "memory_pools: tactic_shared_memory", "MemoryPoolType", "TACTIC_SHARED_MEMORY"),
    ("tiling_level", "fast", "tiling_level: fast", "TilingOptimizationLevel", ""),
    ("tiling_level", "full", "tiling_level: full", "TilingOptimizationLevel", "FULL"),
    ("verbosity", "detailed", "verbosity: detailed", "ProfilingVerbosity", "DETAILED"),
    ("hardware_compatibility", "ampere_plus", "hardware_compatibility: ampere_plus", "HardwareCompatibilityLevel", ""),
    (
        "hardware_compatibility",
        "same_compute_capability",
        "hardware_compatibility: same_compute_capability",
        "HardwareCompatibilityLevel",
        "SAME_COMPUTE_CAPABILITY",
    ),
]  # fmt: skip


@pytest.mark.parametrize("bench", ["tensorrt-10.16.1.11"], indirect=True)
@pytest.mark.parametrize(("option", "value", "told", "kind", "member"), LACKING)
def test_what_an_older_version_lacks_is_refused(
    bench: Bench,  # noqa: F811
    option: str,
    value: object,
    told: str,
    kind: str,
    member: str,
) -> None:
    """The member is taken away, or the enumeration as a whole."""
    assert bench.backend.refusal(of(bench, **{option: value}), "fp32") is None
    if member:
        known = recorded(VERSIONS[0])["classes"][kind]["enum"]
        setattr(bench.trt, kind, enum.IntEnum(kind, {name: known[name] for name in known if name != member}))
    else:
        delattr(bench.trt, kind)
    assert bench.backend.refusal(of(bench), "fp32") is None
    assert str(bench.backend.refusal(of(bench, **{option: value}), "fp32")) == (
        f"engine.{option}: tensorrt 10.16.1.11 has no {told}: other versions have it. Remove it, or install another"
        " tensorrt."
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tables_are_those_of_the_recorded_apis(version: str) -> None:
    enums = {name: set(one["enum"]) for name, one in recorded(version)["classes"].items() if "enum" in one}
    assert {*FLAGS.values(), *REFIT.values()} <= enums["BuilderFlag"]
    plain = {name for name in enums["MemoryPoolType"] if not name.startswith("DLA_")}
    assert {name.upper() for name in MEMORY_POOLS} == plain - {"WORKSPACE"}
    assert {name.upper() for name in TILING} == enums["TilingOptimizationLevel"]
    assert {name.upper() for name in VERBOSITIES} == enums["ProfilingVerbosity"]
    assert {name.upper() for name in COMPATIBILITIES} == enums["HardwareCompatibilityLevel"]
    assert {name.upper() for name in TACTIC_SOURCES} >= enums["TacticSource"]
    gpus = {name.lower() for name in enums.get("ComputeCapability", ()) if name.startswith("SM")}
    assert gpus == (set(RTX_CAPABILITIES) if version.startswith("tensorrt_rtx") else set())
    assert set(HAVE) == {one.name for one in dataclasses.fields(EngineConfig)} - {"backend"}


def test_several_profiles(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    inputs = {"x": InputConfig(shape=["batch", 5])}
    profiles = [{"batch": DimConfig(1, 1, 1)}, {"batch": DimConfig(4, 6, 9)}]
    (spec,) = tensor_specs(inputs, {"batch": DimConfig(1, 4, 9)}, profiles)
    assert (spec.min, spec.opt, spec.max) == ((1, 5), (1, 5), (9, 5))
    plan = bench.built(linear(tmp_path), spec, config=of(bench))
    assert bench.trt.seen["plans"][plan.read_bytes()] == [
        {"x": ((1, 5), (1, 5), (1, 5))},
        {"x": ((4, 5), (6, 5), (9, 5))},
    ]
    runner = bench.backend.load(plan, of(bench))
    for rows, chosen in ((1, []), (5, [1]), (9, [1]), (1, [1, 0])):
        x = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
        np.testing.assert_allclose(runner.run({"x": x})["y"], x @ WEIGHT, rtol=1e-5, atol=1e-6)
        assert bench.trt.seen.get("chosen", []) == chosen
    takes = r"the engine takes \[1, 5\] to \[1, 5\] or \[4, 5\] to \[9, 5\]"
    with pytest.raises(BackendError, match=rf"input 'x' has shape \[2, 5\]: {takes}"):
        runner.run({"x": np.zeros((2, 5), np.float32)})


def test_the_timing_cache_is_kept_and_shared(bench: Bench, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    if bench.backend.name != "tensorrt":
        pytest.skip("tensorrt_rtx has none")
    monkeypatch.setattr(_tensorrt_timing, "FOLDER", tmp_path / "timings")
    config = of(bench, timing_cache=True)
    bench.built(linear(tmp_path), BATCH, config=config)
    (kept,) = (tmp_path / "timings").glob("*.bin")
    assert kept.name == f"tensorrt-{bench.trt.__version__}-NVIDIA-L4-sm89.bin"
    assert json.loads(kept.read_bytes()) == ["y"]
    kept.write_text(json.dumps(["other"]))  # another engine's
    bench.built(linear(tmp_path), BATCH, config=config)
    assert json.loads(kept.read_bytes()) == ["other", "y"]
    kept.write_text(json.dumps(["foreign"]))  # TensorRT refuses it
    bench.built(linear(tmp_path), BATCH, config=config)
    assert json.loads(kept.read_bytes()) == ["y"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_pools": {"workspace": 3}}, "engine.memory_pools: unknown value 'workspace'"),
        ({"memory_pools": {"tactic_dram": 0}}, "engine.memory_pools.tactic_dram: 0 is too small"),
        ({"tactic_sources": ["cudn"]}, "engine.tactic_sources: unknown value 'cudn'. Did you mean 'cudnn'?"),
        ({"tiling_level": "most"}, "engine.tiling_level: unknown value 'most'"),
        ({"refit": "yes"}, "engine.refit: unknown value 'yes'"),
        ({"strip_plan": True}, "engine.strip_plan: a stripped plan cannot run: no weight can be refitted."),
        ({"exclude_lean_runtime": True}, "engine.exclude_lean_runtime: there is no lean runtime to leave out."),
        ({"hardware_compatibility": "all"}, "engine.hardware_compatibility: unknown value 'all'"),
        ({"timing_cache": True}, "engine.timing_cache: tensorrt_rtx has no timing_cache: tensorrt has this option."),
        ({"backend": "onnxruntime", "tf32": True}, "engine.tf32: onnxruntime has no tf32: tensorrt and tensorrt_rtx have"),
        ({"tactic_sources": ["cudnn", "cudnn"]}, "engine.tactic_sources: one stands there twice"),
        ({"compute_capabilities": ["sm89", "sm80", "sm89"]}, "engine.compute_capabilities: one stands there twice"),
        ({"profiles": [{"batch": {"opt": 8}}, {"batch": {"min": 65}}]}, "engine.profiles.1.batch: min 65, opt 8, max 64"),
        ({"profiles": [{"batch": {"max": 8}}]}, "engine.profiles: none takes batch 9. Add one, or narrow model.dims"),
        ({"aux_streams": -1}, "engine.aux_streams: -1 is too small"),
        ({"profiles": [{}]}, "engine.profiles.0: {} is no profile"),
        ({"profiles": [{"batch": [1, 2, 9]}]}, "engine.profiles.0.batch: [1, 2, 9] is no range. Give its sizes, {min: 1"),
        ({"profiles": [{"batch": {"min": 3, "opt": 2, "max": 4}}]}, "engine.profiles.0.batch: min 3, opt 2, max 4 are out"),
        ({"profiles": [{"bach": {"min": 1, "opt": 1, "max": 1}}]}, "engine.profiles.0.bach: no dimension 'bach'. Did you mean 'batch'?"),
        ({"profiles": [{"batch": {"min": 1, "opt": 8, "max": 65}}]}, "engine.profiles.0.batch: 1 to 65 leaves the model's 1 to 64."),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_runs(options: dict, message: str) -> None:
    model = {
        "factory": {"_target_": "a.B"},
        "inputs": {"x": {"shape": ["batch", 3]}},
        "dims": {"batch": {"min": 1, "opt": 8, "max": 64}},
    }
    with pytest.raises(ConfigError) as caught:
        build(Config, {"model": model, "engine": options})
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [{name: value} for name, value in SET.items()], ids=list(SET))
def test_tensorrt_rtx_builds_with_each(options: dict, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    (rtx,) = qntz_backends()
    config = EngineConfig(**options)
    assert rtx.refusal(config, "fp32") is None
    assert len(rtx.build(linear(tmp_path), [BATCH], config, Silent()).plan) > WEIGHT.nbytes


def test_tensorrt_rtx_builds_several_profiles(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    (rtx,) = qntz_backends()
    one, two = ((1, 5), (1, 5), (1, 5)), ((2, 5), (8, 5), (9, 5))
    both = TensorSpec("x", "float32", (1, 5), (1, 5), (9, 5), (one, two))
    plain = rtx.build(linear(tmp_path), [BATCH], EngineConfig(), Silent())
    assert len(rtx.build(linear(tmp_path), [both], EngineConfig(), Silent()).plan) > len(plain.plan)


@pytest.mark.parametrize("options", [{"refit": "all"}, {"refit": "identical", "strip_plan": True}])
def test_what_tensorrt_rtx_builds_only_beside_a_gpu_is_refused_elsewhere(options: dict, tmp_path: Path) -> None:
    from qntz import cuda

    pytest.importorskip("tensorrt_rtx")
    if cuda.no_gpu_reason() is None:
        pytest.skip("there is a GPU")
    (rtx,) = qntz_backends()
    config = EngineConfig(**options)
    assert "only where there is a GPU: " in str(rtx.refusal(config, "fp32"))
    with pytest.raises(BackendError, match="tensorrt_rtx cannot build the graph"):
        rtx.build(linear(tmp_path), [BATCH], config, Silent())


def test_a_timing_cache_that_cannot_be_kept_costs_no_engine(bench: Bench, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    if bench.backend.name != "tensorrt":
        pytest.skip("tensorrt_rtx has none")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(_tensorrt_timing, "FOLDER", tmp_path / "file" / "timings")
    built = bench.backend.build(linear(tmp_path), [BATCH], of(bench, timing_cache=True), Silent())
    assert built.plan
    (warning,) = built.details["warnings"]
    assert warning.startswith("the timing cache is not kept: ")
    assert built.details["timing_cache"] == ""


def test_a_version_compatible_plan_is_loaded_with_its_runtime(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    if bench.backend.name != "tensorrt":
        pytest.skip("tensorrt_rtx has none")
    config = of(bench, version_compatible=True)
    plan = bench.built(linear(tmp_path), BATCH, config=config)
    x = np.ones((2, 5), np.float32)
    np.testing.assert_allclose(bench.backend.load(plan, config).run({"x": x})["y"], x @ WEIGHT, rtol=1e-5)
    with pytest.raises(BackendError, match="the engine cannot be loaded"):
        bench.backend.load(plan, of(bench))


def test_where_an_engine_is_not_run(bench: Bench) -> None:  # noqa: F811
    if bench.backend.name != "tensorrt":
        pytest.skip("tensorrt_rtx has neither")
    assert bench.backend.why_not_run(of(bench)) is None
    stripped = bench.backend.why_not_run(of(bench, refit="all", strip_plan=True))
    assert stripped == "its plan is stripped: it takes a refit before it runs"
    older = EngineConfig("tensorrt", compute_capabilities=["sm80"])
    assert bench.backend.why_not_run(older) == "the engine is for sm80, the GPU here is sm89"
    wide = dataclasses.replace(older, hardware_compatibility="ampere_plus")
    assert bench.backend.why_not_run(wide) is None
