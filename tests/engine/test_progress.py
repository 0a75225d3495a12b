"""What the bar draws, and where it draws nothing."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from qntz.progress import Bar, Silent


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def last_frame(console: Console) -> list[str]:
    """The lines that stand on the terminal at the end, without their colours."""
    lines = [""]
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", console.file.getvalue()):
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
        during = last_frame(console)
        bar.step("fuse", 8, 8)
        bar.step("build", 3, 3)
    assert [line[:14].rstrip() for line in during] == ["engine digits", "   fuse"]
    assert "build" in during[0]
    assert "1/3" in during[0]
    assert "5/8" in during[1]
    (line,) = last_frame(console)
    assert "engine digits build" in line
    assert "3/3" in line


def test_a_transient_bar_leaves_nothing() -> None:
    console = terminal()
    with Bar("calibrate", console=console) as bar:
        bar.step("calibrate", 1, 4)
        bar.step("calibrate", 4, 4)
    assert last_frame(console) == []


def test_an_unknown_total_is_drawn_too() -> None:
    console = terminal()
    with Bar("calibrate", console=console, transient=False) as bar:
        assert bar.step("calibrate", 7, 0)
    assert "7/?" in last_frame(console)[0]


def test_nothing_is_drawn_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Bar("engine") as bar:
        assert bar.step("build", 1, 2) is True
    assert capfd.readouterr() == ("", "")


def test_silent_goes_on() -> None:
    assert Silent().step("build", 1, 2) is True
