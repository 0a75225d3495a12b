"""`qntz sensitivity`, as a user types it after `dvc repro`."""

from __future__ import annotations

import json
import re

import yaml

from tests.pipeline.conftest import Project


def test_layers_are_listed_with_their_lines_and_a_list_to_exclude_is_written(small: Project) -> None:
    done = small.run("qntz", "sensitivity", "digits-int8", "--budget", "45dB")
    assert done.returncode == 0, done.stderr
    title, head, *rows = done.stdout.splitlines()
    assert title == "each layer quantized alone:"
    assert head.split() == ["SQNR", "accuracy", "share", "of", "the", "noise", "layer", "module", "source"]
    layers = [row for row in rows if (" dB " in row and "█" in row) or re.match(r"\s*\d+\.\d dB", row)]
    assert len(layers) == 9
    decibels = [float(row.split()[0]) for row in layers]
    assert decibels == sorted(decibels)
    (stem,) = [row for row in layers if "/stem/0/Conv" in row]
    assert "stem.0" in stem
    line = int(re.search(r"examples/digits/model.py:(\d+) in DigitsNet.forward", stem)[1])
    source = (small.path / "examples/digits/model.py").read_text().splitlines()
    assert "self.stem(image)" in source[line - 1]
    excluded = yaml.safe_load((small.path / "build/sensitivity/digits-int8.yaml").read_text())["exclude"]
    assert f"  exclude: {json.dumps(excluded)}" == rows[-1]
    assert 0 < len(excluded) < 9

    # The list goes into the configuration as it is, and keeps what it promises.
    before = (small.path / "params.yaml").read_text()
    held = {"model": "digits", "quantize": {"use": "int8", "exclude": excluded}}
    try:
        small.params(yaml.safe_dump({"models": {"digits": {}}, "engines": {"digits-int8": held}}))
        assert "quantize@digits-int8" in small.repro("quantize@digits-int8")
        told = json.loads((small.path / "build/models/digits/engines/digits-int8/quantize.json").read_text())
        assert set(told["skipped"]) == set(excluded)
        assert told["figures"]["sqnr_db"] >= 45
    finally:
        small.params(before)
        small.repro()


def test_a_second_run_measures_nothing_again_and_a_change_does(small: Project) -> None:
    small.run("qntz", "sensitivity", "digits-int8")
    journal = small.path / "build/sensitivity/digits-int8.json"
    held = json.loads(journal.read_text())
    assert len(held["layers"]) == 9
    held["layers"]["/head/Gemm"]["sqnr_db"] = 3.25  # were it measured again, this would be gone
    journal.write_text(json.dumps(held))
    again = small.run("qntz", "sensitivity", "digits-int8")
    assert again.stdout.splitlines()[2].startswith(" 3.2 dB"), again.stdout
    other = small.run("qntz", "sensitivity", "digits-int8", "--samples", "20")
    assert "3.2 dB" not in other.stdout
    assert len(json.loads(journal.read_text())["layers"]) == 9


def test_refusals(small: Project) -> None:
    for arguments, message in (
        (("digits-in8",), "error: sensitivity: params.yaml: no engine 'digits-in8'. Did you mean 'digits-int8'?\n"),
        (
            ("digits-int8", "--budget", "much"),
            "error: sensitivity: --budget: 'much' is no budget. Give the metric's largest drop, 0.5%, or the least"
            " SQNR, 35dB.\n",
        ),
        (
            ("digits-int8", "--samples", "-1"),
            "error: sensitivity: --samples: -1 is no number of samples. Give 1 or more.\n",
        ),
    ):
        done = small.run("qntz", "sensitivity", *arguments)
        assert (done.returncode != 0, done.stdout, done.stderr) == (True, "", message)
