"""The table for the terminal."""

from __future__ import annotations

import io

from qntz.artifacts import ModelPaths
from qntz.report import gather, terminal_summary
from tests.report.conftest import engine_records, model_records


def printed(paths: ModelPaths, engines: list[str]) -> list[str]:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=120).print(terminal_summary(gather(paths, engines)))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_row_for_each_engine_and_the_reasons_below(paths: ModelPaths):
    model_records(paths)
    engine_records(paths.engine("digits-int8"))
    idle = {"engine_run": "no: no CUDA GPU [here]"}
    for name in ("digits-fp16", "digits-fp32"):
        engine_records(paths.engine(name), metrics=idle, engine={"backend": "tensorrt", "precision": name[-4:]})
    lines = printed(paths, ["digits-int8", "digits-fp16", "digits-fp32"])
    assert lines[0] == "digits"
    assert " ".join(lines[1].split()) == "engine precision backend accuracy eager accuracy agreement SQNR size run"
    assert " ".join(lines[2].split()) == "digits-int8 int8 tensorrt_rtx 0.9733 0.9711 > 0.9999 33.2 dB 90.0 KB yes"
    assert " ".join(lines[3].split()) == "digits-fp16 fp16 tensorrt - - - - - NOT RUN"
    assert lines[5] == "Not run: digits-fp16, digits-fp32: no CUDA GPU [here]"
    assert len(lines) == 6
