"""Bad inputs of engine, verify and report: each ends in one clear line and exit code 1, and leaves every file as it was.

The stages run as DVC runs them, over artifacts that are put in place by hand, with the real builder and runtime.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from tests.pipeline.bad_graphs import BYTES, GRAPHS, W, product
from tests.pipeline.conftest import Project, new_project

pytest.importorskip("tensorrt_rtx")
pytestmark = (
    pytest.mark.slow
)  # some 190 stages; the graphs alone are in tests/engine/test_bad_graphs.py, without a stage
SECONDS = 60  # for a stage, which takes half a one: whatever hangs ends the test
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
"""
SAVE = """
import torch
from safetensors.torch import save_file
from mine.net import Net
torch.manual_seed(0)
save_file(Net().state_dict(), "mine/weights.safetensors")
"""
MODEL = """
factory: {_target_: mine.net.Net}
weights: mine/weights.safetensors
inputs: {x: {dtype: float32, shape: [batch, 16]}}
dims: {batch: {min: 1, opt: 8, max: 32}}
"""
BUILDERS = '''
import os, resource, signal, sys
from pathlib import Path

from qntz import hookimpl
from qntz.builtin import tensorrt_rtx


def crowd(mebibytes):
    """Leaves this process so much address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * 2**20,) * 2)


def hungry(*asked):
    crowd(64)
    return bytearray(2**30)


def crowded(*asked):
    (rtx,) = tensorrt_rtx.qntz_backends()
    rtx.version()  # loads the library
    crowd(8)
    return rtx.build(*asked)


class Builder:
    def __init__(self, name, build):
        self.name, self.build = name, build

    def version(self):
        return "1"

    def refusal(self, config, precision):
        return None


@hookimpl
def qntz_backends():
    yield Builder("exits", lambda *asked: os._exit(3))
    yield Builder("leaves", lambda *asked: sys.exit(4))
    yield Builder("terminated", lambda *asked: os.kill(os.getpid(), signal.SIGTERM))
    yield Builder("killed", lambda *asked: os.kill(os.getpid(), signal.SIGKILL))
    yield Builder("aborts", lambda *asked: os.abort())
    yield Builder("hungry", hungry)
    yield Builder("crowded", crowded)
'''
PROFILE = "engines.bad.engine.profiles"
CONFIGURED: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "no such backend": ({"backend": "tensort_rtx"}, ("no backend 'tensort_rtx'", "Did you mean 'tensorrt_rtx'?")),
    "no such option": ({"worksapce_bytes": 1}, ("unknown key 'worksapce_bytes'", "Did you mean 'workspace_bytes'?")),
    "no such GPU": ({"compute_capabilities": ["hopper"]}, ("unknown value 'hopper'", "Known: sm100")),
    "a GPU that RTX lacks": ({"compute_capabilities": ["sm90"]}, ("has no sm90: it knows sm75", "engine.backend")),
    "fp32 on Turing": ({"compute_capabilities": ["sm75"]}, ("sm75 does not run fp32", "Remove sm75")),
    "fp8 on Turing": (
        {"use": "fp8", "compute_capabilities": ["sm75"]},
        ("sm75 has no fp8: it begins with sm89", "choose another"),
    ),
    "int4 on Turing": (
        {"use": "int4", "compute_capabilities": ["sm75"]},
        ("sm75 has no int4: it begins with sm80", "choose another"),
    ),
    "bf16 in ONNX Runtime": ({"use": "bf16", "backend": "onnxruntime"}, ("onnxruntime has no bf16", "Choose fp16")),
    "fp8 in ONNX Runtime": ({"use": "fp8", "backend": "onnxruntime"}, ("not right in fp8", "Choose int8")),
    "TensorRT without a GPU": (
        {"backend": "tensorrt", "compute_capabilities": ["sm89"]},
        ("engine.backend: tensorrt", "nstall"),
    ),
    "a byte of workspace": (
        {"workspace_bytes": 1},
        ("tensorrt_rtx cannot build the graph", "workspace limit", "Change the model or the option"),
    ),
    "no workspace": ({"workspace_bytes": 0}, ("workspace_bytes: 0 is too small", "Give 1 or more")),
    "workspace beyond memory": ({"workspace_bytes": 10**20}, ("is too large", "Give 1099511627776 or less")),
    "no such pool": ({"memory_pools": {"swimming": 1}}, ("unknown value 'swimming'", "Known: tactic_dram")),
    "pool beyond memory": ({"memory_pools": {"tactic_dram": 2**63}}, ("memory_pools.tactic_dram", "is too large")),
    "an empty profile": ({"profiles": [{}]}, (f"{PROFILE}.0: {{}} is no profile", "Give sizes")),
    "a profile of no dimension": (
        {"profiles": [{"width": {"min": 1, "opt": 2, "max": 3}}]},
        (f"{PROFILE}.0.width: no dimension 'width'", "Known: batch"),
    ),
    "min above max": (
        {"profiles": [{"batch": {"min": 9, "opt": 5, "max": 3}}]},
        ("min 9, opt 5, max 3 are out of order", "1 <= min <= opt <= max"),
    ),
    "a profile from 0": ({"profiles": [{"batch": {"min": 0, "opt": 2, "max": 32}}]}, ("min 0", "out of order")),
    "a profile that leaves the model": (
        {"profiles": [{"batch": {"min": 1, "opt": 2, "max": 64}}]},
        ("1 to 64 leaves the model's 1 to 32", "Widen model.dims.batch"),
    ),
    "profiles that leave a gap": (
        {"profiles": [{"batch": {"min": 1, "opt": 2, "max": 4}}, {"batch": {"min": 6, "opt": 8, "max": 32}}]},
        (f"{PROFILE}: none takes batch 5", "Add one"),
    ),
    "profiles in words": ({"profiles": "all"}, (f"{PROFILE}: a list is expected",)),
    "profiles in ONNX Runtime": (
        {"backend": "onnxruntime", "profiles": [{"batch": {"min": 1, "opt": 2, "max": 32}}]},
        ("onnxruntime has no profiles", "Remove it"),
    ),
    "no such level": ({"optimization_level": 9}, ("9 is no level", "Give 0 to 5")),
    "no such verbosity": ({"verbosity": "loud"}, ("unknown value 'loud'", "Known: detailed")),
    "streams below 0": ({"aux_streams": -1}, ("-1 is too small", "Give 0 or more")),
    "streams without end": ({"aux_streams": 2**40}, ("is too large", "or less")),
    "a tactic source of TensorRT 10": ({"tactic_sources": ["cudnn"]}, ("no tactic source cudnn: TensorRT 10 has it",)),
    "hardware compatibility": ({"hardware_compatibility": "ampere_plus"}, ("tensorrt_rtx has no hardware_comp",)),
    "version compatibility": ({"version_compatible": True}, ("has no version_compatible: tensorrt has this option",)),
    "no lean runtime to leave out": ({"exclude_lean_runtime": True}, ("Set version_compatible: true",)),
    "a timing cache": ({"timing_cache": True}, ("tensorrt_rtx has no timing_cache: tensorrt has this option",)),
    "a plan without weights": ({"strip_plan": True}, ("a stripped plan cannot run", "Set refit: all")),
}


@dataclass
class Bench:
    """A project with the engines `rtx` and `ort` of one model, in which a stage is given bad input."""

    project: Project

    @property
    def model(self) -> Path:
        return self.project.path / "build/models/mine"

    def folder(self, name: str) -> Path:
        return self.model / "engines" / name

    def composed(self, name: str) -> Path:
        return self.project.path / "build/config/engines" / f"{name}.yaml"

    def put(self, of: str = "rtx", change: Callable[[dict[str, Any]], Any] = lambda config: None) -> Path:
        """The engine `bad`: one of the two under another name, configured a little differently; its folder."""
        config = yaml.safe_load(self.composed(of).read_text())
        change(config)
        self.composed("bad").write_text(yaml.safe_dump({**config, "name": "bad"}))
        shutil.rmtree(self.folder("bad"), ignore_errors=True)
        shutil.copytree(self.folder(of), self.folder("bad"))
        return self.folder("bad")

    def refused(
        self, stage: str, *words: str, name: str = "bad", limits: Mapping[int, int] | None = None, **extra: str
    ) -> str:
        """The one line that the stage ends with, with these words in it, and nothing else that it leaves."""

        def limit() -> None:
            for kind, value in (limits or {}).items():
                resource.setrlimit(kind, (value, value))

        before = contents(self.project.path / "build")
        done = subprocess.run(
            ["python", "-m", f"stages.{stage}", name],
            cwd=self.project.path,
            env=self.project.env(extra),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            preexec_fn=limit,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: {stage} {name}: ")
        assert "bug in qntz" not in line
        assert [word for word in words if word not in line] == [], line
        assert contents(self.project.path / "build") == before
        return line


def contents(folder: Path) -> dict[str, bytes | None]:
    """The bytes of every file below, and None for every folder."""
    return {str(path): None if path.is_dir() else path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = new_project(tmp_path_factory.mktemp("bad"))
    (project.path / "mine").mkdir()
    (project.path / "mine/net.py").write_text(NET)
    (project.path / "conf/model/mine.yaml").write_text(MODEL)
    assert project.run("python", "-c", SAVE).returncode == 0
    ort = {"model": "mine", "engine": {"backend": "onnxruntime"}}
    project.params(yaml.safe_dump({"models": {"mine": {}}, "engines": {"rtx": {"model": "mine"}, "ort": ort}}))
    project.repro()
    return project


@pytest.fixture
def bench(built: Project) -> Iterator[Bench]:
    """The built project; what a test breaks in it is whole again afterwards."""
    kept, bench = contents(built.path / "build"), Bench(built)
    yield bench
    (built.path / "plugins/builders.py").unlink(missing_ok=True)
    for name in sorted(contents(built.path / "build"), reverse=True):
        path = Path(name)
        if name not in kept or path.is_dir() != (kept[name] is None):
            path.rmdir() if path.is_dir() else path.unlink()
    for name, data in kept.items():
        Path(name).mkdir(exist_ok=True) if data is None else Path(name).write_bytes(data)


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_model(bench: Bench, name: str) -> None:
    data, words = BYTES[name]
    (bench.put() / "quantized.onnx").write_bytes(data)
    bench.refused("engine", "engines/bad/quantized.onnx", *words)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(bench: Bench, name: str) -> None:
    make, words = GRAPHS[name]
    (bench.put() / "quantized.onnx").write_bytes(make().SerializeToString())
    bench.refused("engine", *words)


@pytest.mark.parametrize("name", ["cycle", "unknown operator", "opset too new", "weight cut", "no opset"])
def test_graphs_in_onnxruntime(bench: Bench, name: str) -> None:
    (bench.put("ort") / "quantized.onnx").write_bytes(GRAPHS[name][0]().SerializeToString())
    bench.refused("engine", "quantized.onnx: ONNX Runtime refuses the graph: ", "Change the model")


@pytest.mark.parametrize(
    ("data", "words", "ort"),
    [
        (None, ("is no ONNX model", "quantized.onnx.data"), "External data path does not exist"),
        (lambda whole: whole[:100], ("is no ONNX model", "exceeds available data"), "given file_length: 100"),
        (
            lambda whole: b"of another model" * 3,
            ("is no ONNX model", "exceeds available data"),
            "given file_length: 48",
        ),
    ],
    ids=["missing", "cut", "of another model"],
)
@pytest.mark.parametrize("of", ["rtx", "ort"])
def test_weights_beside_the_graph(
    bench: Bench, of: str, data: Callable[[bytes], bytes] | None, words: tuple[str, ...], ort: str
) -> None:
    path = bench.put(of) / "quantized.onnx"
    beside = path.with_name("quantized.onnx.data")
    beside.unlink()
    onnx.save(product(), str(path), save_as_external_data=True, location=beside.name, size_threshold=0)
    whole = beside.read_bytes()
    beside.unlink()
    if data is not None:
        beside.write_bytes(data(whole))
    bench.refused("engine", "engines/bad/quantized.onnx", *(words if of == "rtx" else (ort,)))


def test_no_graph(bench: Bench) -> None:
    path = bench.put() / "quantized.onnx"
    path.unlink()
    bench.refused("engine", "engines/bad/quantized.onnx: is missing. Run `dvc repro`.")
    path.mkdir()
    bench.refused("engine", "engines/bad/quantized.onnx: cannot be read: Is a directory. Remove")


@pytest.fixture(scope="module")
def configurations(built: Project) -> dict[str, bytes]:
    """What compose makes of each bad configuration, as the engine `bad`."""
    composed, before = {}, (built.path / "params.yaml").read_text()
    entries = {}
    for index, (asked, _) in enumerate(CONFIGURED.values()):
        engine = {key: value for key, value in asked.items() if key != "use"}
        entries[f"e{index}"] = {"model": "mine", "engine": engine, "quantize": {"use": asked.get("use", "fp32")}}
    built.params(yaml.safe_dump({"models": {"mine": {}}, "engines": entries}))
    assert built.run("python", "-m", "stages.compose").returncode == 0  # the error is each entry's own
    for index, name in enumerate(CONFIGURED):
        path = built.path / f"build/config/engines/e{index}.yaml"
        composed[name] = path.read_text().replace(f"engines.e{index}.", "engines.bad.").encode()
    built.params(before)
    assert built.run("python", "-m", "stages.compose").returncode == 0
    return composed


@pytest.mark.parametrize("name", CONFIGURED)
def test_configurations(configurations: dict[str, bytes], bench: Bench, name: str) -> None:
    bench.put()
    bench.composed("bad").write_bytes(configurations[name])
    bench.refused("engine", *CONFIGURED[name][1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{: damaged", ("is damaged",)),
        ("", ("is damaged",)),
        ("inputs: 3", ("is damaged",)),
        ("inputs: {engine: {}}", ("is damaged: it lacks 'model'",)),
    ],
    ids=["no YAML", "empty", "of no sections", "cut"],
)
def test_a_composed_file_that_is_damaged(bench: Bench, text: str, words: tuple[str, ...]) -> None:
    bench.put()
    bench.composed("bad").write_text(text)
    bench.refused("engine", "build/config/engines/bad.yaml", *words, "Run `dvc repro compose`.")


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        ("exits", ("the builder ended: exit code 3. Nothing was kept of it", "report it to exits")),
        ("leaves", ("the builder ended: sys.exit(4)",)),
        ("terminated", ("the builder ended: signal SIGTERM. Nothing was kept of it",)),
        ("killed", ("the builder ended: signal SIGKILL", "It may have run out of memory")),
        ("aborts", ("the builder ended: signal SIGABRT",)),
        ("hungry", ("the builder ended: MemoryError", "It may have run out of memory")),
        ("crowded", ("engines/bad/quantized.onnx",)),
    ],
)
def test_builders_that_end(bench: Bench, builder: str, words: tuple[str, ...]) -> None:
    (bench.project.path / "plugins/builders.py").write_text(BUILDERS)
    bench.put(change=lambda config: config["engine"].update(backend=builder))
    line = bench.refused("engine", *words)
    if builder == "crowded":  # TensorRT's own allocations fail, and it says so or ends
        assert any(word in line for word in ("cannot build", "does not start", "builder ended", "parser refuses"))


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system of its own in the place of the folder, with what is in it."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder), *options], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("not run: mounting needs root")
    try:
        for name, data in kept.items():
            (folder / name).write_bytes(data)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(bench: Bench) -> None:
    folder = bench.put()
    (folder / "model.engine").write_bytes(b"an older engine")
    with mounted(folder, "-o", "size=100k"):
        bench.refused("engine", "model.engine: cannot be written: No space left on device. Free space")


def test_a_disk_that_is_read_only(bench: Bench) -> None:
    folder = bench.put()
    with mounted(folder):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        bench.refused("engine", "model.engine: cannot be written: Read-only file system")
        bench.refused("verify", "metrics.json: cannot be written: Read-only file system")


def test_files_that_may_not_grow(bench: Bench) -> None:
    bench.put()
    bench.refused("engine", "model.engine: cannot be written: File too large", limits={resource.RLIMIT_FSIZE: 100_000})
    bench.refused("engine", "what was made cannot be kept: File too large", limits={resource.RLIMIT_FSIZE: 1})


@pytest.mark.parametrize("name", ["model.engine", "engine.json"])
def test_a_folder_in_the_place_of_an_artifact(bench: Bench, name: str) -> None:
    """Neither of the two is written where one cannot be."""
    folder = bench.put()
    (folder / name).unlink()
    (folder / name).mkdir()
    bench.refused("engine", f"engines/bad/{name}: cannot be written: Is a directory")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in (len(data) // 3, len(data) // 2):
        data[place] ^= 0xFF
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without_runs(path: Path) -> None:
    np.savez(path)


def of_other_names(path: Path) -> None:
    np.savez(path, weights=np.ones(3))


def of_nan(path: Path) -> None:
    broken = onnx.load_from_string(path.read_bytes())
    weight = next(one for one in broken.graph.initializer if len(one.dims) == 2)
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path.write_bytes(broken.SerializeToString())


def of_another_model(path: Path) -> None:
    path.write_bytes(product(W).SerializeToString())


NO_NPZ, AGAIN = "is no .npz archive of plain arrays", "remove it and run `dvc repro`"


@pytest.mark.parametrize(
    ("name", "breaks", "words"),
    [
        ("engines/bad/model.engine", cut, ("ONNX Runtime refuses the graph: Protobuf parsing failed",)),
        ("engines/bad/model.engine", emptied, ("ONNX Runtime refuses the graph: No graph was found",)),
        ("engines/bad/model.engine", removed, ("is missing", "Run `dvc repro`")),
        ("engines/bad/model.engine", folder, ("ONNX Runtime refuses the graph",)),
        ("engines/bad/model.engine", of_nan, ("differs from the eager model: output 'output'",)),
        ("engines/bad/quantized.onnx", cut, ("is no ONNX model", AGAIN)),
        ("engines/bad/quantized.onnx", removed, ("is missing", "Run `dvc repro`")),
        ("simplified.onnx", cut, ("is no ONNX model", AGAIN)),
        ("simplified.onnx", emptied, ("is no ONNX model: it is empty", AGAIN)),
        ("probes.npz", cut, (NO_NPZ, AGAIN)),
        ("probes.npz", flipped, (NO_NPZ, AGAIN)),
        ("probes.npz", removed, ("is missing", "Run `dvc repro`")),
        ("probes.npz", of_other_names, ("does not hold runs of probes: it holds an array 'weights'",)),
        ("golden.npz", cut, (NO_NPZ, AGAIN)),
        ("golden.npz", emptied, (NO_NPZ, AGAIN)),
        ("golden.npz", flipped, (NO_NPZ, AGAIN)),
        ("golden.npz", folder, ("cannot be read: Is a directory",)),
        ("reference.npz", cut, (NO_NPZ, AGAIN)),
    ],
    ids=lambda value: value.__name__ if callable(value) else value if isinstance(value, str) else "",
)
def test_verify(bench: Bench, name: str, breaks: Callable[[Path], None], words: tuple[str, ...]) -> None:
    bench.put("ort")
    breaks(bench.model / name)
    bench.refused("verify", Path(name).name, *words)


def test_an_engine_of_another_model(bench: Bench) -> None:
    of_another_model(bench.put("ort") / "model.engine")
    bench.refused("verify", "no output 'output': it has 'y'", "Run `dvc repro`")


@pytest.mark.parametrize("name", ["probes.npz", "golden.npz"])
def test_probes_without_their_outputs(bench: Bench, name: str) -> None:
    bench.put("ort")
    without_runs(bench.model / name)
    bench.refused("verify", "the probes do not fit the eager model's outputs", "0 ", "8 ", "Run `dvc repro`")


def written(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text.encode("latin-1")) and None


COLUMNS = "index,layer,tensor,op,sqnr_db\n"


@pytest.mark.parametrize(
    ("name", "breaks", "words"),
    [
        ("metrics.json", cut, ("is damaged",)),
        ("metrics.json", emptied, ("is damaged: Expecting value",)),
        ("metrics.json", written("[1, 2]"), ("is no record: it holds a list",)),
        ("metrics.json", written('{"agreement": NaN}'), ("is damaged: NaN is no JSON",)),
        ("metrics.json", written('{"agreement": "high"}'), ("is damaged: agreement is 'high'",)),
        ("engine.json", cut, ("is damaged",)),
        ("engine.json", written("\xff\xfe"), ("is damaged: 'utf-8' codec",)),
        ("engine.json", written('{"bytes": "many"}'), ("is damaged: bytes: 'many' is not of type int",)),
        ("quantize.json", written("null"), ("is no record",)),
        ("layers.csv", cut, ("is damaged: its last line is cut off",)),
        ("layers.csv", emptied, ("lacks a column: index",)),
        ("layers.csv", written("\xff\xfe"), ("is damaged: 'utf-8' codec",)),
        ("layers.csv", written(COLUMNS + "one,a,b,c,9\n"), ("is damaged: 'one' is no index",)),
        ("layers.csv", written(COLUMNS + "1,a,b,c,loud\n"), ("is damaged: 'loud' is no number",)),
    ],
    ids=range(14),
)
def test_report(bench: Bench, name: str, breaks: Callable[[Path], None], words: tuple[str, ...]) -> None:
    breaks(bench.folder("ort") / name)
    bench.refused("report", f"engines/ort/{name}", *words, "Remove it and run `dvc repro`.", name="mine")


@pytest.mark.parametrize("name", ["metrics.json", "engine.json", "layers.csv", "probes.csv"])
def test_report_without_a_record(bench: Bench, name: str) -> None:
    path = bench.folder("ort") / name
    path.unlink()
    bench.refused("report", f"engines/ort/{name}: is missing. Run `dvc repro`.", name="mine")
    path.mkdir()
    bench.refused("report", f"engines/ort/{name}: cannot be read: Is a directory", name="mine")


def test_an_engine_cut_where_it_cannot_be_run(bench: Bench) -> None:
    """Verify judges its graph then; the report finds that the file is another than engine.json's."""
    cut(bench.folder("rtx") / "model.engine")
    bench.refused("report", "engines/rtx/model.engine: is not the engine that engine.json describes", name="mine")
