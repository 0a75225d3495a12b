"""The backend tensorrt_rtx, with the real builder: it needs no GPU."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz import cuda
from qntz.builtin._tensorrt_guard import BESIDE
from qntz.builtin._tensorrt_watch import uncollected
from qntz.builtin.tensorrt_rtx import qntz_backends
from qntz.config import EngineConfig
from qntz.errors import ArtifactError, BackendError
from qntz.progress import Silent
from qntz.records import Backend, Built, TensorSpec
from tests.engine.engine_graphs import BATCH, FIXED, WEIGHT, control_flow, info, linear, saved

pytest.importorskip("tensorrt_rtx")
PORTABLE = EngineConfig()


@pytest.fixture
def rtx() -> Backend:
    (backend,) = qntz_backends()
    return backend


class Watched:
    """A progress that keeps what it is told, and answers by `answer`."""

    def __init__(self, answer=lambda phase: True) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.answer = answer

    def step(self, phase: str, done: int, total: int) -> bool:
        self.steps.append((phase, done, total))
        return self.answer(phase)


def refused(rtx: Backend, path: Path, *specs: TensorSpec, config: EngineConfig = PORTABLE) -> str:
    with pytest.raises(BackendError) as caught:
        rtx.build(path, specs, config, Silent())
    text = str(caught.value)
    assert "\n" not in text
    assert "cudaError" not in text
    return text


def test_a_dynamic_batch_builds_and_its_ranges_are_told(rtx: Backend, tmp_path: Path) -> None:
    built: Built = rtx.build(linear(tmp_path), [BATCH], PORTABLE, Silent())
    assert len(built.plan) > WEIGHT.nbytes
    assert built.inputs == (BATCH,)
    assert built.outputs == (TensorSpec("y", "float32", (-1, 3), (-1, 3), (-1, 3)),)
    assert built.details == {
        "layers": 2,
        "network_layers_by_precision": {"fp32": 1},
        "dynamic": True,
        "warnings": [],
    }
    assert built.version == rtx.version()
    assert built.version[0].isdigit()
    assert built.target == "portable (tensorrt_rtx's default)"


def test_a_fixed_shape_needs_no_profile(rtx: Backend, tmp_path: Path) -> None:
    built = rtx.build(linear(tmp_path, batch=2), [FIXED], PORTABLE, Silent())
    assert built.details["dynamic"] is False
    assert built.outputs[0].min == (2, 3)


def test_an_input_that_the_graph_lost_is_left_out(rtx: Backend, tmp_path: Path) -> None:
    unused = TensorSpec("unused", "float32", (1,), (1,), (1,))
    assert rtx.build(linear(tmp_path, batch=2), [unused, FIXED], PORTABLE, Silent()).inputs == (FIXED,)


def test_if_and_loop_survive_the_build(rtx: Backend, tmp_path: Path) -> None:
    built = rtx.build(control_flow(tmp_path), [FIXED], PORTABLE, Silent())
    assert built.outputs == (TensorSpec("y", "float32", (2, 5), (2, 5), (2, 5)),)
    assert built.details["layers"] > 4


def test_two_capabilities_workspace_and_level(rtx: Backend, tmp_path: Path) -> None:
    config = EngineConfig(compute_capabilities=["sm89", "sm120"], workspace_bytes=1 << 28, optimization_level=2)
    assert rtx.refusal(config, "fp32") is None
    built = rtx.build(linear(tmp_path), [BATCH], config, Silent())
    assert built.target == "sm89, sm120"
    one = rtx.build(linear(tmp_path), [BATCH], EngineConfig(compute_capabilities=["sm89"]), Silent())
    assert built.plan != one.plan


def test_fp16_builds_for_turing_where_fp32_is_refused_in_the_builders_words(rtx: Backend, tmp_path: Path) -> None:
    turing = EngineConfig(compute_capabilities=["sm75"])
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    half = saved(tmp_path / "half.onnx", nodes, [info("x", (2, 5))], [info("y", (2, 3))], w=WEIGHT.astype(np.float16))
    assert rtx.build(half, [FIXED], turing, Silent()).target == "sm75"
    text = refused(rtx, linear(tmp_path), BATCH, config=turing)
    assert "tensorrt_rtx cannot build the graph" in text
    assert "Cannot compile operation 'product' for Turing (SM75): FP32 GEMM is not supported" in text
    assert "codeGenerator.cpp" not in text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_turing_is_refused_before_the_build(rtx: Backend, precision: str) -> None:
    turing = EngineConfig(compute_capabilities=["sm89", "sm75"])
    assert str(rtx.refusal(turing, precision)) == (
        f"engine.compute_capabilities: sm75 does not run {precision}: tensorrt_rtx refuses bf16 and matrix products in"
        " fp32 on Turing. Remove sm75, or set quantize.precision to fp16 or int8."
    )
    assert rtx.refusal(turing, "fp16") is None
    assert rtx.refusal(turing, "int8") is None


@pytest.mark.parametrize("capability", ["sm90", "sm100"])
def test_datacentre_capabilities_are_refused(rtx: Backend, capability: str) -> None:
    text = str(rtx.refusal(EngineConfig(compute_capabilities=[capability]), "fp16"))
    assert f"tensorrt_rtx has no {capability}: it knows sm75, sm80, sm86, sm89, sm120, sm121" in text
    assert "set engine.backend: tensorrt" in text


def test_every_unsupported_operator_is_counted_and_the_first_named(rtx: Backend, tmp_path: Path) -> None:
    names = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node(f"Odd{i}", [names[i]], [names[i + 1]], name=f"odd_{i}", domain="acme") for i in range(4)]
    text = refused(rtx, saved(tmp_path / "odd.onnx", nodes, [info("x", (2, 5))], [info("y", (2, 5))]), FIXED)
    assert "odd.onnx: the parser refuses 4 nodes" in text
    assert "node 0 odd_0 (Odd0): no such operator, and no plugin of that name; node 1 odd_1 (Odd1)" in text
    assert "odd_2 (Odd2)" in text
    assert "odd_3" not in text
    assert "; and 1 more." in text


def test_a_bad_profile_is_refused_without_a_word_of_the_driver(rtx: Backend, tmp_path: Path) -> None:
    text = refused(rtx, linear(tmp_path), TensorSpec("x", "float32", (4, 5), (2, 5), (9, 5)))
    assert "the shape ranges are refused (x [4, 5] [2, 5] [9, 5])" in text
    assert "MIN<=OPT<=MAX" in text


REFUSED_AGAIN_AND_AGAIN = """
import gc, pathlib, sys
from qntz.builtin.tensorrt_rtx import qntz_backends
from qntz.config import EngineConfig
from qntz.errors import BackendError
from qntz.progress import Silent
from qntz.records import TensorSpec

(rtx,) = qntz_backends()
gc.set_threshold(20)
for _ in range(20):
    try:
        rtx.build(pathlib.Path(sys.argv[1]), [TensorSpec("x", "float32", (4, 5), (2, 5), (9, 5))], EngineConfig(), Silent())
    except BackendError as error:
        print(error.what)
"""


def test_a_builder_that_nobody_holds_any_more_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    """It stays behind in the frames of what was raised, until Python collects them: in a call of TensorRT's logger,
    which holds the lock that the end of a builder takes, it would hang."""
    linear(tmp_path)
    command = [sys.executable, "-c", REFUSED_AGAIN_AND_AGAIN, str(tmp_path / "linear.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines() == ["the shape ranges are refused (x [4, 5] [2, 5] [9, 5])"] * 20


def test_garbage_is_collected_again_once_the_last_has_built() -> None:
    """Blocks that overlap, as in two threads: the one that ends first does not let it be collected under the other."""
    first, second = uncollected(), uncollected()
    assert gc.isenabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (TensorSpec("x", "float32", (1, 6), (2, 6), (3, 6)), "input 'x' is [-1, 5] in the graph: model.inputs and"),
        (TensorSpec("x", "float32", (1,), (2,), (3,)), "model.dims give [1]"),
        (TensorSpec("x", "float16", (1, 5), (2, 5), (3, 5)), "is float32 in the graph: model.inputs says float16"),
        (TensorSpec("z", "float32", (1, 5), (2, 5), (3, 5)), "input 'x' has no specification: model.inputs has z"),
    ],
)
def test_a_specification_that_does_not_fit_is_refused(rtx: Backend, tmp_path: Path, spec: TensorSpec, why: str) -> None:
    assert why in refused(rtx, linear(tmp_path), spec)


def test_an_input_used_as_a_shape_is_refused(rtx: Backend, tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    inputs = [info("x", (2, 6)), info("s", (2,), TensorProto.INT64)]
    path = saved(tmp_path / "reshape.onnx", [node], inputs, [info("y", ("a", "b"))])
    specs = [TensorSpec("x", "float32", (2, 6), (2, 6), (2, 6)), TensorSpec("s", "int64", (2,), (2,), (2,))]
    assert "input 's' is used as a shape" in refused(rtx, path, *specs)


def test_nan_weights_are_refused(rtx: Backend, tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[1, 2] = weight[4, 0] = np.nan
    assert "weight 'w' holds NaN: 2 of 15 elements. Repair" in refused(rtx, linear(tmp_path, weight), BATCH)


def test_large_weights_are_looked_at_beside_the_builder(rtx: Backend, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(2048, 2049)).astype(np.float32)
    assert weight.nbytes > BESIDE
    spec = TensorSpec("x", "float32", (2, 2048), (2, 2048), (2, 2048))
    steps = Watched()
    built = rtx.build(linear(tmp_path, weight, batch=2), [spec], PORTABLE, steps)
    assert len(built.plan) > weight.nbytes
    assert steps.steps
    weight[-1, -1] = np.nan
    path, text = linear(tmp_path, weight, batch=2), "weight 'w' holds NaN: 1 of 4196352 elements. Repair"
    assert text in refused(rtx, path, spec)
    # it is told before what the builder says of the rest
    wrong = TensorSpec("x", "float32", (2, 7), (2, 7), (2, 7))
    assert text in refused(rtx, path, wrong)
    weight[-1, -1] = 0
    assert "model.dims give [2, 7]" in refused(rtx, linear(tmp_path, weight, batch=2), wrong)


def test_nan_in_a_constant_of_a_subgraph_is_refused(rtx: Backend, tmp_path: Path) -> None:
    broken = numpy_helper.from_array(np.array([np.nan], dtype=np.float32))
    inner = [helper.make_node("Constant", [], ["c"], value=broken), helper.make_node("Add", ["x", "c"], ["t"])]
    branches = {
        "then_branch": helper.make_graph(inner, "then", [], [info("t", (2, 5))]),
        "else_branch": helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [info("e", (2, 5))]),
    }
    node = helper.make_node("If", ["yes"], ["y"], **branches)
    path = saved(tmp_path / "if.onnx", [node], [info("x", (2, 5))], [info("y", (2, 5))], yes=np.array(True))
    assert "weight 'c' holds NaN: 1 of 1 elements" in refused(rtx, path, FIXED)


def test_infinity_is_refused_in_a_weight_and_kept_in_a_mask(rtx: Backend, tmp_path: Path) -> None:
    weight = WEIGHT.copy()
    weight[0, 0] = -np.inf
    assert "weight 'w' holds infinity: 1 of 15 elements" in refused(rtx, linear(tmp_path, weight), BATCH)
    mask = np.zeros((2, 5), dtype=np.float32)
    mask[0, 3] = -np.inf
    nodes = [helper.make_node("Add", ["x", "mask"], ["s"]), helper.make_node("Softmax", ["s"], ["y"])]
    path = saved(tmp_path / "mask.onnx", nodes, [info("x", (2, 5))], [info("y", (2, 5))], mask=mask)
    assert rtx.build(path, [FIXED], PORTABLE, Silent()).plan


def test_an_empty_graph_is_refused(rtx: Backend, tmp_path: Path) -> None:
    path = saved(tmp_path / "empty.onnx", [], [info("x", (2, 5))], [info("x", (2, 5))])
    assert "empty.onnx: the graph is empty: it has no nodes." in refused(rtx, path, FIXED)


@pytest.mark.parametrize(("kind", "kinds"), [("input 'x'", (11, 1)), ("output 'y'", (1, 11))])
def test_float64_is_refused(rtx: Backend, tmp_path: Path, kind: str, kinds: tuple[int, int]) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=kinds[1])
    path = saved(tmp_path / "double.onnx", [node], [info("x", (2, 5), kinds[0])], [info("y", (2, 5), kinds[1])])
    text = refused(rtx, path, FIXED)
    assert f"{kind} is float64: TensorRT has no float64 and would take it for float32. Cast it" in text


def test_a_missing_or_damaged_file_is_an_artifact_error(rtx: Backend, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx: is missing"):
        rtx.build(tmp_path / "none.onnx", [FIXED], PORTABLE, Silent())
    (tmp_path / "text.onnx").write_text("this is no protobuf")
    with pytest.raises(ArtifactError, match=r"text\.onnx: is no ONNX"):
        rtx.build(tmp_path / "text.onnx", [FIXED], PORTABLE, Silent())


def test_every_phase_is_reported_to_its_end(rtx: Backend, tmp_path: Path) -> None:
    watched = Watched()
    rtx.build(linear(tmp_path), [BATCH], PORTABLE, watched)
    phases = [phase for phase, _, _ in watched.steps]
    last = {phase: (done, total) for phase, done, total in watched.steps}
    assert len(last) > 3
    assert all(done == total > 0 for done, total in last.values())
    outer = phases[0]
    assert phases[-1] == outer  # the others lie inside it


def test_a_progress_that_says_no_stops_the_build(rtx: Backend, tmp_path: Path) -> None:
    whole, stopped = Watched(), Watched(lambda phase: False)
    rtx.build(linear(tmp_path), [BATCH], PORTABLE, whole)
    with pytest.raises(BackendError, match="the build was stopped: its progress asked for it"):
        rtx.build(linear(tmp_path), [BATCH], PORTABLE, stopped)
    assert len(stopped.steps) == 1 < len(whole.steps)


def test_an_error_of_the_progress_comes_through(rtx: Backend, tmp_path: Path) -> None:
    def fail(phase: str) -> bool:
        raise ZeroDivisionError(phase)

    with pytest.raises(ZeroDivisionError, match="Building"):
        rtx.build(linear(tmp_path), [BATCH], PORTABLE, Watched(fail))


def test_an_interruption_is_not_swallowed(rtx: Backend, tmp_path: Path) -> None:
    def interrupt(phase: str) -> bool:
        if len(watched.steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # until the main thread has got it
        return True

    watched = Watched(interrupt)
    with pytest.raises(KeyboardInterrupt):
        rtx.build(linear(tmp_path), [BATCH], PORTABLE, watched)
    assert len(watched.steps) < 5  # a whole build has dozens


def test_a_handler_that_ends_the_program_is_not_swallowed_either(rtx: Backend, tmp_path: Path) -> None:
    def terminate(phase: str) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    kept = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
    watched = Watched(terminate)
    try:
        with pytest.raises(SystemExit, match="3"):
            rtx.build(linear(tmp_path), [BATCH], PORTABLE, watched)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert len(watched.steps) == 1


def test_interruptions_are_heard_while_the_main_thread_is_in_c() -> None:
    """The first stops, the second ends the process: neither waits for Python's own handlers."""
    code = """
import hashlib
from qntz.builtin._tensorrt_watch import interruptible
with interruptible(lambda: print("stopped", flush=True)):
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a step of TensorRT", b"", 100_000_000)  # half a minute, without Python's lock
print("went on", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in ("begun", "stopped"):
        assert process.stdout.readline().strip() == line
        time.sleep(0.5)  # until it is in C
        process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT
    assert process.stdout.read() == ""


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt"])
def test_an_engine_on_the_gpu_gives_the_graphs_numbers(tmp_path: Path, name: str) -> None:
    (backend,) = importlib.import_module(f"qntz.builtin.{name}").qntz_backends()
    reason = backend.why_not_run(PORTABLE)
    if reason is not None:
        pytest.skip(reason)
    plan = tmp_path / "model.engine"
    plan.write_bytes(backend.build(linear(tmp_path), [BATCH], PORTABLE, Silent()).plan)
    runner = backend.load(plan, PORTABLE)
    for rows in (3, 1, 9):
        x = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
        # 1e-2: TensorRT may multiply in TF32, which has 10 bits of mantissa
        np.testing.assert_allclose(runner.run({"x": x})["y"], x @ WEIGHT, rtol=1e-2, atol=1e-2)


def test_without_a_gpu_the_engine_is_built_but_not_run(rtx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    assert rtx.refusal(PORTABLE, "fp32") is None
    assert rtx.why_not_run(PORTABLE) == "no CUDA GPU on this machine"


@pytest.mark.parametrize(
    ("here", "asked", "why"),
    [
        ("sm90", [], "tensorrt_rtx has no sm90, which the GPU here is"),
        ("sm86", ["sm89", "sm120"], "the engine is for sm89, sm120, the GPU here is sm86"),
        ("sm75", [], "tensorrt_rtx's default is for Ampere and later, the GPU here is sm75"),
        ("sm75", ["sm75"], None),
        ("sm86", [], None),
        ("sm89", ["sm89"], None),
    ],
)
def test_the_gpu_here_may_be_another(
    rtx: Backend, monkeypatch: pytest.MonkeyPatch, here: str, asked: list[str], why: str | None
) -> None:
    monkeypatch.setattr(cuda, "no_gpu_reason", lambda: None)
    monkeypatch.setattr(cuda, "capability", lambda: here)
    monkeypatch.setattr(cuda, "no_device_memory_reason", lambda: None)
    assert rtx.why_not_run(EngineConfig(compute_capabilities=asked)) == why


def test_what_the_parser_refuses_is_rewritten_by_a_pass(root: Path) -> None:
    import torch

    from qntz import plugins
    from qntz.export import export
    from qntz.graph_passes import apply_passes
    from qntz.selftest import Calls
    from qntz.torchscript import capture

    model = Calls(lambda x: torch.det(x + 2 * torch.eye(3)), 1)
    captured = capture(model, (torch.ones(2, 3, 3),), [(torch.ones(5, 3, 3),)])
    data = export(captured, passes=()).data
    assert not parses(data)
    (small,) = [p for p in plugins.load(root).provided("qntz_graph_passes", phase="simplify") if "det" in p.record.name]
    model, _ = apply_passes(onnx.load_from_string(data), [small], ["small-determinant"], [], probes=captured.probes)
    assert parses(model.SerializeToString())


@pytest.mark.parametrize("name", ["inv", "cholesky", "eigh", "svd", "qr", "matrix_exp"])
def test_matrix_functions_build_with_their_loops(rtx: Backend, tmp_path: Path, name: str) -> None:
    from qntz.builtin._linalg_operators import OPERATORS
    from qntz.export import export
    from qntz.selftest import Calls
    from qntz.torchscript import capture

    rng = np.random.default_rng(0)
    given = [{"x": rng.standard_normal((count, 4, 6), np.float32)} for count in (2, 3)]
    captured = capture(Calls(OPERATORS[f"linalg_{name}"][1], 1), given[0], given[1:], method="trace")
    model = onnx.load_from_string(export(captured, tmp_path / "one.onnx", opset=17).data)
    assert "Loop" in {node.op_type for node in model.graph.node}
    spec = TensorSpec("x", "float32", (1, 4, 6), (2, 4, 6), (8, 4, 6))
    built = rtx.build(tmp_path / "one.onnx", [spec], PORTABLE, Silent())
    assert len(built.plan) > 10_000


def test_a_graph_with_its_weights_beside_it_builds(rtx: Backend, tmp_path: Path, monkeypatch) -> None:
    from qntz import packed as packing
    from qntz.artifacts import write_model
    from qntz.packed import packed

    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64), np.float32) for name in ("w", "v")}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("MatMul", ["p", "v"], ["y"])]
    path = saved(tmp_path / "one.onnx", nodes, [info("x", ("n", 64))], [info("y", ("n", 64))], **weights)
    model, spec = onnx.load(path), TensorSpec("x", "float32", (1, 64), (2, 64), (4, 64))
    one = rtx.build(path, [spec], PORTABLE, Silent())
    monkeypatch.setattr(packing, "LARGEST", 20_000)
    monkeypatch.setattr(packing, "GRAPH", 8_000)
    write_model(tmp_path / "two.onnx", packed(model, "two.onnx"))
    assert (tmp_path / "two.onnx").stat().st_size < 4_000
    two = rtx.build(tmp_path / "two.onnx", [spec], PORTABLE, Silent())
    assert two.outputs == one.outputs
    assert len(two.plan) > 2 * 4 * 64 * 64  # the weights are in it
    assert abs(len(two.plan) - len(one.plan)) < 2_000


def parses(data: bytes) -> bool:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return trt.OnnxParser(network, logger).parse(data)


@pytest.mark.parametrize(
    ("precision", "capabilities", "message"),
    [
        ("fp8", ["sm86", "sm89"], "engine.compute_capabilities: sm86 has no fp8: it begins with sm89. Leave it out"),
        ("fp8", ["sm75", "sm80", "sm120"], "sm75, sm80 have no fp8: it begins with sm89. Leave them out"),
        (
            "fp8",
            [],
            "fp8 takes compute capabilities by name: tensorrt_rtx's default is for Ampere too, which has no fp8",
        ),
        ("int4", ["sm75"], "sm75 has no int4: it begins with sm80"),
        ("fp8", ["sm89", "sm120"], ""),
        ("int4", ["sm80"], ""),
        ("int4", [], ""),
    ],
)
def test_formats_that_a_gpu_has_not_are_refused(rtx: Backend, precision, capabilities, message) -> None:
    refusal = rtx.refusal(EngineConfig(compute_capabilities=capabilities), precision)
    assert (message in str(refusal)) if message else refusal is None


def test_what_is_refused_of_fp8_and_int4_is_what_the_builder_refuses(rtx: Backend, tmp_path: Path) -> None:
    """The real builder, one capability at a time."""
    weight = np.random.default_rng(0).normal(0, 1, (64, 8)).astype(np.float32)
    scale = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "d", axis=0, block_size=64)
    fours = helper.make_tensor("q", TensorProto.INT4, [64, 8], bytes(256), raw=True)
    scales = numpy_helper.from_array(np.ones((1, 8), np.float32), "s")
    int4 = ([scale, helper.make_node("MatMul", ["x", "w"], ["y"], "m")], [fours, scales], 21)
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], bytes(1), raw=True)
    step = numpy_helper.from_array(np.float32(0.02), "t")
    pairs = [
        helper.make_node(op, [source, "t", "z"], [result], result)
        for op, source, result in (
            ("QuantizeLinear", "x", "xq"),
            ("DequantizeLinear", "xq", "xd"),
            ("QuantizeLinear", "v", "vq"),
            ("DequantizeLinear", "vq", "vd"),
        )
    ]
    constants = [zero, step, numpy_helper.from_array(weight, "v")]
    fp8 = ([*pairs, helper.make_node("MatMul", ["xd", "vd"], ["y"], "m")], constants, 19)
    spec = TensorSpec("x", "float32", (4, 64), (4, 64), (4, 64))
    for precision, (nodes, held, opset) in (("int4", int4), ("fp8", fp8)):
        graph = helper.make_graph(nodes, "g", [info("x", [4, 64])], [info("y", [4, 8])], held)
        path = tmp_path / f"{precision}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
        for capability in ("sm75", "sm80", "sm86", "sm89", "sm120"):
            config = EngineConfig(compute_capabilities=[capability])
            if rtx.refusal(config, precision) is None:
                assert rtx.build(path, [spec], config, Silent()).plan
            else:
                assert "HW-specific datatypes" in refused(rtx, path, spec, config=config)


def test_a_refusal_of_the_parser_says_nothing_of_the_driver(rtx: Backend, tmp_path: Path) -> None:
    """As TensorRT-RTX does where an API call fails without a driver."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    path = saved(tmp_path / "odd.onnx", [node], [info("x", (2, 5))], [info("y", (2, 3))], w=np.ones((7, 3), np.float32))
    told = refused(rtx, path, FIXED)
    assert "product: last dimension of input0 = 5 and second to last dimension of input1 = 7 but must match" in told
    assert "Cuda" not in told
    assert "checkMacros" not in told
