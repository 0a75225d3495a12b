"""trtexec's options and its summary, over a program that prints what trtexec prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qntz.bench import Subject, measure, trtexec
from qntz.bench.subject import TRTEXEC
from qntz.errors import BackendError

SUMMARY = """\
[11/29/2026-10:00:00] [I] Average on 10 runs - GPU latency: 1.9 ms - Host latency: 2.0 ms (enqueue 0.2 ms)
[11/29/2026-10:00:00] [I] === Performance summary ===
[11/29/2026-10:00:00] [I] Throughput: 480.5 qps
[11/29/2026-10:00:00] [I] Latency: min = 1.9 ms, max = 2.9 ms, mean = 2.05 ms, median = 2.01 ms, percentile(90%) = 2.2 ms, percentile(99%) = 2.75 ms
[11/29/2026-10:00:00] [I] Enqueue Time: min = 0.1 ms, max = 0.3 ms, mean = 0.2 ms, median = 0.19 ms, percentile(90%) = 0.25 ms, percentile(99%) = 0.29 ms
[11/29/2026-10:00:00] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(99%) = 0 ms
[11/29/2026-10:00:00] [I] GPU Compute Time: min = 1.8 ms, max = 2.8 ms, mean = 1.95 ms, median = 1.93 ms, percentile(90%) = 2.1 ms, percentile(99%) = 2.7 ms
[11/29/2026-10:00:00] [I] D2H Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(90%) = 0 ms, percentile(99%) = 0 ms
[11/29/2026-10:00:00] [I] Total Host Walltime: 3.00 s
"""
INPUTS = {"x": np.zeros((8, 3, 4), np.float32), "unused": np.zeros((8,), np.float32)}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def install(name: str, body: str) -> Path:
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/given"\n{body}\n')
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "given"

    return install


def subject(backend: str = "tensorrt", graph: bool = False) -> Subject:
    return Subject("by trtexec", TRTEXEC, Path("."), Path("a.engine"), order=("x",), backend=backend, graph=graph)


@pytest.mark.parametrize(("backend", "program"), [("tensorrt", "trtexec"), ("tensorrt_rtx", "tensorrt_rtx")])
def test_its_figures_stand_beside_the_others(on_path, backend: str, program: str) -> None:
    given = on_path(program, f"cat <<'END'\n{SUMMARY}END")
    (timing,), refused = measure([subject(backend, graph=True)], {"eight": INPUTS}, seconds=3)
    assert refused == []
    assert (timing.median_ms, timing.p90_ms, timing.p99_ms, timing.gpu_ms) == (2.01, 2.2, 2.75, 1.93)
    assert timing.per_second == 8 * 480.5
    assert timing.runs == round(3 * 480.5)
    assert given.read_text().splitlines() == [
        "--loadEngine=a.engine", "--shapes=x:8x3x4", "--warmUp=500", "--duration=3", "--percentile=90,99",
        "--noDataTransfers", "--useCudaGraph",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            "echo '[11/29/2026-10:00:00] [E] Engine deserialization failed'; exit 1",
            "a.engine: trtexec fails: Engine deserialization failed.",
        ),
        ("exit 7", "a.engine: trtexec fails: exit code 7."),
        (
            "echo '[I] Throughput: 4 qps'",
            "trtexec gives no summary: no throughput, or no percentiles, in what it prints.",
        ),
    ],
)
def test_a_failure_is_told(on_path, body: str, text: str) -> None:
    on_path("trtexec", body)
    with pytest.raises(BackendError) as caught:
        trtexec.run(subject(), INPUTS, 1)
    assert str(caught.value) == text


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trtexec.program("tensorrt") is None
    assert trtexec.program("onnxruntime") is None


def test_a_second_is_the_least_that_it_measures(on_path) -> None:
    on_path("trtexec", f"cat <<'END'\n{SUMMARY}END")
    assert trtexec.run(subject(), INPUTS, 0.2).runs == 480
