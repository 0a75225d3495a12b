"""The page in a real browser: nothing to complain of on its console, and no wider than its window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qntz.artifacts import ModelPaths
from qntz.config import ReportConfig
from qntz.report import gather, render_html
from tests.report.conftest import engine_records, model_records

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
]
WIDTHS = (1280, 400)
# The page forbids scripts, so a page around it measures: frames, as a window cannot be made as narrow as a phone.
HARNESS = """<!doctype html><meta charset="utf-8"><body><pre id="told"></pre><script>
const told = {}; let left = WIDTHS.length;
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const page = frame.contentDocument;
    for (const fold of page.querySelectorAll("details")) fold.open = true;
    const root = page.documentElement;
    const seen = name => [...page.querySelectorAll(name)].filter(e => e.getClientRects().length).length;
    told[width] = {client: root.clientWidth, scroll: root.scrollWidth, wide: seen(".wide"), narrow: seen(".narrow"),
      tables: seen("table"), folds: seen("details")};
    if (--left === 0) document.getElementById("told").textContent = JSON.stringify(told);
  };
  frame.src = PAGE; document.body.append(frame);
}
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH: the page was not looked at")


def measured(page: Path, folder: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """What the harness measured at each width, and the lines that the console got."""
    harness = folder / "harness.html"
    text = HARNESS.replace("WIDTHS", json.dumps(WIDTHS)).replace("PAGE", json.dumps(page.as_uri()))
    harness.write_text(text, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run([*command, harness.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    told = re.search(r'<pre id="told">(.+?)</pre>', done.stdout)
    if told is None:
        raise RuntimeError(f"the harness measured nothing: {done.stderr[-500:]}")
    return json.loads(html.unescape(told[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_crowded_page_fits_a_desk_and_a_phone(tmp_path: Path):
    paths = ModelPaths(tmp_path, "a_model_with_quite_a_long_name_that_has_no_place_to_break_it_at_all")
    finding = {
        "slug": "captured-device", "severity": "warning", "path": "a/very/long/path/to/a/module/of/the/model.py", "line": 1,
        "message": "m" * 120, "chain": ["Net.forward"] * 9,
    }  # fmt: skip
    model_records(paths, check={"findings": [finding]})
    row = ",/encoder/layer.{0}/attention/self/query/MatMul,/encoder/layer.{0}/attention/self/query/MatMul_output_0,MatMul,{0}\n"
    layers = "index,layer,tensor,op,sqnr_db\n" + "".join(f"{i}{row.format(i)}" for i in range(90))
    names = [f"{paths.model}-{kind}" for kind in ("int8", "fp16")]
    for name in names:
        engine_records(paths.engine(name), layers=layers, metrics={"engine_run": f"no: {'because ' * 30}"})
    page = tmp_path / "page.html"
    page.write_text(render_html(gather(paths, names), [], ReportConfig()), encoding="utf-8")

    told, console = measured(page, tmp_path)
    assert console == []
    for width in WIDTHS:
        seen = told[str(width)]
        assert seen["scroll"] <= seen["client"] <= width
        assert seen["folds"] == 5
        assert seen["tables"] >= 10
    assert (told["1280"]["wide"], told["1280"]["narrow"]) == (2, 0)
    assert (told["400"]["wide"], told["400"]["narrow"]) == (0, 2)


def test_the_harness_sees_what_it_looks_for(tmp_path: Path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><div style='width:700px'>x</div><script>console.error('oh')</script>", encoding="utf-8"
    )
    told, console = measured(page, tmp_path)
    assert told["400"]["scroll"] > told["400"]["client"]
    assert told["1280"]["scroll"] == told["1280"]["client"]
    assert len(console) == len(WIDTHS)
