"""The measurement, over backends of a small project: each runs in a process of its own."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from qntz.bench import Subject, Timing, measure
from qntz.bench.measure import _equal, _percentiles, _sqnr_db
from qntz.bench.subject import BACKEND
from qntz.config import EngineConfig

PLUGIN = """
import os, time
import numpy as np
from qntz import hookimpl


class Runner:
    def __init__(self, plan):
        self.kind = plan.read_text()

    def run(self, inputs):
        x = inputs["x"]
        if self.kind == "killed":
            os.kill(os.getpid(), 9)
        if self.kind == "exits":
            print("no memory for that")
            os._exit(3)
        if self.kind == "raises" or (self.kind == "small" and len(x) > 2):
            raise ValueError("that is not to be done")
        time.sleep(0.03 if self.kind == "slow" else 0.005)
        if self.kind == "off":
            return {"y": 2.02 * x}
        if self.kind == "other":
            return {"y": x[:1]}
        return {"y": 2 * x}


class Sleepy:
    name = "sleepy"
    def version(self): return "1"
    def refusal(self, config, precision): return None
    def why_not_run(self, config): return None
    def build(self, onnx_path, inputs, config, progress): raise NotImplementedError
    def load(self, plan, config): return Runner(plan)


@hookimpl
def qntz_backends():
    yield Sleepy()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "sleepy.py").write_text(PLUGIN)
    return tmp_path


def subject(project: Path, kind: str) -> Subject:
    (project / kind).write_text(kind)
    return Subject(kind, BACKEND, project, project / kind, backend="sleepy", engine=EngineConfig(backend="sleepy"))


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.linspace(1, 2, 3 * count, dtype=np.float32).reshape(count, 3)}


def test_memory_is_its_own(project: Path) -> None:
    held = np.ones(1 << 27)  # 1 GiB of this process
    ((timing,), _) = measure([subject(project, "quick")], {"two": rows(2)}, seconds=0.02, rounds=1)
    assert held[-1] == 1
    assert timing.memory < 1 << 29


def test_each_round_weighs_the_same() -> None:
    fast, slow = np.full(100, 1.0), np.full(5, 20.0)
    assert _percentiles([fast, slow, slow, slow, slow]) == [20.0, 20.0, 20.0]
    assert _percentiles([np.arange(1.0, 101.0)]) == [50.0, 90.0, 99.0]


def test_outputs_of_each_kind_are_compared() -> None:
    right = {"y": np.array([1.0, 2.0], np.float32), "best": np.array([3, 4, 5, 6]), "z": np.array([1 + 1j, 2 - 2j])}
    wrong = {**right, "best": np.array([3, 4, 5, 0])}
    assert (_sqnr_db(right, right), _equal(right, right)) == (math.inf, 1.0)
    assert (_sqnr_db(wrong, right), _equal(wrong, right)) == (math.inf, 0.75)
    assert _sqnr_db({**right, "z": np.array([1 + 1j, 2 + 2j])}, right) == pytest.approx(10 * math.log10(10 / 16))
    for other in (np.array([1.0, np.nan], np.float32), np.array([1, 2]), np.array([1.0], np.float32)):
        assert _sqnr_db({**right, "y": other}, right) == -math.inf


def test_outputs_are_compared_by_name_or_where_the_names_differ_in_order() -> None:
    right = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 5.0]), "n": np.array([1, 2]), "m": np.array([3, 4])}
    turned = dict(reversed(right.items()))
    assert (_sqnr_db(turned, right), _equal(turned, right)) == (math.inf, 1.0)
    renamed = {f"output_{at}": array for at, array in enumerate(right.values())}
    assert (_sqnr_db(renamed, right), _equal(renamed, right)) == (math.inf, 1.0)
    turned["a"] = np.array([1.0, 1.0])
    assert _sqnr_db(turned, right) == pytest.approx(10 * math.log10(5 / 1))
    assert _equal({**turned, "m": np.array([4, 4])}, right) == 0.5


def test_outputs_without_elements_are_equal() -> None:
    found = {"boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int64)}
    assert (_sqnr_db(found, found), _equal(found, found)) == (math.inf, 1.0)


def test_each_has_its_turns_and_is_held_against_the_first(project: Path) -> None:
    subjects = [subject(project, kind) for kind in ("quick", "slow", "off", "other")]
    timings, refused = measure(subjects, {"one": rows(1), "four": rows(4)}, seconds=0.2, rounds=2)
    assert refused == []
    assert [(t.inputs, t.subject, t.batch) for t in timings] == [
        (inputs, one.name, batch) for inputs, batch in (("one", 1), ("four", 4)) for one in subjects
    ]
    quick, slow, off, other = timings[4:]
    assert 5 <= quick.median_ms <= quick.p90_ms <= quick.p99_ms
    assert slow.median_ms >= 30
    assert slow.per_second <= 4 / 0.03
    assert slow.runs >= 6  # three in each round, though they take longer than the round
    assert len(slow.rounds) == 2
    assert slow.cpu_ms < slow.median_ms  # it sleeps
    assert slow.over(quick) == tuple(
        pytest.approx(one)
        for one in (
            (slow.rounds[0] / quick.rounds[0] + slow.rounds[1] / quick.rounds[1]) / 2,
            min(slow.rounds[0] / quick.rounds[0], slow.rounds[1] / quick.rounds[1]),
            max(slow.rounds[0] / quick.rounds[0], slow.rounds[1] / quick.rounds[1]),
        )
    )
    assert quick.sqnr_db is None
    assert slow.sqnr_db == math.inf
    assert off.sqnr_db == pytest.approx(40, abs=0.1)  # a hundredth of the amplitude
    assert other.sqnr_db == -math.inf
    assert 20 << 20 < quick.memory < 1 << 30
    assert quick.gpu_memory is None or quick.gpu_memory >= 0


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("killed", "signal 9"),
        ("exits", "exit code 3; its last line: no memory for that"),
        ("raises", "ValueError: that is not to be done"),
    ],
)
def test_what_fails_is_told_and_the_others_are_timed(project: Path, kind: str, why: str) -> None:
    timings, (refused,) = measure([subject(project, kind), subject(project, "quick")], {"two": rows(2)}, seconds=0.05)
    assert [timing.subject for timing in timings] == ["quick"]
    assert (refused.subject, refused.inputs, refused.why) == (kind, "two" if kind == "raises" else "", why)


def test_what_takes_no_large_input_is_out(project: Path) -> None:
    subjects = [subject(project, "quick"), subject(project, "small")]
    timings, (refused,) = measure(subjects, {"two": rows(2), "four": rows(4)}, seconds=0.05, rounds=1)
    assert [(timing.inputs, timing.subject) for timing in timings] == [
        ("two", "quick"),
        ("two", "small"),
        ("four", "quick"),
    ]
    assert (refused.subject, refused.inputs) == ("small", "four")


def test_the_processes_are_gone_thereafter(project: Path) -> None:
    before = set(_children())
    measure([subject(project, "quick")], {"two": rows(2)}, seconds=0.02, rounds=1)
    assert set(_children()) <= before


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_without_rounds_the_ratio_is_of_the_medians() -> None:
    one = Timing("a", "x", 1, 100, 2.0, 2.0, 3.0, 500)
    other = Timing("b", "x", 1, 100, 8.0, 8.0, 9.0, 125, rounds=(7.0, 9.0))
    assert one.over(other) == (0.25, 0.25, 0.25)
