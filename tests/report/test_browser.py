"""The page in a real browser: nothing to complain of on its console, and no wider than its window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qntz.artifacts import ModelPaths
from qntz.config import GateConfig, ReportConfig
from qntz.report import gather, render_html
from tests.report.browser import BROWSER, Tab, browsing
from tests.report.conftest import calibrated, engine_records, model_records

WIDTHS = (1280, 400)
NAME = "a_model_with_quite_a_long_name_that_has_no_place_to_break_it_at_all"
OPEN = "document.querySelectorAll('details').forEach(fold => { fold.open = true })"
SEEN = """(() => {
  const root = document.documentElement, main = document.querySelector('main');
  const seen = name => [...document.querySelectorAll(name)].filter(e => e.getClientRects().length).length;
  // what sticks out of the page, but for what lies in a box that scrolls by itself or is cut on purpose
  const out = [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll table, caption')
    && e.getBoundingClientRect().right > root.clientWidth + 0.5).map(e => e.outerHTML.slice(0, 80));
  return {client: root.clientWidth, scroll: root.scrollWidth, wide: seen('.wide'), narrow: seen('.narrow'),
    tables: seen('table'), folds: seen('details'), small: seen('.multiples svg'), out,
    ground: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color};
})()"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH: the page was not looked at")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def quiet(tab: Tab) -> Tab:
    tab.console.clear()
    return tab


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 12 engines and 200 layers, with names that nothing breaks, findings, gates and histograms."""
    folder = tmp_path_factory.mktemp("crowded")
    paths = ModelPaths(folder, NAME)
    finding = {
        "slug": "captured-device", "severity": "warning", "path": "a/very/long/path/to/a/module/of/the/model.py", "line": 1,
        "message": "m" * 120, "chain": ["Net.forward"] * 9,
    }  # fmt: skip
    model_records(paths, check={"findings": [finding]})
    row = ",/encoder/layer.{0}/attention/self/query/MatMul,/encoder/layer.{0}/attention/self/query/MatMul_output_0,MatMul,{0}\n"
    layers = "index,layer,tensor,op,sqnr_db\n" + "".join(f"{i}{row.format(i)}" for i in range(200))
    names = [f"{NAME}-{place}" for place in range(12)]
    rng = np.random.default_rng(0)
    seen = {f"/encoder/layer.{i}/attention/self/query/MatMul_output_0": rng.normal(0, 1, 900) for i in range(40)}
    for name in names:
        engine_records(paths.engine(name), layers=layers, metrics={"engine_run": f"no: {'because ' * 30}"})
        calibrated(paths.engine(name), {k: v.astype(np.float32) for k, v in seen.items()}, dict.fromkeys(seen, 2.5))
    page = folder / "page.html"
    config = ReportConfig(gates={"*": GateConfig(sqnr_db=30)})
    page.write_text(render_html(gather(paths, names), [], config), encoding="utf-8")
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_crowded_page_fits_a_desk_and_a_phone(quiet: Tab, crowded: Path, width: int, dark: bool):
    quiet.show(crowded.as_uri(), width, dark=dark)
    quiet.value(OPEN)
    seen = quiet.value(SEEN)
    assert quiet.console == []
    assert seen["scroll"] <= seen["client"] <= width
    assert seen["out"] == []
    assert (seen["wide"], seen["narrow"]) == ((2, 0) if width > 760 else (0, 2))
    assert seen["folds"] == 12 + 12 + 12 + 1  # worst layers, thresholds, details, materials
    assert seen["small"] == 12 * 8
    assert seen["tables"] >= 60
    light = [sum(map(int, seen[of].strip("rgb()").split(","))) > 3 * 128 for of in ("ground", "ink")]
    assert light == ([False, True] if dark else [True, False])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_crowded_page_prints(quiet: Tab, crowded: Path, dark: bool):
    """In black on white whatever the screen has, with every fold open, and nothing beyond the sheet."""
    quiet.show(crowded.as_uri(), 1032, dark=dark, media="print")  # A4 landscape less its margins, 273 mm
    seen = quiet.value(SEEN)
    assert quiet.console == []
    assert seen["scroll"] <= seen["client"]
    assert seen["out"] == []
    assert seen["ink"] == "rgb(27, 31, 39)"
    assert seen["ground"] == "rgba(0, 0, 0, 0)"
    assert (seen["wide"], seen["narrow"]) == (2, 0)
    shut = "[...document.querySelectorAll('details:not([open]) table')].filter(e => !e.checkVisibility()).length"
    assert quiet.value(shut) == 0
    assert seen["tables"] >= 60


def test_the_file_that_is_printed_has_its_pages(quiet: Tab, crowded: Path):
    quiet.show(crowded.as_uri(), 1280)
    printed = quiet.printed()
    assert printed.startswith(b"%PDF-")
    assert quiet.console == []


def test_the_lanes_of_the_pipeline_join(quiet: Tab, crowded: Path):
    """Each engine's lane lies below the model's, and the report below them all, at both widths."""
    for width in WIDTHS:
        quiet.show(crowded.as_uri(), width)
        boxes = quiet.value(
            "[...document.querySelectorAll('.step')].map(e => {const r = e.getBoundingClientRect(); return [r.top, r.bottom]})"
        )
        model, lanes, (report,) = boxes[:5], boxes[5:-1], boxes[-1:]
        assert len(lanes) == 12 * 3
        assert max(bottom for _, bottom in model) < min(top for top, _ in lanes)
        assert report[0] > max(bottom for _, bottom in lanes)
        for place in range(0, 36, 3):  # quantize, engine and verify stand side by side
            assert len({top for top, _ in lanes[place : place + 3]}) == 1


def test_the_browser_sees_what_it_looks_for(quiet: Tab, tmp_path: Path):
    bad = tmp_path / "bad.html"
    text = (
        "<!doctype html><meta name=viewport content='width=device-width'><main><div style='width:700px'>x</div></main>"
    )
    bad.write_text(text + "<img src='none.png'><script>console.error('oh')</script>", encoding="utf-8")
    quiet.show(bad.as_uri(), 400)
    seen = quiet.value(SEEN)
    assert seen["scroll"] > 400
    assert len(seen["out"]) == 1
    assert "error: ['oh']" in quiet.console
    assert any("ERR_FILE_NOT_FOUND" in line for line in quiet.console)
    quiet.show(bad.as_uri(), 1280)
    seen = quiet.value(SEEN)
    assert seen["scroll"] == seen["client"]
    assert seen["out"] == []
