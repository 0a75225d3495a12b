"""The files of conf/ that an engine is composed of are those that Hydra takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qntz.artifacts import digest_file
from qntz.compose import composed_entries
from qntz.provenance.configured import configuration

PARAMS = "models: {digits: {export: {use: mine}}}\nengines: {e: {model: digits, quantize: {use: int8_fp16}}}\n"


def groups(project: Path) -> set[str]:
    files = configuration(project, "e")["files"]
    assert files == {path: digest_file(project / path) for path in files}
    return {path for path in files if path.startswith(("conf/quantize/", "conf/export/", "conf/model/"))}


@pytest.mark.parametrize(
    ("defaults", "found"),
    [
        ("[default, _self_]", {"conf/export/default.yaml"}),  # of its own group
        ("[inner/deep, optional inner: nowhere, _self_]", {"conf/export/inner/deep.yaml"}),
        ("[{/export/inner: deep}, _self_]", {"conf/export/inner/deep.yaml"}),
        ("[{optional inner: [deep, more]}, _self_]", {"conf/export/inner/deep.yaml", "conf/export/inner/more.yaml"}),
    ],
)
def test_each_way_in_which_a_file_can_name_others(project: Path, defaults: str, found: set[str]) -> None:
    (project / "params.yaml").write_text(PARAMS)
    (project / "conf/export/inner").mkdir()
    for name in ("deep", "more"):
        (project / f"conf/export/inner/{name}.yaml").write_text("# @package export\nopset: 17\n")
    (project / "conf/export/mine.yaml").write_text(
        f"defaults: {defaults.replace('optional inner: nowhere', '{optional inner: nowhere}')}\n"
    )
    assert not composed_entries(project).errors
    assert groups(project) == {
        "conf/quantize/int8_fp16.yaml",
        "conf/quantize/int8.yaml",
        "conf/export/mine.yaml",
        "conf/model/digits.yaml",
        *found,
    }


def test_what_cannot_be_composed_has_no_files(project: Path) -> None:
    (project / "params.yaml").write_text(PARAMS)
    told = configuration(project, "e")
    assert told["files"] == {}
    assert told["entries"]["models.digits"] == {"export": {"use": "mine"}}
