"""A forecast takes time in proportion to the stages, and reads parameters as DVC does without DVC's slow parser."""

from __future__ import annotations

import cProfile
import pstats
import random
from pathlib import Path

import pytest
import yaml
from dvc.fs import localfs
from dvc.repo import Repo
from dvc.utils.serialize import parse_yaml

from qntz.compose import composed_entries, composed_files
from qntz.provenance import parameters
from qntz.provenance.contents import Contents, Open
from qntz.provenance.forecast import RUNS, Forecast
from qntz.provenance.workspace import opened, steps
from tests.provenance.conftest import write

SCALARS = (
    *("1", "-7", "+7", "007", "089", "0o17", "0x1f", "0b101", "1_000", "1:30", "190:20:30", "9999999999999999999"),
    *("1.5", "1e-4", "1.0e-5", "1e5", "12e45", ".5", "5.", "-.inf", ".nan", "1_0.5", "+.5e+3", "2.13.0", "1.26.4"),
    *("true", "True", "yes", "No", "on", "OFF", "y", "n", "null", "Null", "~", "none", "'1'", '"true"', "=", "a: {}"),
    *("2020-01-01", "2020-1-1", "2001-12-14t21:59:43.10-05:00", "e0", "e5", "sm89", "0b1e9d", "12e4a", "a", "-", "._"),
    *("[1, 1e-4, on]", "{a: 1e-4, b: [{c: 0o7}]}", "{}", "[]", "é", "'0': 1", "0: 1"),
)


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_file_means_what_dvc_reads(scalar: str) -> None:
    text = f"key:\n  {scalar}\n"
    try:
        wanted = repr(parse_yaml(text, "f.yaml"))
    except Exception as error:
        with pytest.raises(type(error)):
            parameters.parsed(text.encode(), "f.yaml")
        return
    assert repr(parameters.parsed(text.encode(), "f.yaml")) == wanted


def test_keys_mean_what_dvc_reads() -> None:
    import dpath

    values = {"a": {"b": {"c": 1}, "l": [{"x": 2}], "none": None, "empty": {}}, "0": 3}
    keys = ("a", "a.b", "a.b.c", "a.l.0.x", "a.none", "a.empty", "0", "a.*.c", "b", "a.z", "a.b.c.d", "a.l.3")
    wanted = {}
    for key in keys:
        try:
            wanted[key] = dpath.get(values, key, separator=".")
        except KeyError:
            continue
    assert parameters.picked(values, keys) == wanted
    assert set(wanted) == set(keys) - {"b", "a.z", "a.b.c.d", "a.l.3"}


def test_what_compose_writes_never_meets_the_slow_parser(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = composed_files(project, composed_entries(project))
    slow = {path: parse_yaml(data.decode(), str(path)) for path, data in files.items()}
    monkeypatch.setattr("dvc.utils.serialize.parse_yaml", pytest.fail)
    assert {path: parameters.parsed(data, str(path)) for path, data in files.items()} == slow


def test_paths_above_and_below_are_found(root: Path) -> None:
    draw = random.Random(0)
    paths = ["/" + "/".join(draw.choices("ab", k=draw.randrange(1, 6))) for _ in range(60)]
    contents = Contents(Repo(str(root)))
    for path in paths[:20]:
        contents._changed[path] = contents._changed[path] = Open(frozenset({path}))
    for path in paths:
        wanted = {one for one in paths[:20] if localfs.isin_or_eq(one, path) or localfs.isin(path, one)}
        assert set(contents.changing(path)) == contents.waits(path) == wanted
        assert len(contents.changing(path)) == len(wanted)


def calls(root: Path, models: int) -> int:
    """The calls of functions that a forecast takes, in which each model has a chain of ten stages."""
    stages = {
        f"s{index}": {
            "foreach": [f"m{model}" for model in range(models)],
            "do": {
                "cmd": f"echo {index} ${{item}}",
                "deps": [f"build/${{item}}/{index - 1}"] if index else ["in.txt"],
                "outs": [f"build/${{item}}/{index}"],
            },
        }
        for index in range(10)
    }
    write(root, "dvc.yaml", yaml.safe_dump({"stages": stages}))
    write(root, "dvc.lock", yaml.safe_dump({"schema": "2.0"}))
    with opened(root) as repo:
        wanted = steps(repo, ())
        profile = cProfile.Profile()
        planned = profile.runcall(Forecast(repo, root, {}, {}).plan, wanted)
    assert len(planned) == 10 * models
    assert planned[0].action == RUNS
    return pstats.Stats(profile).total_calls


def test_it_takes_four_times_the_work_for_four_times_the_models(root: Path) -> None:
    calls(root, 1)  # imports
    few, many = calls(root, 5), calls(root, 20)
    assert many < 5 * few
