"""`qntz bench` and the report's own timing, as a user meets them after `dvc repro`."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow
ENGINES = {
    "digits-int8": {"model": "digits", "quantize": {"use": "int8"}},
    "digits-fp32": {"model": "digits", "engine": {"use": "onnxruntime"}},
    "digits-ort8": {"model": "digits", "quantize": {"use": "int8"}, "engine": {"use": "onnxruntime"}},
}


def params(gates: dict[str, object], seconds: float = 0.2) -> str:
    report = {"latency_seconds": seconds, "gates": gates}
    return yaml.safe_dump({"models": {"digits": {"report": report}}, "engines": ENGINES})


@pytest.fixture(scope="module")
def three(small: Project):
    """digits for ONNX Runtime, which runs here, and for TensorRT-RTX, which takes a GPU."""
    before = (small.path / "params.yaml").read_text()
    small.params(params({}))
    small.repro("report@digits")
    yield small
    small.params(before)
    small.repro()


def test_engines_are_timed_beside_other_runtimes(three: Project) -> None:
    command = ("qntz", "bench", "digits-fp32", "digits-int8", "--seconds", "0.1", "--rounds", "2", "--batch", "4,1")
    done = three.run(*command, "--runtimes", "eager,torchscript,onnxruntime,engine", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads((three.path / "build/bench/digits.json").read_text())
    names = ["eager", "captured", "onnxruntime: digits-fp32", "onnxruntime: digits-int8"]
    assert [(row["inputs"], row["subject"]) for row in told["timings"] if "tensorrt_rtx" not in row["subject"]] == [
        (f"batch {batch}", name) for batch in (4, 1) for name in names
    ]
    by_name = {row["subject"]: row for row in told["timings"] if row["batch"] == 4}
    assert by_name["onnxruntime: digits-int8"]["sqnr_db"] > 30
    assert by_name["onnxruntime: digits-fp32"]["sqnr_db"] > 100
    for row in told["timings"]:
        assert 0 < row["median_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["runs"] >= 6
        assert row["over"] == "eager"
    assert told["inputs"] == "test data"
    page = (three.path / "build/bench/digits.html").read_text()
    assert "Throughput" in page
    assert "onnxruntime: digits-int8" in page
    shown = three.run(*command, "--runtimes", "onnxruntime,engine").stdout.splitlines()
    assert "Latency, batch 4" in shown
    assert shown[-1] == "build/bench/digits.json, build/bench/digits.html"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("digits-int9",), 1, "params.yaml: no engine 'digits-int9'. Did you mean 'digits-int8'?"),
        (("digits-int8", "--batch", "65"), 2, "--batch: batch 65: the model takes 1 to 64."),
        (("digits-int8", "--batch", "0"), 2, "'0' is no list of sizes, 1,8,32"),
        (("digits-int8", "--size", "height=9"), 2, "--size: no dimension 'height'."),
        (("digits-int8", "--runtimes", "eager,ort"), 2, "'ort' is no runtime."),
        (("digits-int8", "--seconds", "0"), 2, "--seconds: 0.0 is no measure."),
        (("digits-int8", "--seconds", "inf"), 2, "--seconds: inf is no measure."),
        (("digits-int8", "--runtimes", "trtexec"), 2, "tensorrt_rtx (program): digits-int8: no CUDA GPU"),
        (("digits-int8", "--device", "cuda"), 2, "--device: PyTorch has no GPU here."),
        (
            ("digits-int8", "--runtimes", "engine"),
            2,
            "nothing of that can run here: tensorrt_rtx: digits-int8: no CUDA GPU",
        ),
    ],
)
def test_what_cannot_be_timed(three: Project, arguments: tuple[str, ...], code: int, text: str) -> None:
    if "no CUDA" in text or "no GPU" in text:
        from qntz import cuda

        if cuda.no_gpu_reason() is None:
            pytest.skip("a GPU is here")
    done = three.run("qntz", "bench", *arguments)
    assert done.returncode == code
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_another_is_not_timed(three: Project) -> None:
    folder = three.path / "build/models/digits/engines"
    plan = folder / "digits-fp32/model.engine"
    kept = plan.read_bytes()
    plan.unlink()
    plan.write_bytes((folder / "digits-ort8/model.engine").read_bytes())
    try:
        done = three.run("qntz", "bench", "digits-fp32")
    finally:
        plan.unlink()
        plan.write_bytes(kept)
    assert done.returncode == 1
    assert "is not the engine that engine.json describes. Run `dvc repro engine@digits-fp32`." in done.stderr
    three.params(params({}).replace("use: onnxruntime", "use: tensorrt_rtx", 1))
    done = three.run("qntz", "bench", "digits-fp32")
    three.params(params({}))
    assert done.returncode == 1
    assert "was built of other settings than params.yaml has now. Run `dvc repro engine@digits-fp32`." in done.stderr


def test_an_engine_that_is_not_built(three: Project) -> None:
    plan = three.path / "build/models/digits/engines/digits-fp32/model.engine"
    kept = plan.read_bytes()
    plan.unlink()
    try:
        done = three.run("qntz", "bench", "digits-fp32")
    finally:
        plan.write_bytes(kept)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("model.engine: is missing. Run `dvc repro engine@digits-fp32`.")


def test_the_report_times_what_runs_here_and_gates_it(three: Project) -> None:
    page = (three.path / "build/reports/digits.html").read_text()
    section = page[page.index("<h2>Latency</h2>") :]
    section = section[: section.index("</section>")]
    assert "digits-ort8" in section
    assert "no CUDA GPU on this machine" in section or "digits-int8" in section
    loose = {"digits-ort8": {"baseline": "digits-fp32", "latency_ratio": 10000}}
    strict = {"digits-ort8": {"baseline": "digits-fp32", "latency_ratio": 0.0001}}
    three.params(params(loose))
    assert three.repro("report@digits") == {"report@digits"}
    three.params(params(strict))
    done = three.dvc("repro", "report@digits")
    assert done.returncode != 0
    assert "report.gates: 1 of 1 gates do not hold: digits-ort8: latency over digits-fp32 " in done.stderr
    three.params(params({}))
    three.params(params(strict, seconds=0))
    done = three.dvc("repro", "report@digits")
    assert done.returncode != 0
    assert "report.gates.digits-ort8.latency_ratio: no engine is timed. Give latency_seconds: 1" in done.stderr
    three.params(params({}))
