"""What the report times, from the engines' processes to its record and back."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from qntz.artifacts import ModelPaths, write_bytes, write_runs
from qntz.bench import time_engines
from qntz.builtin.onnxruntime import OnnxRuntimeBackend
from qntz.config import GateConfig, ReportConfig
from qntz.errors import ConfigError
from qntz.report import gather
from qntz.report.timed import timings_json, with_timings
from stages.entry import Job
from stages.report import work
from tests.engine.engine_graphs import WEIGHT, linear
from tests.report.conftest import engine_records, model_records

ENGINES = {"a": WEIGHT, "b": WEIGHT, "c": np.hstack([WEIGHT, WEIGHT]), "d": np.float32(1.1) * WEIGHT}
"""y = x W of a and b is equal, of c it has twice the columns, of d every element is off by a tenth: 20 dB."""


def test_engines_that_are_equal_or_broken_are_recorded_and_read_again(paths: ModelPaths) -> None:
    model_records(paths)
    x = {"name": "x", "dtype": "float32", "min": [1, 5], "opt": [4, 5], "max": [9, 5]}
    for name, weight in ENGINES.items():
        engine_records(
            paths.engine(name),
            engine={"backend": "onnxruntime", "options": {}, "inputs": [x], "outputs": [], "bytes": 1},
        )
        write_bytes(paths.engine(name).plan, linear(paths.root, weight).read_bytes())
    write_runs(paths.probes, [{"x": np.linspace(1, 2, 20, dtype=np.float32).reshape(4, 5)}])
    timings, why_not = time_engines(paths, list(ENGINES), {"onnxruntime": OnnxRuntimeBackend()}, 0.02)
    assert why_not == {}
    assert [timings[name].sqnr_db for name in "abc"] == [None, math.inf, -math.inf]
    run = gather(paths, list(ENGINES))
    timed = dataclasses.replace(run, timings=timings, timed_on="a CPU")
    write_bytes(paths.timings, timings_json(timed))
    told = json.loads(paths.timings.read_text())["timings"]
    assert [told[name]["sqnr_db"] for name in "abc"] == [None, "exact", "broken"]
    assert told["d"]["sqnr_db"] == pytest.approx(20, abs=1e-3)
    assert with_timings(run, paths.timings) == timed
    given = timed.as_dict()["engines"]
    json.dumps(given, allow_nan=False)
    assert given["b"]["latency"]["sqnr_db"] == "exact"


def test_what_a_gate_asks_of_no_engine_is_told_before_any_is_timed(
    paths: ModelPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_records(paths)
    engine_records(paths.engine("a"))
    timed = []
    monkeypatch.setattr("qntz.bench.time_engines", lambda *given: timed.append(given) or ({}, {}))
    for gate, told in (
        ({"b": GateConfig(sqnr_db=30)}, "report.gates.b: matches no engine of the model. Known: a."),
        ({"*": GateConfig(baseline="a", bytes_ratio=1)}, "report.gates.*: asks nothing of the engines that it matches"),
    ):
        config = SimpleNamespace(report=ReportConfig(engines=["a"], gates=gate))
        with pytest.raises(ConfigError) as caught:
            work(Job(paths.root, "report", "digits", config, {}, paths))
        assert str(caught.value).startswith(told)
    assert timed == []
