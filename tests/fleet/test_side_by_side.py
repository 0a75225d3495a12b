"""`qntz repro -j`: real stages side by side, by real DVCs, that leave what one after the other leaves."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from tests.pipeline.conftest import Project, stages_run

pytestmark = pytest.mark.slow
STAGES = 2 * 6 + 4 * 3  # of the models and engines


def lock(project: Project, path: str = "dvc.lock") -> dict[str, dict]:
    return yaml.safe_load((project.path / path).read_text())["stages"]


def inside(project: Project) -> list[str]:
    """What runs in a project's folder; a stage that started warm by its command, as far as its name tells it."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "name"]):
        if process.info["cwd"] == str(project.path) and process.status() != psutil.STATUS_ZOMBIE:
            stage, _, entry = process.info["name"].partition("@")
            command = f"python -m stages.{stage} {entry}" if entry else " ".join(process.info["cmdline"] or [])
            found.append(command)
    return found


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qntz.cli", "repro", *arguments],
        cwd=project.path,
        env=project.env(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def emptied(project: Project) -> None:
    """As a fresh clone: nothing is built, nothing is cached."""
    for name in ("build", ".dvc/cache", ".dvc/tmp", "dvc.lock"):
        subprocess.run(["rm", "-rf", str(project.path / name)], check=True)


def test_it_leaves_what_a_serial_run_leaves(built: tuple[Project, str], serial: Project) -> None:
    project, said = built
    assert project.digests() == serial.digests()
    assert len(project.digests()) > 20
    mine, its = lock(project), lock(serial)
    assert list(mine) == list(its)
    for stage, entry in its.items():
        kind = stage.partition("@")[0]
        for key in ("cmd", "params"):
            assert mine[stage].get(key) == entry.get(key), stage
        if kind not in ("engine", "verify", "report"):  # engine.json tells when, and an engine is not bit-stable
            assert mine[stage] == entry, stage
    assert said.splitlines()[-1] == f"{STAGES + 1} ran"


def test_the_stages_are_run_by_this_python(mine: Project) -> None:
    """Also where no environment is activated."""
    mine.edit(
        "params.yaml", "rows-fp32: {model: rows,", "rows-fp32: {model: rows, verify: {tolerance: {agreement: 0.5}},"
    )
    env = {**mine.env(), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "qntz.cli", "repro", "-j", "2"]
    done = subprocess.run(command, cwd=mine.path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify@rows-fp32 ran" in done.stdout


ENDS = """\
import os, sys
class Ends:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os._exit(3)
if any("forkserver" in one for one in sys.orig_argv):
    sys.meta_path.insert(0, Ends())
"""


def test_a_library_that_ends_what_loads_it_beforehand(mine: Project) -> None:
    """Each stage loads it by itself then."""
    (mine.path.parent / "site-packages").mkdir()
    (mine.path.parent / "site-packages/sitecustomize.py").write_text(ENDS)
    mine.edit(
        "params.yaml", "rows-fp32: {model: rows,", "rows-fp32: {model: rows, verify: {tolerance: {agreement: 0.5}},"
    )
    done = mine.run("qntz", "repro", "-j", "2", PYTHONPATH=str(mine.path.parent / "site-packages"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what the stages import cannot be loaded beforehand: each loads it by itself" in done.stderr
    assert "verify@rows-fp32 ran" in done.stdout


def test_nothing_to_do_is_told_without_a_dvc(built: tuple[Project, str]) -> None:
    project, _ = built
    done = project.qntz("repro", "-j", "2")
    assert (done.returncode, done.stdout) == (0, f"Nothing to do: {STAGES} stages are unchanged.\n")
    assert project.repro() == set()  # DVC says the same


def test_what_is_gone_is_restored_and_what_follows_is_let_be(mine: Project) -> None:
    before = mine.digests()
    (mine.path / "build/models/digits/simplified.onnx").unlink()
    (mine.path / "build/models/rows/engines/rows-int8/quantized.onnx").unlink()
    done = mine.qntz("repro", "-j", "2")
    assert done.returncode == 0, done.stderr
    assert mine.digests() == before
    assert done.stdout.startswith("compose ran")
    assert " ran" not in done.stdout.replace("compose ran", "", 1).splitlines()[0]
    assert done.stdout.count(" restored from the cache") == 2
    assert done.stdout.splitlines()[-1].startswith("1 ran, 2 restored, ")


def test_a_model_that_fails_stops_what_depends_on_it_alone(mine: Project) -> None:
    before = mine.digests()
    text = (mine.path / "params.yaml").read_text()
    text = text.replace(
        "models: {", "models: {broken: {use: digits, model: {weights: no.safetensors}}, typo: {use: x}, "
    )
    text += (
        "  broken-int8: {model: broken}\n  lost: {model: nobody}\n  rows-bf16: {model: rows, quantize: {use: bf16}}\n"
    )
    mine.params(text)
    done = mine.qntz("repro", "-j", "2")
    assert done.returncode == 1
    assert (mine.path / "build/models/rows/engines/rows-bf16/model.engine").is_file()
    assert before.items() <= mine.digests().items()
    assert "\ncheck@broken failed: error: check broken: no.safetensors: the weights are missing." in done.stdout
    assert "\ncheck@typo failed: params.yaml: models.typo: no conf/model/x.yaml." in done.stdout
    assert "\nquantize@lost failed: params.yaml: engines.lost.model: unknown model 'nobody'." in done.stdout
    assert "repro: compose: params.yaml: engines.lost.model: unknown model 'nobody'." in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "report@rows ran" in done.stdout
    mine.params(
        (mine.path / "params.yaml")
        .read_text()
        .split("  broken-int8")[0]
        .replace("broken: {use: digits, model: {weights: no.safetensors}}, typo: {use: x}, ", "")
    )
    again = mine.qntz("repro", "-j", "2")
    assert again.returncode == 0, again.stdout


def test_of_a_remote_only_what_its_stages_ask_for_is_fetched(mine: Project) -> None:
    """Not the results of all that anybody ever built, for each job."""
    before, remote = mine.digests(), mine.path.parent / "remote"
    assert mine.dvc("remote", "add", "--default", "shared", str(remote)).returncode == 0
    done = mine.run("python", "-m", "qntz.fleet.results", *(one for one in lock(mine) if one != "compose"), "--")
    assert done.returncode == 0, done.stderr
    runs = {path.relative_to(remote) for path in remote.glob("runs/*/*/*")}
    assert len(runs) == STAGES
    emptied(mine)
    done = mine.qntz("repro", "-j", "2", "--pull", "verify@rows-int8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "1 ran, 8 restored"
    fetched = {path.relative_to(mine.path / ".dvc/cache") for path in mine.path.glob(".dvc/cache/runs/*/*/*")}
    assert len(fetched) == 8
    assert fetched <= runs
    done = mine.qntz("repro", "--pull")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_run(done.stdout) == {"compose"}
    assert mine.digests() == before


def test_the_fleet_page_has_the_figures_of_what_is_up_to_date(mine: Project) -> None:
    """Also where the report of its model is not, by another engine."""
    mine.edit("params.yaml", "digits-int8: {model: digits, quantize: {use: int8}", "digits-int8: {model: digits, quantize: {use: int8, method: max}")  # fmt: skip
    done = mine.qntz("report", "--fleet")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 engines: build/fleet.html, build/fleet.md\n"
    lines = (mine.path / "build/fleet.md").read_text().replace("\xa0", " ").splitlines()
    assert lines[0] == "4 engines: 3 up to date, 1 out of date."
    cells = {one[0].strip("` "): [*map(str.strip, one)] for line in lines[4:] if (one := line.strip("| ").split("|"))}
    engine = mine.path / "build/models/digits/engines/digits-fp16"
    figures = json.loads((engine / "metrics.json").read_text())
    assert cells["digits-fp16"][2:6] == ["up to date", "fp16", "accuracy", f"{figures['accuracy']:.4f}"]
    assert cells["digits-fp16"][8] == f"{(engine / 'model.engine').stat().st_size / 1024:.1f} KB"
    assert cells["digits-int8"][2:10] == ["out of date", *["—"] * 7]
    assert cells["digits-int8"][10].endswith(" min")
    assert "quantize.method mse → max" in cells["digits-int8"][11]


SOAK = pytest.mark.soak


@SOAK
def test_a_signal_is_heard_from_the_first_moment_on(mine: Project) -> None:
    """Also while the libraries are loaded, and before a DVC that was just started has come to its own handlers."""
    emptied(mine)
    for tenth in range(4, 50, 3):
        process = start(mine, "-j", "2")
        time.sleep(tenth / 10)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM), tenth
        assert inside(mine) == [], tenth


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SOAK), pytest.param(signal.SIGHUP, marks=SOAK)]
)
def test_a_signal_ends_all_of_it(mine: Project, number: signal.Signals) -> None:
    before, whole = mine.digests(), [*lock(mine)]
    emptied(mine)
    process = start(mine, "-j", "2")
    deadline = time.monotonic() + 100
    while not any("stages.torchscript" in one for one in inside(mine)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert inside(mine) == []
    assert re.search(r"torchscript@\w+ was stopped", said), said
    assert "stopped" in said.splitlines()[-1]
    assert " failed" not in said
    order = [*lock(mine)]
    assert order == [one for one in whole if one in order]  # as a run that is let be has it
    done = mine.qntz("repro", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert mine.digests() == before


@pytest.mark.soak
def test_a_kill_leaves_nothing_at_work_and_loses_nothing(mine: Project) -> None:
    """At three random moments, one after the other, of the run or of one of its DVCs; then it goes on from there."""
    before = mine.digests()
    emptied(mine)
    chosen = random.Random(os.getpid())
    for attempt in range(3):
        process = start(mine, "-j", "2")
        time.sleep(chosen.uniform(4, 14))
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        victim = chosen.choice([process.pid, *(one.pid for one in below if "forkserver" in " ".join(one.cmdline()))])
        os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=100)
        deadline = time.monotonic() + 15
        while left := inside(mine):
            assert time.monotonic() < deadline, (attempt, left)
            time.sleep(0.1)
    done = mine.qntz("repro", "-j", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert mine.digests() == before


@SOAK
def test_two_runs_at_once_take_turns(mine: Project) -> None:
    before = mine.digests()
    emptied(mine)
    runs = [start(mine, "-j", "2") for _ in range(2)]
    told = [run.communicate(timeout=400)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert sum("waits for the run of process" in text for text in told) == 1
    assert sum(text.splitlines()[-1] == f"Nothing to do: {STAGES} stages are unchanged." for text in told) == 1
    assert mine.digests() == before


@SOAK
def test_little_memory_is_one_after_the_other(mine: Project) -> None:
    mine.edit("params.yaml", "digits: {}, rows: {}", "digits: {export: {opset: 18}}, rows: {export: {opset: 18}}")
    process = start(mine, "-j", "2", "--memory", "0.01")
    most = 0
    while process.poll() is None:
        stages = {one.partition(" -m ")[2] for one in inside(mine) if one.partition(" -m ")[2].startswith("stages.")}
        most = max(most, len({one for one in stages if "compose" not in one}))
        time.sleep(0.05)
    assert process.returncode == 0
    assert most == 1


def test_wrong_usage(mine: Project) -> None:
    for arguments, message in (
        (("-j", "0"), "'0' is no number of jobs"),
        (("-j", "two"), "'two' is no number of jobs"),
        (("-j", "2", "--memory", "none"), "'none' is no amount of memory"),
        (("--memory", "4"), "--memory is for stages side by side"),
        (("-j", "2", "check@nobody"), "no stage 'check@nobody'"),
        (("-j", "2", "--", "--dry"), "--dry is for one `dvc repro` of all stages"),
    ):
        done = mine.qntz("repro", *arguments)
        assert done.returncode == 2, arguments
        assert message in done.stderr, arguments
        assert "Traceback" not in done.stderr


# a pipeline for each model


def test_split_nothing_runs_again(split: Project, built: tuple[Project, str]) -> None:
    done = split.dvc("repro")
    assert done.returncode == 0, done.stderr
    assert stages_run(done.stdout) == {"compose", "fleet"}
    assert split.repro() == set()
    for _ in range(2):
        assert split.qntz("repro").stdout.startswith("Nothing to do: ")
    assert "2 models" in split.qntz("repro").stdout
    assert split.qntz("status").returncode == 0
    rows = (split.path / "build/fleet.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["digits-fp16", "digits-int8", "rows-fp32", "rows-int8"]
    shown = split.dvc("metrics", "show")
    assert shown.stdout.count("metrics.json") == 4
    why = split.qntz("why", "digits-int8")
    assert why.returncode == 0
    assert "All of it is as it was" in why.stdout
    joined = split.qntz("pipelines", "--join")
    assert joined.returncode == 0, joined.stderr
    assert split.repro() == set()
    assert lock(split) == lock(built[0])


def test_split_one_engine_is_one_engine(split: Project) -> None:
    assert split.qntz("repro").returncode == 0
    assert split.qntz("repro").returncode == 0
    split.edit(
        "params.yaml",
        "rows-int8: {model: rows, quantize: {use: int8}",
        "rows-int8: {model: rows, quantize: {use: int8, method: max}",
    )
    told = split.qntz("status")
    assert told.returncode == 3
    assert "quantize@rows-int8 will run:" in told.stdout
    done = split.qntz("repro", "-j", "2")
    assert done.returncode == 0, done.stderr
    assert "quantize@rows-int8 ran, engine@rows-int8 ran, verify@rows-int8 ran" in done.stdout
    assert "digits" not in done.stdout
    assert "1 model has nothing to do" in done.stdout
    alone = split.qntz("repro", "verify@digits-int8")
    assert alone.returncode == 0
    assert split.repro() == set()


def test_split_a_change_by_hand_is_seen(split: Project) -> None:
    """What is known to be settled is no more, once a file of it is another."""
    before = split.digests()
    for _ in range(2):
        assert split.qntz("repro").returncode == 0
        time.sleep(2.1)
    path = split.path / "build/models/rows/simplified.onnx"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + b"x")
    done = split.qntz("repro")
    assert done.returncode == 0, done.stderr
    assert "simplify@rows restored from the cache" in done.stdout
    assert split.digests() == before


def test_split_a_new_model_is_told_to_dvc(split: Project) -> None:
    assert split.qntz("repro").returncode == 0
    split.edit("params.yaml", "rows: {}", "rows: {}, again: {use: rows}")
    split.edit("params.yaml", "engines:\n", "engines:\n  again-fp32: {model: again, engine: {use: onnxruntime}}\n")
    refused = split.dvc("repro")
    assert refused.returncode != 0
    assert (
        "error: compose: pipelines/: did not fit params.yaml, and now do: again. Run `dvc repro` again."
        in refused.stderr
    )
    assert split.repro() >= {
        "pipelines/again/dvc.yaml:check@again",
        "pipelines/again/dvc.yaml:verify@again-fp32",
        "fleet",
    }
    split.edit("params.yaml", ", again: {use: rows}", "")
    split.edit("params.yaml", "  again-fp32: {model: again, engine: {use: onnxruntime}}\n", "")
    done = split.qntz("repro")
    assert done.returncode == 0, done.stderr
    assert "the pipelines of again are written or removed" in done.stderr
    assert not (split.path / "pipelines/again").exists()


def test_split_a_lock_cut_off_by_a_kill_is_mended(split: Project) -> None:
    before = split.digests()
    path = split.path / "pipelines/rows/dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"hash:") + 5])
    status = split.qntz("status")
    assert status.returncode == 1
    assert "`qntz repro` mends it." in status.stderr
    done = split.qntz("repro")
    assert done.returncode == 0, done.stderr
    assert "pipelines/rows/dvc.lock was cut off" in done.stderr
    assert "compose ran" in done.stdout
    assert " ran" not in done.stdout.replace("compose ran", "").replace("fleet ran", "").rpartition("\n1 ran")[0]
    assert done.stdout.count("@rows restored from the cache") == 6
    assert split.digests() == before
