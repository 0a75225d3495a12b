"""The generated pages are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import generate
from qntz.hookspecs import CALLED_BY


@pytest.mark.parametrize("page", ["rules", "plugins"])
def test_pages_are_up_to_date(root: Path, page: str) -> None:
    assert (root / f"docs/{page}.md").read_text() == getattr(generate, f"{page}_page")(), "run `make docs`"


def test_every_hook_has_its_section(root: Path) -> None:
    text = (root / "docs/plugins.md").read_text()
    for hook in CALLED_BY:
        assert f"## `{hook}(" in text


def test_every_hook_has_a_test(root: Path) -> None:
    tests = "".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    for hook in CALLED_BY:
        assert f"def {hook}(" in tests, f"no test uses {hook}"
