"""The examples of the rules: the checker finds the wrong model at its line, and nothing in the right one."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from qntz import plugins
from qntz.check import CheckReport, check_model

FOLDER = Path(__file__).parent.parent / "docs/examples"
FILES = sorted(FOLDER.glob("*.py"))
WITHOUT = {"unexplained-ignore", "unused-ignore", "trace-differs", "script-differs"}
"""Rules of which no model can be an example: they are about comments, or stand in for what no other rule explains."""

each_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


@lru_cache
def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rule_example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where the sources of its classes are looked up
    torch.manual_seed(0)
    spec.loader.exec_module(module)
    return module


def model(path: Path, name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(loaded(path), name)().eval()


def checked(path: Path, name: str) -> CheckReport:
    example = loaded(path)
    route = getattr(example, "ROUTE", "trace")
    return check_model(model(path, name), example.EXAMPLE, example.PROBES, source_root=FOLDER, route=route)


def test_every_rule_has_an_example() -> None:
    rules = set(plugins.load(FOLDER / "nowhere").records("qntz_rules")) - WITHOUT
    assert {path.stem for path in FILES} == {slug.replace("-", "_") for slug in rules}


@each_file
def test_the_wrong_line_is_found(path: Path) -> None:
    if path.stem == "unsupported_engine_op":
        pytest.importorskip("tensorrt_rtx")
    marked = [n for n, line in enumerate(path.read_text().splitlines(), start=1) if line.endswith("  # wrong")]
    assert len(marked) == 1
    report = checked(path, "Wrong")
    slug = path.stem.replace("_", "-")
    found = [f.line for f in (*report.errors, *report.warnings) if (f.path, f.slug) == (path.name, slug)]
    assert marked[0] in found, report.findings


@each_file
def test_the_right_model_is_clean(path: Path) -> None:
    report = checked(path, "Right")
    assert [f"{f.line} {f.slug} {f.severity}: {f.message}" for f in (*report.errors, *report.warnings)] == []


@each_file
def test_the_two_do_the_same(path: Path) -> None:
    """Where the wrong model is not wrong by what it gives: on no device, or at random."""
    if path.stem in ("multi_device", "training_mode", "randomness"):
        pytest.skip("the wrong model gives nothing, or something else each time")
    wrong, right, example = model(path, "Wrong"), model(path, "Right"), loaded(path)
    for inputs in (example.EXAMPLE, *example.PROBES):
        with torch.no_grad():
            given = [one(**{name: tensor.clone() for name, tensor in inputs.items()}) for one in (wrong, right)]
        torch.testing.assert_close(*given, check_dtype=path.stem != "float64")


SCRIPTED = [path for path in FILES if 'ROUTE = "script"' in path.read_text()]


@pytest.mark.parametrize("path", SCRIPTED, ids=[path.stem for path in SCRIPTED])
def test_the_right_model_compiles(path: Path) -> None:
    torch.jit.script(model(path, "Right"))
