"""A real `dvc repro` of one engine: what is there afterwards, what runs again, how it fails."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from qntz.repro.mend import mend
from tests.pipeline.conftest import Project, new_project, stages_run


def test_the_engine_is_there_and_says_what_it_is(small: Project) -> None:
    folder = small.path / "build/models/digits/engines/digits-int8"
    plan = (folder / "model.engine").read_bytes()
    record = json.loads((folder / "engine.json").read_text())
    assert record["bytes"] == len(plan) > 100_000
    assert (record["backend"], record["precision"]) == ("tensorrt_rtx", "int8")
    (image,) = record["inputs"]
    assert (image["name"], image["dtype"]) == ("image", "float32")
    assert (image["min"], image["opt"], image["max"]) == ([1, 1, 8, 8], [8, 1, 8, 8], [64, 1, 8, 8])
    graph = hashlib.sha256((folder / "quantized.onnx").read_bytes()).hexdigest()
    assert record["made_from"]["quantized.onnx"] == graph
    files = ("examples/digits/weights.safetensors", "examples/digits/data/train.npz")
    digests = {path: hashlib.sha256((small.path / path).read_bytes()).hexdigest() for path in files}
    assert record["made_from"]["files"] == digests
    assert record["made_from"]["tools"]["tensorrt-rtx-cu13"] == record["version"]


def test_the_accuracy_is_that_of_the_graph(small: Project) -> None:
    """metrics.json against a loop over the test data that shares no code with the pipeline."""
    folder = small.path / "build/models/digits/engines/digits-int8"
    metrics = json.loads((folder / "metrics.json").read_text())
    with np.load(small.path / "examples/digits/data/test.npz") as data:
        images, targets = data["image"], data["target"]
    session = onnxruntime.InferenceSession(str(folder / "quantized.onnx"), providers=["CPUExecutionProvider"])
    right = sum(
        int(session.run(None, {"image": i[None]})[0].argmax() == t) for i, t in zip(images, targets, strict=True)
    )
    assert metrics["accuracy"] == pytest.approx(right / len(targets), abs=0.5 / len(targets))
    assert metrics["accuracy_eager"] >= 0.98
    assert metrics["accuracy"] >= metrics["accuracy_eager"] - 0.005
    assert metrics["engine_run"].startswith(("yes", "no: "))


def test_the_second_run_executes_compose_alone(small: Project) -> None:
    done = small.dvc("repro")
    assert done.returncode == 0
    assert stages_run(done.stdout) == {"compose"}


def test_compose_records_the_same_in_every_checkout(small: Project, empty_project: Project) -> None:
    """Else each clone would change dvc.lock, although nothing is another."""
    empty_project.params((small.path / "params.yaml").read_text())
    (empty_project.path / "build/config").mkdir(parents=True)
    (empty_project.path / "build/config/watched.json").write_text("{}")  # of an earlier version
    assert empty_project.repro("compose") == set()
    here, there = (yaml.safe_load((one.path / "dvc.lock").read_text())["stages"] for one in (small, empty_project))
    assert here["compose"] == there["compose"]


def test_metrics_and_plots_are_one_table_and_one_chart(small: Project) -> None:
    shown = small.dvc("metrics", "show", "--json")
    (metrics,) = json.loads(shown.stdout)[""]["data"].values()
    assert metrics["data"]["accuracy"] >= 0.98
    with (small.path / "build/reports/digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["engine"] for row in rows} == {"digits-int8"}
    plots = small.dvc("plots", "show", "--json")
    assert plots.returncode == 0, plots.stderr
    ((plot,),) = json.loads(plots.stdout)["data"].values()
    drawn = plot["content"]
    assert drawn["title"]["text"] == "digits: SQNR after each layer"
    line = drawn["layer"][0]["encoding"]
    assert drawn["encoding"]["x"]["title"] == "layer, in the order of the graph"
    assert line["y"]["title"] == "SQNR, dB"
    assert (drawn["encoding"]["color"]["field"], line["strokeDash"]["field"]) == ("engine", "rev")
    shown = [{name: value[name] for name in rows[0]} for value in drawn["data"]["values"]]
    assert shown == rows
    assert {row["state"] for row in rows} <= {"measured", "exact"}


def test_deleted_artifacts_come_back_without_running_anything(small: Project) -> None:
    plan = small.path / "build/models/digits/engines/digits-int8/model.engine"
    before = plan.read_bytes()
    plan.unlink()
    assert small.repro() == set()
    assert plan.read_bytes() == before


@pytest.mark.slow
def test_a_dvc_lock_cut_off_by_a_kill_is_mended_and_nothing_runs_again(small: Project) -> None:
    lock = small.path / "dvc.lock"
    whole = lock.read_bytes()
    digests = small.digests()
    refused = 0
    for cut in (1, len(whole) // 3, whole.index(b"hash:") + 5, whole.rindex(b"hash:") + 7, whole.rindex(b"md5:") + 4):
        lock.write_bytes(whole[:cut])
        refused += small.dvc("status", "compose").returncode != 0
        done = small.qntz("repro")
        assert done.returncode == 0, done.stderr
        assert stages_run(done.stdout) == {"compose"}
        assert small.digests() == digests
    assert refused >= 2  # DVC alone would not have gone on
    lock.write_bytes(whole)
    assert mend(small.path) == []
    assert lock.read_bytes() == whole


@pytest.mark.slow
def test_a_list_of_locks_cut_off_by_a_kill_is_mended(small: Project) -> None:
    running = small.path / ".dvc/tmp/rwlock"
    whole = running.read_text()
    assert mend(small.path) == []
    assert running.read_text() == whole
    for damaged in ("", '{"read": {', "[]"):
        running.write_text(damaged)
        assert small.dvc("repro").returncode != 0  # DVC alone would not go on
        done = small.qntz("repro")
        assert ".dvc/tmp/rwlock was damaged, and is removed" in done.stderr
        assert (done.returncode, stages_run(done.stdout)) == (0, {"compose"})


@pytest.mark.slow
def test_one_bad_entry_leaves_the_good_ones(empty_project: Project) -> None:
    empty_project.params(
        "models: {digits: {}, broken: {use: digits, model: {weights: nowhere.safetensors}}, typo: {use: digts}}\n"
        "engines:\n"
        "  good: {model: digits, engine: {use: onnxruntime}}\n"
        "  bad: {model: broken, engine: {use: onnxruntime}}\n"
        "  orphan: {model: nobody}\n"
        "  unsure: {model: digits, quantize: int8}\n"
    )
    done = empty_project.dvc("repro", "--keep-going")
    assert done.returncode != 0
    assert (empty_project.path / "build/models/digits/engines/good/model.engine").stat().st_size > 0
    assert (empty_project.path / "build/models/digits/engines/good/metrics.json").is_file()
    assert not list((empty_project.path / "build/models/broken").rglob("*.*"))
    for line in (
        "error: compose: params.yaml: models.typo: no conf/model/digts.yaml. Did you mean 'digits'?",
        "error: check typo: params.yaml: models.typo: no conf/model/digts.yaml. Did you mean 'digits'?",
        "error: compose: params.yaml: engines.orphan.model: unknown model 'nobody'.",
        "Write quantize: {use: int8}.",
        "nowhere.safetensors: the weights are missing.",
    ):
        assert line in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("models: {digits: {}}\nengines: {}\n", "params.yaml: `engines` is empty"),
        ("models:\n  digits: {}\n  digits: {}\nengines: {e: {model: digits}}\n", "digits"),
    ],
)
def test_params_that_cannot_be_read(empty_project: Project, params: str, message: str) -> None:
    """An empty section is said by compose; a key that stands twice by DVC's own parser, before any stage."""
    empty_project.params(params)
    done = empty_project.dvc("repro")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_one_mistake_is_one_line(empty_project: Project) -> None:
    """compose tells it once, not again for each engine of the model; an engine's own stages name the model."""
    empty_project.params(
        "models: {digits: {export: {opsett: 17}}}\n"
        "engines: {e: {model: digits}, f: {model: digits, quantize: {use: fp16}}}\n"
    )
    wrong = "params.yaml: models.digits.export.opsett: unknown key 'opsett'. Did you mean 'opset'?"
    assert empty_project.run("python", "-m", "stages.compose").stderr == f"error: compose: {wrong}\n"
    assert empty_project.run("python", "-m", "stages.quantize", "e").stderr == (
        f"error: quantize e: params.yaml: engines.e: its model 'digits' cannot be composed: {wrong}\n"
    )


def test_a_failed_stage_writes_nothing_and_loses_nothing(small: Project) -> None:
    """Its own artifacts are as before; a stage by itself, as `dvc repro` would start it, with a tolerance of nothing."""
    params = small.path / "params.yaml"
    kept, before = params.read_text(), small.digests()
    try:
        small.params(
            "models: {digits: {}}\nengines: {digits-int8: {model: digits, quantize: "
            "{use: int8, method: tiny, tolerance: {metric_drop: 0}}}}\n"
        )
        (small.path / "plugins/tiny.py").write_text(
            "from qntz import hookimpl\nfrom qntz.records import ThresholdMethod\n\n@hookimpl\ndef qntz_threshold_methods():\n"
            "    yield ThresholdMethod(name='tiny', threshold=lambda histogram: histogram.amax / 1000)\n"
        )
        assert small.run("python", "-m", "stages.compose").returncode == 0
        done = small.run("python", "-m", "stages.quantize", "digits-int8")
        assert done.returncode == 1
        assert done.stderr.startswith("error: quantize digits-int8: quantized.onnx: is too far from the eager model")
        assert done.stderr.count("\n") == 1
        assert small.digests() == before
    finally:
        params.write_text(kept)
        (small.path / "plugins/tiny.py").unlink()
        assert small.run("python", "-m", "stages.compose").returncode == 0


def test_wrong_usage_is_exit_code_2(small: Project) -> None:
    done = small.run("python", "-m", "stages.export")
    assert done.returncode == 2
    assert done.stderr == "error: export : one name is wanted, 0 given. python -m stages.export NAME [--debug]\n"
    done = small.run("python", "-m", "stages.export", "nobody")
    assert done.returncode == 1
    assert "params.yaml: no entry 'nobody'" in done.stderr


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """build/ of another project on a file system of 1 MiB."""
    project = new_project(tmp_path / "full")
    build = project.path / "build"
    build.mkdir()
    mounted = project.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(build))
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        done = project.run("python", "-m", "stages.compose")
        project.run("dd", "if=/dev/zero", f"of={build}/fill", "bs=1k")
        assert done.returncode == 0
        done = project.run("python", "-m", "stages.check", "digits")
        assert done.returncode == 1
        assert "cannot be written: No space left on device. Free space" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        project.run("umount", str(build))


def test_inputs_are_bound_by_name_in_whatever_order_they_are_listed(empty_project: Project) -> None:
    """x is [n, 3] and gain [n]: with the two swapped, cutting gain to two columns fails."""
    (empty_project.path / "mine").mkdir()
    (empty_project.path / "mine/net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x, gain):\n"
        "        return x[:, :2] * gain.reshape(-1, 1)\n"
    )
    (empty_project.path / "conf/model/net.yaml").write_text(
        "factory: {_target_: mine.net.Net}\n"
        "inputs:\n  gain: {dtype: float32, shape: [batch]}\n  x: {dtype: float32, shape: [batch, 3]}\n"
        "dims:\n  batch: {min: 1, opt: 2, max: 4}\n"
    )
    empty_project.params("models: {net: {}}\nengines: {net: {model: net}}\n")
    assert "check@net" in empty_project.repro("export@net")
