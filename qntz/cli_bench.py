"""`qntz bench ENGINE...`: how fast engines of a model are, beside the eager model, torch.compile and ONNX Runtime."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.columns import aligned
from qntz.errors import ArtifactError, BackendError, ParityError, UsageError, did_you_mean

if TYPE_CHECKING:
    from qntz.artifacts import EnginePaths, ModelPaths
    from qntz.bench import Subject, Timing
    from qntz.bench.measure import Refused
    from qntz.config import EngineConfig, ModelConfig
    from qntz.plugins import Plugins
    from qntz.records import Arrays

FOLDER = Path("build/bench")
KINDS = ("eager", "compile", "torchscript", "onnxruntime", "engine", "trtexec")
DEVICES = ("auto", "cpu", "cuda")


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser("bench", help="how fast engines are, beside the model and other runtimes")
    parser.add_argument("engines", metavar="ENGINE", nargs="+", help="of params.yaml, of one model, after `dvc repro`")
    parser.add_argument("--batch", type=_sizes, default=(), help="sizes, 1,8,32 (default: smallest, usual, largest)")
    parser.add_argument("--size", type=_size, action="append", default=[], help="of another dimension: length=128")
    parser.add_argument("--runtimes", type=_kinds, default=KINDS, help=f"of {','.join(KINDS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each runtime and batch size (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="in which the runtimes take turns (default: 5)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="of PyTorch and ONNX Runtime")
    parser.add_argument("--cuda-graphs", action="store_true", help="run engines as CUDA graphs too")
    parser.add_argument("--json", action="store_true", help="print what build/bench/MODEL.json gets")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, prints the table, and writes the figures and a page with the plot; returns the exit code."""
    from qntz.artifacts import write_json, write_text
    from qntz.bench import measure
    from qntz.bench.inputs import batch_dimension, made, named, sizes_of
    from qntz.bench.record import record
    from qntz.plugins import load
    from qntz.progress import Bar
    from qntz.report.page import render_bench

    for name, value in (("--seconds", options.seconds), ("--rounds", options.rounds)):
        if not 0 < value < math.inf:
            raise UsageError(f"{value} is no measure", where=name, do="Give a number above 0.")
    given = dict(options.size)
    if len(given) < len(options.size):
        raise UsageError("a dimension stands there twice", where="--size", do="Give each one size.")
    root = Path.cwd()
    sys.path.insert(0, str(root))
    plugins = load(root, "verify")
    entries = _entries(root, options.engines)
    model, files = entries[0].model, entries[0].files
    asked = sizes_of(model, options.batch, given)
    samples = _samples(model, root, plugins, max(sizes.get(batch_dimension(model.inputs) or "", 1) for sizes in asked))
    inputs, kinds = {}, set()
    for sizes in asked:
        inputs[named(sizes)], kind = made(model.inputs, sizes, samples)
        kinds.add(kind)
    subjects, absent = _subjects(entries, options, plugins, root)
    if not subjects:
        raise UsageError("nothing of that can run here", why="; ".join(f"{n}: {why}" for n, why in absent))
    with Bar(f"bench {files.model}") as progress:
        timings, refused = measure(subjects, inputs, seconds=options.seconds, rounds=options.rounds, progress=progress)
    not_run = [*absent, *((one.subject, _why(one)) for one in refused)]
    told = record(
        files.model,
        timings,
        not_run,
        inputs=" and ".join(sorted(kinds)),
        seconds=options.seconds,
        rounds=options.rounds,
    )
    where = root / FOLDER / f"{files.model}.json"
    write_json(where, told)
    write_text(where.with_suffix(".html"), render_bench(files.model, timings, told))
    if options.json:
        print(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        _print(timings, told)
    if not timings:
        raise BackendError("nothing could be timed", why="; ".join(f"{name}: {why}" for name, why in not_run))
    broken = [f"{one.subject}, {one.inputs}" for one in timings if one.sqnr_db == -math.inf]
    if broken:
        why = "outputs of other shapes or types, or NaN"
        raise ParityError(f"not what {timings[0].subject} computes: {'; '.join(broken)}", why=why)
    return 0


def _samples(model: ModelConfig, root: Path, plugins: Plugins, most: int) -> list[Arrays]:
    """The first samples of the test data; none where the model has none."""
    from qntz.samples import open_samples

    if model.data.test is None:
        return []
    sources = plugins.records("qntz_data_sources")
    opened = open_samples(model.data.test, sources, model.inputs, model.dims, root, "model.data.test")
    return list(itertools.islice(opened, most))


@dataclass(frozen=True)
class _Entry:
    """An engine as it was built, and its model."""

    name: str
    model: ModelConfig
    engine: EngineConfig
    files: ModelPaths


def _entries(root: Path, names: Sequence[str]) -> list[_Entry]:
    from qntz.artifacts import ModelPaths
    from qntz.compose import composed_entries
    from qntz.config import ModelConfig, build

    result = composed_entries(root)
    found: list[_Entry] = []
    for name in dict.fromkeys(names):
        composed = result.engine(name)
        files = ModelPaths(root, composed["model_name"])
        for path in (files.engine(name).plan, files.engine(name).engine_json, files.engine(name).quantized):
            if not path.is_file():
                raise ArtifactError("is missing", where=str(path), do=f"Run `dvc repro engine@{name}`.")
        model = build(ModelConfig, composed["model"], "model")
        found.append(_Entry(name, model, _current(files.engine(name), composed), files))
    models = {entry.files.model: entry.name for entry in found}
    if len(models) > 1:
        why = ", ".join(f"{engine} is of {model}" for model, engine in models.items())
        raise UsageError("the engines are of several models", why=why, do="Compare the engines of one.")
    return found


def _current(files: EnginePaths, composed: Mapping[str, Any]) -> EngineConfig:
    """What the engine was built with; raises ArtifactError where it is not the one that its record tells of, or that
    params.yaml asks for."""
    from qntz.artifacts import digest_file
    from qntz.config import EngineConfig, build
    from qntz.engine_record import read_engine_record
    from qntz.runtimes import engine_config

    do = f"Run `dvc repro engine@{files.name}`."
    record = read_engine_record(files.engine_json, ("plan_sha256", "precision"), do)
    if record["plan_sha256"] != digest_file(files.plan):
        raise ArtifactError("is not the engine that engine.json describes", where=str(files.plan), do=do)
    asked = build(EngineConfig, composed["engine"], "engine"), composed["quantize"]["precision"]
    config = engine_config(files.engine_json)
    if (config, record["precision"]) != asked:
        raise ArtifactError("was built of other settings than params.yaml has now", where=str(files.plan), do=do)
    return config


def _subjects(
    entries: Sequence[_Entry], options: argparse.Namespace, plugins: Plugins, root: Path
) -> tuple[list[Subject], list[tuple[str, str]]]:
    """What can run here, the eager model first, and what cannot, with the reason."""
    from qntz.bench.subject import BACKEND, CAPTURED, COMPILED, EAGER, GRAPH, Subject

    asked, model, files = options.runtimes, entries[0].model, entries[0].files
    device = _device(options.device) if {"eager", "compile", "torchscript"} & set(asked) else "cpu"
    on = "" if device == "cpu" else f" ({device})"
    loaded = {"factory": model.factory, "weights": model.weights, "saved": model.saved, "trusted": model.trusted}
    torch_s = {"root": root, "order": tuple(model.inputs), "device": device}
    ort_device = _ort_device(options.device)
    found: list[Subject] = []
    absent: list[tuple[str, str]] = []
    if "onnxruntime" in asked and options.device == "cuda" and ort_device == "cpu":
        absent.append(("onnxruntime (cuda)", "its CUDA build, or a GPU, is not here"))
    if "eager" in asked:
        found.append(Subject(f"eager{on}", EAGER, model=loaded, **torch_s))
    if "compile" in asked:
        found.append(Subject(f"torch.compile{on}", COMPILED, model=loaded, **torch_s))
    if "torchscript" in asked and not files.captured.is_dir():
        absent.append((f"captured{on}", "there is no capture; `dvc repro` makes it"))
    elif "torchscript" in asked:
        order = tuple(_captured_order(files))
        found.append(Subject(f"captured{on}", CAPTURED, path=files.captured, **{**torch_s, "order": order}))
    for entry in entries:
        paths = entry.files.engine(entry.name)
        if "onnxruntime" in asked and entry.engine.backend == "onnxruntime" and "engine" not in asked:
            absent.append((f"onnxruntime: {entry.name}", "it is the engine itself: ask for `engine`"))
        elif "onnxruntime" in asked and entry.engine.backend != "onnxruntime":
            name = f"onnxruntime{'' if ort_device == 'cpu' else f' ({ort_device})'}: {entry.name}"
            found.append(Subject(name, GRAPH, root, paths.quantized, device=ort_device))
        if "engine" in asked:
            backend = plugins.records("qntz_backends").get(entry.engine.backend)
            name = f"{entry.engine.backend}: {entry.name}"
            why = "its plugin is gone" if backend is None else backend.why_not_run(entry.engine)
            told = Subject(name, BACKEND, root, paths.plan, backend=entry.engine.backend, engine=entry.engine)
            if why is not None:
                absent.append((name, why))
            else:
                found += [told, *_graph(told, options)]
        if "trtexec" in asked:
            found += _trtexec(entry, options, root, absent)
    return found, absent


def _graph(told: Subject, options: argparse.Namespace) -> Iterator[Subject]:
    import dataclasses

    if options.cuda_graphs and told.backend in ("tensorrt", "tensorrt_rtx"):
        yield dataclasses.replace(told, name=f"CUDA graph, {told.name}", graph=True)


def _trtexec(
    entry: _Entry, options: argparse.Namespace, root: Path, absent: list[tuple[str, str]]
) -> Iterator[Subject]:
    """Beside an engine that runs here; where it does not, its own reason says so."""
    from qntz import cuda
    from qntz.bench.subject import TRTEXEC, Subject
    from qntz.bench.trtexec import COMMANDS, program
    from qntz.engine_record import read_engine_record

    if entry.engine.backend not in COMMANDS:
        if options.runtimes == ("trtexec",):
            absent.append((f"trtexec: {entry.name}", f"it runs no engine of {entry.engine.backend}"))
        return
    graph = "CUDA graph, " if options.cuda_graphs else ""
    name = f"{graph}{COMMANDS[entry.engine.backend]} (program): {entry.name}"
    reason = cuda.no_gpu_reason()
    if reason is not None:
        if options.runtimes == ("trtexec",):  # else the engine's own reason says so
            absent.append((name, reason))
        return
    if program(entry.engine.backend) is None:
        absent.append((name, f"{COMMANDS[entry.engine.backend]} is not on PATH"))
        return
    paths = entry.files.engine(entry.name)
    order = tuple(one["name"] for one in read_engine_record(paths.engine_json, ("inputs",))["inputs"])
    yield Subject(name, TRTEXEC, root, paths.plan, order=order, backend=entry.engine.backend, graph=options.cuda_graphs)


def _device(asked: str) -> str:
    if asked == "cpu":
        return asked
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise UsageError("PyTorch has no GPU here", where="--device", do="Give cpu, or install a CUDA build of torch.")
    return "cpu"


def _ort_device(asked: str) -> str:
    """Where ONNX Runtime's CUDA build is installed, and a GPU is here: "cuda"."""
    import onnxruntime

    from qntz import cuda

    able = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and cuda.no_gpu_reason() is None
    return "cuda" if able and asked != "cpu" else "cpu"


def _captured_order(files: ModelPaths) -> list[str]:
    from qntz.artifacts import CAPTURED_JSON, read_json

    order: list[str] = read_json(files.captured / CAPTURED_JSON)["inputs"]
    return order


def _why(refused: Refused) -> str:
    return f"{refused.inputs}: {refused.why}" if refused.inputs else refused.why


def _print(timings: Sequence[Timing], told: Mapping[str, Any]) -> None:
    """The tables that the page has."""
    from qntz.report.latency import bench_tables

    print(f"{told['model']} on {told['machine']}, {told['cores']} cores, inputs: {told['inputs']}")
    for table in bench_tables(timings):
        rows = [table.columns, *(tuple(cell.text for cell in row) for row in table.rows)]
        print(f"\n{table.caption}")
        print("\n".join(aligned([(*row[1:], row[0]) for row in rows], numbers=len(table.columns) - 1)))
    if told["not_run"]:
        print("\nnot run")
        for one in told["not_run"]:
            print(f"  {one['subject']}: {one['why']}")
    print(f"\n{FOLDER / told['model']}.json, {FOLDER / told['model']}.html")


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of sizes, 1,8,32")
    return tuple(dict.fromkeys(map(int, parts)))


def _size(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, length=128")
    return name, int(size)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is no runtime. {did_you_mean(kind, KINDS)}")
    return kinds
