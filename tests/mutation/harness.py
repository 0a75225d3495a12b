"""Applies mutations to a project and tells which stages they rerun: by compose and dvc.yaml, or by a real `dvc repro`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from qntz.compose import compose
from qntz.fingerprint import TRUSTED_AGE_NS
from tests.mutation.mutations import SAVED_BYTES, Mutation, all_mutations, with_overrides
from tests.pipeline.conftest import Project, new_project, stages_run

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Outcome:
    mutation: Mutation
    ran: frozenset[str]

    @property
    def missed(self) -> frozenset[str]:
        return self.mutation.expected - self.ran

    @property
    def needless(self) -> frozenset[str]:
        return self.ran - self.mutation.expected


def new_subject(path: Path) -> Path:
    """A copy of the project to be mutated."""
    root = new_project(path).path
    for name in ("one.saved", "other.saved"):
        (root / "examples" / name).write_bytes(SAVED_BYTES)
    time.sleep(2 * TRUSTED_AGE_NS / 1e9)  # younger files are not remembered
    return root


def dependencies(project: Path) -> dict[str, Any]:
    """What dvc.yaml makes each stage depend on, but for artifacts: its command, and the values of its params."""
    document = yaml.load((project / "dvc.yaml").read_text(), Loader=_Loader)
    params = yaml.load((project / "params.yaml").read_text(), Loader=_Loader)
    composed = {
        file: yaml.load(file.read_text(), Loader=_Loader) for file in (project / "build/config").rglob("*.yaml")
    }
    found = {}
    for stage, told in document["stages"].items():
        if "foreach" not in told:
            continue
        kind = told["foreach"].strip("${}")
        for name in params[kind]:
            values = {}
            for section in told["do"]["params"]:
                for file, names in section.items():
                    whole = composed[project / file.replace("${key}", name)]
                    values |= {key: _at(whole, key) for key in names}
            found[f"{stage}@{name}"] = [told["do"]["cmd"], json.loads(json.dumps(values, sort_keys=True))]
    return found


def _at(whole: Mapping[str, Any], dotted: str) -> Any:
    for part in dotted.split("."):
        whole = whole[part]
    return whole


@contextlib.contextmanager
def applied(mutation: Mutation, project: Path) -> Iterator[None]:
    """The mutation stands while this does; its `before` is taken for there already."""
    if mutation.change is not None:
        undo = mutation.change(project)
        try:
            yield
        finally:
            undo()
        return
    with _params(project, mutation, changed=True):
        yield


@contextlib.contextmanager
def _params(project: Path, mutation: Mutation, *, changed: bool) -> Iterator[None]:
    file = project / "params.yaml"
    before = file.read_text()
    params = with_overrides(json.loads(json.dumps(yaml.safe_load(before))), mutation, changed=changed)
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    try:
        yield
    finally:
        file.write_text(before)


class Composed:
    """Mutations by compose: the stages whose command or params differ afterwards."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self._before: dict[str, dict[str, Any]] = {}

    def __call__(self, mutation: Mutation) -> Outcome:
        key = json.dumps([mutation.entry, mutation.before], sort_keys=True) if mutation.before else ""
        if key not in self._before:
            with _params(self.project, mutation, changed=False) if key else contextlib.nullcontext():
                self._before[key] = self._composed(mutation)
        with applied(mutation, self.project):
            after = self._composed(mutation)
        before = self._before[key]
        assert before.keys() == after.keys()
        return Outcome(mutation, frozenset(name for name in before if before[name] != after[name]))

    def _composed(self, mutation: Mutation) -> dict[str, Any]:
        result = compose(self.project)
        assert not result.errors, f"{mutation.kind} {mutation.name}: {[str(e) for e in result.errors.values()]}"
        return dependencies(self.project)


RUN = (
    *("model.probes.count", "model.probes.seed", "model.probes.data", "model.dims.batch.opt", "model.dims.batch.max"),
    *("model.data.calibrate", "check.severity", "check.seconds", "check.memory_gib", "torchscript.tolerance"),
    *("torchscript.seconds", "torchscript.memory_gib", "export.tolerance", "simplify.tolerance", "simplify.method"),
    *("calibrate.batch_size", "calibrate.stride", "calibrate.held_out", "calibrate.workers", "quantize.method"),
    *("quantize.rescale", "quantize.correct_biases", "quantize.least_db", "quantize.elsewhere"),
    *("quantize.tolerance.sqnr_db", "quantize.tolerance.agreement", "engine.verbosity", "verify.tolerance.sqnr_db"),
    *("verify.tolerance.agreement", "report.layers", "report.latency_seconds"),
)
"""The keys whose other value the pipeline takes to its end."""
DAMAGING = ("weights and data",)  # a byte more makes them unreadable; tests/pipeline/test_edits.py edits them well


def sample(mutations: Sequence[Mutation], count: int, seed: int) -> list[Mutation]:
    """Mutations whose pipelines come to an end, of every kind."""
    fit = [one for one in mutations if (one.key in RUN if one.key else one.kind not in DAMAGING)]
    by_kind: dict[str, list[Mutation]] = defaultdict(list)
    draw = random.Random(seed)
    for one in draw.sample(fit, len(fit)):
        by_kind[one.kind].append(one)
    # in turn, so that every kind is there
    turns = [one for turn in itertools.zip_longest(*by_kind.values()) for one in turn if one is not None]
    return turns[:count]


class Reproduced:
    """Mutations by a real `dvc repro`. A stage must run where the mutation reaches it, or the content of an artifact
    that it reads came out different."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def __call__(self, mutation: Mutation) -> Outcome:
        before = self._read()
        with applied(mutation, self.project.path):
            ran = self._repro(mutation)
            after = self._read()
        changed = {stage for stage, read in after.items() if read != before[stage]}
        self._repro(mutation)  # back, out of DVC's run cache
        return Outcome(dataclasses.replace(mutation, expected=mutation.expected | changed), ran)

    def _repro(self, mutation: Mutation) -> frozenset[str]:
        laid_over = os.pathsep.join(path for path in sys.path if "other versions" in path)
        done = self.project.dvc("repro", **({"PYTHONPATH": laid_over} if laid_over else {}))
        assert done.returncode == 0, f"{mutation.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return frozenset(stages_run(done.stdout) - {"compose"})

    def _read(self) -> dict[str, dict[str, str]]:
        """Of each stage the artifacts that it has read, by path: their MD5."""
        lock = yaml.load((self.project.path / "dvc.lock").read_text(), Loader=_Loader)
        return {
            name: {one["path"]: one["md5"] for one in stage.get("deps", ())}
            for name, stage in lock["stages"].items()
            if name != "compose"
        }


def tabled(outcomes: Iterable[Outcome], title: str) -> Table:
    """Of each kind of input how many were changed, how many stages had to run and did, were missed and were needless."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in outcomes:
        counts[one.mutation.kind] += Counter(
            inputs=1,
            expected=len(one.mutation.expected),
            run=len(one.ran),
            missed=len(one.missed),
            needless=len(one.needless),
        )
    table = Table(title=title)
    heads = ("inputs", "expected", "run", "missed", "needless")
    for head in ("kind of input", *heads):
        table.add_column(head, justify="left" if head == "kind of input" else "right")
    total: Counter[str] = Counter()
    for kind, counted in counts.items():
        total += counted
        table.add_row(kind, *(str(counted[head]) for head in heads))
    table.add_section()
    table.add_row("all", *(str(total[head]) for head in heads))
    return table


def wrong(outcomes: Iterable[Outcome]) -> list[str]:
    """In words, the mutations that reran what they must not, or left what they must."""
    told = []
    for one in outcomes:
        for what, stages in (("missed", one.missed), ("needless", one.needless)):
            if stages:
                told.append(f"{one.mutation.kind}: {one.mutation.name}: {what}: {', '.join(sorted(stages))}")
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description="The table of mutations.")
    parser.add_argument("--only", default="", help="a kind of input")
    parser.add_argument("--repro", type=int, default=0, help="how many are tried by a real `dvc repro` as well")
    parser.add_argument("--seed", type=int, default=0, help="that those are drawn with")
    options = parser.parse_args()
    mutations = [one for one in all_mutations() if options.only in f"{one.kind} {one.name}"]
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        subject = new_subject(Path(temporary).resolve() / "project")
        composed = Composed(subject)
        outcomes = [composed(one) for one in mutations]
        Console(width=100).print(tabled(outcomes, "one input changed at a time, over the default set, by compose"))
        found += wrong(outcomes)
        if options.repro:
            project = Project(subject)
            project.repro()
            by_dvc = Reproduced(project)
            outcomes = [by_dvc(one) for one in sample(mutations, options.repro, options.seed)]
            Console(width=100).print(tabled(outcomes, "and by a real `dvc repro`, what came of it included"))
            found += wrong(outcomes)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
