"""Statements of the source: where they are in the syntax tree, what moves them and what does not, and as lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from qntz.statements import line_of, named, shown, statement_at, statement_of

SOURCE = '''import functools


def helper(x):
    return x + 1


class Block:
    """A block."""

    @functools.cache
    def forward(self, x):
        """Says what it does."""
        y = x
        if y:
            y = helper(
                y,
            )
        elif x:
            y = 2
        else:
            try:
                y = 3
            except ValueError:
                y = 4
            finally:
                pass
        match y:
            case 1:
                y = 5
        return y
'''
LINES = {
    1: ":0",
    5: "helper:0",
    11: "Block:0",  # the decorator belongs to the method
    14: "Block.forward:0",
    15: "Block.forward:1",
    17: "Block.forward:1.body.0",
    20: "Block.forward:1.orelse.0.body.0",
    23: "Block.forward:1.orelse.0.orelse.0.body.0",
    25: "Block.forward:1.orelse.0.orelse.0.handlers.0.body.0",
    27: "Block.forward:1.orelse.0.orelse.0.finalbody.0",
    30: "Block.forward:2.cases.0.body.0",
    31: "Block.forward:3",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/net.py").write_text(SOURCE)
    return tmp_path / "pkg/net.py"


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_a_place_in_the_tree_and_back(file: Path, line: int) -> None:
    statement = statement_at(str(file), line)
    assert statement == f"pkg/net.py:{LINES[line]}"
    first = {17: 16, 1: 1}.get(line, line)  # of a statement of several lines
    assert line_of(statement, file.parents[1]) == (file, first)


def test_comments_docstrings_and_blank_lines_move_nothing(file: Path, tmp_path: Path) -> None:
    moved = SOURCE.replace('        """Says what it does."""\n', "        # nothing to say\n\n\n").replace(
        "        if y:", "\n        if y:"
    )
    (tmp_path / "pkg/moved.py").write_text(moved)
    line = moved.splitlines().index("        return y") + 1
    assert statement_at(str(tmp_path / "pkg/moved.py"), line) == "pkg/moved.py:Block.forward:3"
    assert shown("pkg/moved.py:Block.forward:3", tmp_path) == f"pkg/moved.py:{line} in Block.forward"
    assert line != 31


def test_what_is_not_found_stays_as_it_is(tmp_path: Path) -> None:
    assert statement_at(str(tmp_path / "absent.py"), 3) == ""
    assert shown("absent.py:f:2", tmp_path) == "absent.py:f:2"
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert statement_at(str(tmp_path / "broken.py"), 1) == ""
    (tmp_path / "short.py").write_text("a = 1\n")
    assert shown("short.py::4", tmp_path) == "short.py::4"
    assert shown("short.py::0", tmp_path) == "short.py:1"
    assert named("/nowhere/at/all/net.py") == "net.py"


def test_a_place_in_the_code_is_of_the_last_statement_before_it() -> None:
    places = {"a.py": [[1, 0, ""], [3, 4, "one"], [3, 9, "two"], [7, 0, ""]]}
    asked = [(1, 0), (3, 3), (3, 4), (3, 8), (3, 9), (6, 80), (7, 0)]
    assert [statement_of(places, "a.py", *one) for one in asked] == ["", "", "one", "one", "two", "two", ""]
    assert statement_of(places, "b.py", 3, 4) == ""
