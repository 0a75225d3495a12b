"""All engines on one page: every figure at its place, usable with three hundred of them."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from qntz.report.fleet import COLUMNS, fleet_csv, rows
from qntz.report.fleet_page import age, fleet_markdown, render_fleet
from tests.report.browser import BROWSER, browsing

STATES = ("up to date", "out of date", "not here", "broken")


def row(number: int, **given: Any) -> dict[str, Any]:
    built = number % 4 != 3
    return {
        **dict.fromkeys(COLUMNS),
        "engine": f"m{number // 3:03}-{('fp32', 'fp16', 'int8')[number % 3]}",
        "model": f"m{number // 3:03}",
        "state": STATES[number % 4],
        "why": () if number % 4 == 0 else (f"quantize: quantize.method mse → entropy {number}",),
        "precision": ("fp32", "fp16", "int8")[number % 3] if built else None,
        "metric": "accuracy" if built else None,
        "value": 0.9 + number / 10_000 if built else None,
        "value_eager": 0.95 if built else None,
        "sqnr_db": 20.0 + number if built else None,
        "bytes": 1000.0 * (300 - number) if built else None,
        "median_ms": 0.5 if number == 7 else None,
        "age": 3600.0 * number if built else None,
        **given,
    }


FOUND = [row(number) for number in range(300)]


def test_every_engine_is_told_once_with_its_figures() -> None:
    page = render_fleet(FOUND, {"Machine": "a <machine>"})
    assert page.count("<tr data-state=") == 300
    assert "a &lt;machine&gt;" in page
    (line,) = re.findall(r"<tr [^>]*>(?:(?!</tr>).)*m002-fp16(?:(?!</tr>).)*</tr>", page)
    cells = [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", line)]
    # number 7: not built
    assert cells == ["m002-fp16", "m002", "broken", "—", "—", "—", "—", "—", "—", "0.5 ms", "—",
                     "quantize: quantize.method mse → entropy 7"]  # fmt: skip
    (line,) = re.findall(r"<tr [^>]*>(?:(?!</tr>).)*m002-int8(?:(?!</tr>).)*</tr>", page)
    cells = [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", line)]
    assert cells == ["m002-int8", "m002", "up to date", "int8", "accuracy", "0.9008", "0.9500", "28.0 dB",
                     "285.2 KB", "—", "8 h", ""]  # fmt: skip


def test_markdown_has_the_same_rows() -> None:
    text = fleet_markdown(FOUND)
    assert text.startswith("300 engines: 75 up to date, 75 out of date, 75 not here, 75 broken.\n\n| Engine | Model |")
    assert len(text.splitlines()) == 304
    assert fleet_markdown([]) == "0 engines: none.\n\nNo engines.\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (-5.0, "0 min"), (719.0, "12 min"), (3600.0, "1 h"), (86_399.0, "24 h"), (3 * 86_400.0, "3 d")],
)
def test_age(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


def test_csv_has_a_line_for_each() -> None:
    lines = fleet_csv([{name: one[name] for name in COLUMNS} for one in FOUND[:2]]).decode().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1].startswith("m000,m000-fp32,fp32,,,300000.0,accuracy,0.9,0.95,,20.0,,")
    assert rows(Path(), []) == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_in_a_browser_it_is_sorted_and_filtered(tmp_path: Path) -> None:
    (tmp_path / "fleet.html").write_text(render_fleet(FOUND, {}))
    visible = "Array.from(document.querySelectorAll('#engines tbody tr')).filter((r) => !r.hidden)"
    names = f"{visible}.map((r) => r.cells[0].textContent)"

    def press(column: str) -> str:
        return (
            f"Array.from(document.querySelectorAll('thead button')).find((b) => b.textContent === '{column}').click()"
        )

    with browsing(tmp_path) as tab:
        tab.show((tmp_path / "fleet.html").as_uri(), 1280)
        assert tab.value(f"{names}.length") == 300
        tab.value(press("SQNR"))
        assert tab.value(names)[:2] == ["m000-fp32", "m000-fp16"]
        tab.value(press("SQNR"))
        assert tab.value(names)[:2] == ["m099-int8" if 299 % 4 != 3 else "m099-fp16", "m099-fp32"]
        # what was not measured is last, either way
        assert set(tab.value(names)[-75:]) == {one["engine"] for one in FOUND if one["sqnr_db"] is None}
        tab.value(press("State"))
        assert tab.value(f"{visible}.map((r) => r.dataset.state)")[::75] == list(STATES)
        tab.value("words.value = 'M01 INT8'; words.dispatchEvent(new Event('input'))")
        assert sorted(tab.value(names)) == [f"m01{digit}-int8" for digit in range(10)]
        tab.value("state.value = 'broken'; state.dispatchEvent(new Event('change'))")
        assert {*tab.value(f"{visible}.map((r) => r.dataset.state)")} == {"broken"}
        assert tab.value("shown.textContent") == f"{tab.value(f'{visible}.length')} of 300"
        for width in (1280, 400):
            tab.show((tmp_path / "fleet.html").as_uri(), width)
            assert tab.value("document.documentElement.scrollWidth") <= width
        assert tab.console == []
