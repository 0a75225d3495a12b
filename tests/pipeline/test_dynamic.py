"""Dynamic shapes from end to end: what the engine is built for is what it, or its graph, is verified at."""

from __future__ import annotations

import csv
import json

from qntz.artifacts import read_runs
from tests.pipeline.conftest import Project


def test_built_and_verified_at_the_smallest_the_usual_and_the_largest_size(small: Project) -> None:
    folder = small.path / "build/models/digits/engines/digits-int8"
    (image,) = json.loads((folder / "engine.json").read_text())["inputs"]
    ends = [image[which] for which in ("min", "opt", "max")]
    assert [shape[0] for shape in ends] == [1, 8, 64]  # conf/model/digits.yaml
    ran = [list(probe["image"].shape) for probe in read_runs(small.path / "build/models/digits/probes.npz")]
    assert all(shape in ran for shape in ends)
    rows = list(csv.DictReader((folder / "probes.csv").read_text().splitlines()))
    verified = {int(row["probe"]): row for row in rows}
    assert [row["shape"] for row in rows] == [f"{shape[0]}x10" for shape in ran]
    for shape in ends:
        assert float(verified[ran.index(shape)]["sqnr_db"]) > 20
