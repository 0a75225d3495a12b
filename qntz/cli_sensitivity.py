"""`qntz sensitivity ENGINE`: what each quantized layer of an engine costs, where it stands in the source, and with
`--budget` which of them to leave in floating point."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.columns import aligned
from qntz.errors import ArtifactError, ConfigError, QuantizeError, UsageError

if TYPE_CHECKING:
    from qntz.quantize.auto import Judge
    from qntz.quantize.prepared import Prepared
    from qntz.quantize.sensitivity import Cost

FOLDER = Path("build/sensitivity")
BAR = 24


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser("sensitivity", help="what each quantized layer of an engine costs")
    parser.add_argument("engine", metavar="ENGINE", help="an engine of params.yaml, after `dvc repro quantize@ENGINE`")
    parser.add_argument(
        "--budget",
        help="what quantization may cost, of the metric, 0.5%%, or in SQNR, 35dB: writes what to exclude",
    )
    parser.add_argument("--samples", type=int, default=0, help="of the test data to measure on (default: all)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, prints the table, and writes the list that the budget asks for; returns the exit code."""
    from qntz.quantize.sensitivity import Budget, costs, fewest_excluded

    budget = None if options.budget is None else Budget.of(options.budget)
    if options.samples < 0:
        raise UsageError(f"{options.samples} is no number of samples", where="--samples", do="Give 1 or more.")
    root = Path.cwd()
    sys.path.insert(0, str(root))
    from qntz.progress import Bar

    config, composed, files = _engine(root, options.engine)
    ready = _Ready(root, config, files, options.samples)
    journal = _Journal(root / FOLDER / f"{options.engine}.json", _key(composed, files, options.samples))
    with Bar(f"sensitivity {options.engine}") as progress:
        prepared = ready.prepared()
        known = journal.known
        found = costs(prepared, ready.judge, ready.come_from, known=known, save=journal.save, progress=progress)
        excluded: list[str] = []
        figures: dict[str, float] = {}
        if budget is not None:
            excluded, _ = fewest_excluded(prepared, ready.judge, found, budget, progress)
            left = [cost.node for cost in found if cost.node not in excluded]
            while not budget.holds(figures := ready.figures(excluded), ready.judge):
                if not left:
                    why = f"with no layer quantized it is {_told(figures)}"
                    _print(found, ready.judge, root)
                    half = config.quantize.elsewhere != "fp32"
                    do = "Allow more, or set quantize.elsewhere: fp32." if half else "Allow more."
                    raise QuantizeError(f"{options.budget} cannot be kept", where="--budget", why=why, do=do)
                excluded.append(left.pop(0))  # as it will be configured, other channels may be rescaled
    _print(found, ready.judge, root)
    if budget is not None:
        exclude = [*config.quantize.exclude, *map(glob.escape, excluded)]
        _write(options.engine, root, exclude, len(excluded), figures, options.budget)
    return 0


def _engine(root: Path, name: str) -> tuple[Any, Mapping[str, Any], Any]:
    """The engine's configuration, its composed file, and the paths of its artifacts."""
    from qntz.artifacts import ModelPaths
    from qntz.compose import composed_entries
    from qntz.config import granted
    from qntz.quantize.formats import FORMATS

    composed = composed_entries(root).engine(name)
    config = granted("quantize", composed)
    if config.quantize.precision not in FORMATS:
        what = f"it is {config.quantize.precision}, of which no layer is quantized"
        raise UsageError(what, where=name, do=f"Name an engine of {', '.join(FORMATS)}.")
    files = ModelPaths(root, composed["model_name"])
    for path in (files.simplified, files.histograms, files.sources, files.probes):
        if not path.is_file():
            raise ArtifactError("is missing", where=str(path), do=f"Run `dvc repro quantize@{name}`.")
    return config, composed, files


class _Ready:
    """What is measured with: a judge over the test data, and the graph as the configuration has it.

    Attributes:
        judge: over the test data. come_from: the origin of nodes by name.
    """

    def __init__(self, root: Path, config: Any, files: Any, limit: int) -> None:
        from qntz import testdata
        from qntz.artifacts import read_json, read_npz, read_runs
        from qntz.figures import named_metric
        from qntz.histograms import histograms_from
        from qntz.origins import origins
        from qntz.packed import read_model
        from qntz.plugins import load
        from qntz.quantize.auto import Judge
        from qntz.quantize.prepared import chooses

        plugins = load(root, "quantize")
        model = config.model
        self._metric = named_metric(model.metric, plugins.records("qntz_metrics"))
        samples = testdata.read(model, plugins.records("qntz_data_sources"), root)
        if not samples:
            raise ConfigError("no test data", where="model.data.test", do="Name a source: layers are measured on it.")
        self.judge = Judge(files.simplified, testdata.batched(model, samples[: limit or None]), self._metric)
        self._held_out = testdata.batched(model, read_runs(files.held_out)) if chooses(config.quantize) else []
        self._sources = read_json(files.sources)
        self.come_from = origins(read_model(files.simplified), self._sources)
        self._config, self._path = config.quantize, files.simplified
        self._histograms = histograms_from(read_npz(files.histograms), str(files.histograms))
        self._methods = plugins.records("qntz_threshold_methods")
        self._passes = plugins.provided("qntz_graph_passes", phase="quantize")
        self._probes = read_runs(files.probes)

    def prepared(self) -> Prepared:
        """The graph of which any layers can be quantized."""
        from qntz.packed import read_model
        from qntz.quantize.auto import Judge
        from qntz.quantize.prepared import chooses, prepare

        config = self._config
        chooser = Judge(self._path, self._held_out, self._metric) if chooses(config) else None
        given = (self._histograms, config, self._methods, self._probes, chooser, self.come_from)
        return prepare(read_model(self._path), self._path, *given)

    def figures(self, exclude: Sequence[str]) -> dict[str, float]:
        """What the engine's graph reaches, whole as the pipeline makes it, with further nodes left out."""
        from qntz.quantize import quantize, runnable

        done = quantize(
            self._path,
            self._histograms,
            None,
            dataclasses.replace(self._config, exclude=[*self._config.exclude, *map(glob.escape, exclude)]),
            methods=self._methods,
            passes=self._passes,
            probes=self._probes,
            held_out=self._held_out,
            metric=self._metric,
            sources=self._sources,
        )
        return self.judge.figures(runnable(done.file))


def _key(composed: Mapping[str, Any], files: Any, samples: int) -> str:
    """Of all that the figures depend on."""
    from qntz.artifacts import digest_file

    told = [composed["quantize"], composed["model"], composed["inputs"]["quantize"], samples]
    told += [digest_file(path) for path in (files.simplified, files.histograms)]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


class _Journal:
    """The figures measured so far, in a file: an interrupted run goes on from there."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.known: dict[str, dict[str, float]] = {}
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(held, dict) and held.get("key") == key:
            self.known = held["layers"]

    def save(self, node: str, figures: Mapping[str, float]) -> None:
        from qntz.artifacts import write_text

        self.known[node] = dict(figures)
        write_text(self._path, json.dumps({"key": self._key, "layers": self.known}) + "\n")


def _print(found: Sequence[Cost], judge: Judge, root: Path) -> None:
    """A line for each layer, the costliest first, with a bar; what may be long stands last, so that nothing wraps."""
    from qntz.statements import shown

    total = sum(cost.noise for cost in found) or 1.0
    rows = []
    for cost in found:
        share = cost.noise / total
        bar = "█" * max(round(share * BAR), 1 if share > 0.005 else 0)
        row = [f"{cost.sqnr_db:.1f} dB" if math.isfinite(cost.sqnr_db) else "exact" if cost.sqnr_db > 0 else "broken"]
        if cost.score is not None and judge.unquantized is not None:
            row.append(f"{cost.score - judge.unquantized:+.4f}")
        source = shown(cost.origin.statement, root) if cost.origin.statement else ""
        rows.append([*row, f"{bar:{BAR}} {share:4.0%}", cost.node, cost.origin.module, source])
    head = [
        "SQNR",
        *([] if judge.metric is None else [judge.metric.name]),
        "share of the noise",
        "layer",
        "module",
        "source",
    ]
    print("each layer quantized alone:" if rows else "nothing is quantized")
    for line in aligned([head, *rows], numbers=len(head) - 4) if rows else ():
        print(line)


def _told(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.6g}" for key, value in figures.items())


def _write(
    name: str, root: Path, excluded: Sequence[str], added: int, figures: Mapping[str, float], budget: str
) -> None:
    import yaml

    from qntz.artifacts import write_text

    path = root / FOLDER / f"{name}.yaml"
    write_text(path, yaml.safe_dump({"exclude": list(excluded)}, sort_keys=False, width=10**6, allow_unicode=True))
    print(f"within {budget} with {added} layers left out: {_told(figures)}")
    print(f"{path.relative_to(root)}, for params.yaml, engines.{name}.quantize:")
    print(f"  exclude: {json.dumps(list(excluded), ensure_ascii=False)}")
