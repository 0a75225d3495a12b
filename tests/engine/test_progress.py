"""What the bar draws, and where it draws nothing."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from qntz.progress import Bar, Silent
from tests.engine.engine_graphs import linear

# The engine stage with a builder that does no more than a step, told as stages.entry tells it.
STAGE = """
import os, signal, sys, time, types
from pathlib import Path
from qntz.artifacts import ModelPaths
from qntz.config import DimConfig, EngineConfig, InputConfig, QuantizeConfig
from qntz.errors import BackendError
from stages.engine import work
from stages.entry import Job

class Builder:
    name = "fragile"
    refusal = lambda self, config, precision: None
    def build(self, path, inputs, config, progress):
        progress.step("build", 1, 3)
        time.sleep(0.3)
        {end}

class Made(Job):
    plugins = types.SimpleNamespace(records=lambda hook: {{"fragile": Builder()}})

model = types.SimpleNamespace(inputs={{"x": InputConfig(shape=["n", 5])}}, dims={{"n": DimConfig(1, 4, 9)}})
config = types.SimpleNamespace(model=model, engine=EngineConfig("fragile"), quantize=QuantizeConfig())
inputs = {{"code": "c0de", "plugins": {{}}, "tools": {{}}}}
try:
    work(Made(Path.cwd(), "engine", "net-fp32", config, inputs, ModelPaths(Path.cwd(), "net")))
except BackendError as error:
    print(f"error: {{error.what}}: {{error.why}}", file=sys.stderr)
except KeyboardInterrupt:
    print("error: interrupted", file=sys.stderr)
"""
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def last_frame(text: str) -> list[str]:
    """The lines that stand on the terminal at the end, without their colours."""
    lines = [""]
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part in ("\x1b[2K", "\r"):
            lines[-1] = "" if part == "\x1b[2K" else lines[-1]
        elif not part.startswith("\x1b["):
            lines[-1] += part
    return [line.rstrip() for line in lines if line.strip()]


def test_nested_phases_are_indented_and_leave_when_they_are_done() -> None:
    console = terminal()
    with Bar("engine digits", console=console, transient=False) as bar:
        assert bar.step("build", 0, 3)
        bar.step("fuse", 0, 8)
        bar.step("fuse", 5, 8)
        bar.step("build", 1, 3)
        bar._bars.refresh()
        during = last_frame(console.file.getvalue())
        bar.step("fuse", 8, 8)
        bar.step("build", 3, 3)
    assert [line[:14].rstrip() for line in during] == ["engine digits", "   fuse"]
    assert "build" in during[0]
    assert "1/3" in during[0]
    assert "5/8" in during[1]
    (line,) = last_frame(console.file.getvalue())
    assert "engine digits build" in line
    assert "3/3" in line


def test_a_transient_bar_leaves_nothing() -> None:
    console = terminal()
    with Bar("calibrate", console=console) as bar:
        bar.step("calibrate", 1, 4)
        bar.step("calibrate", 4, 4)
    assert last_frame(console.file.getvalue()) == []


def test_an_unknown_total_is_drawn_too() -> None:
    console = terminal()
    with Bar("calibrate", console=console, transient=False) as bar:
        assert bar.step("calibrate", 7, 0)
    assert "7/?" in last_frame(console.file.getvalue())[0]


def test_nothing_is_drawn_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Bar("engine") as bar:
        assert bar.step("build", 1, 2) is True
    assert capfd.readouterr() == ("", "")


def test_silent_goes_on() -> None:
    assert Silent().step("build", 1, 2) is True


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.abort()", "error: the builder ended: signal SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "error: the builder ended: signal SIGKILL"),
        ("raise BackendError('no', why='not so')", "error: no: not so"),
        ("time.sleep(60)", "error: interrupted"),
    ],
)
def test_what_ends_beside_the_bar_leaves_the_terminal_whole(tmp_path: Path, end: str, told: str) -> None:
    folder = tmp_path / "build/models/net/engines/net-fp32"
    folder.mkdir(parents=True)
    linear(tmp_path).rename(folder / "quantized.onnx")
    above, below = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE.format(end=end)],
        cwd=tmp_path,
        env=environment,
        stderr=below,
        start_new_session=True,
    )
    os.close(below)
    text, interrupts = "", told.endswith("interrupted")
    while True:
        try:
            data = os.read(above, 1024)
        except OSError:  # so Linux says that nobody holds the other end
            break
        text += data.decode()
        if not data:
            break
        if "1/3" in text and interrupts:
            interrupts = False
            stage.send_signal(
                signal.SIGINT
            )  # a terminal's Ctrl-C does not reach the builder, which has its own session
    stage.wait()
    os.close(above)
    assert "engine net-fp32 build" in text
    assert text.rindex(SHOWN) > text.rindex(HIDDEN)
    assert last_frame(text) == [told]
