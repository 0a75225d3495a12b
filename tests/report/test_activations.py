"""Histograms and thresholds: what is read of them, and what is drawn, against numpy and against figures by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz.artifacts import ModelPaths, read_json, write_json, write_npz
from qntz.builtin.thresholds import qntz_threshold_methods
from qntz.calibrate import collect
from qntz.config import QuantizeConfig, ReportConfig
from qntz.errors import ArtifactError
from qntz.histograms import arrays_of
from qntz.quantize import quantize, ranges_json
from qntz.report import gather, render_html
from qntz.report.activations import Activation, edges, read_activations, worst_first
from qntz.report.histogram_charts import activations, histogram_chart
from tests.report.conftest import calibrated, engine_records, model_records
from tests.report.reading import Page

QUARTERS = np.concatenate([2.0**power * np.array([1, 1.25, 1.5, 1.75]) for power in range(-30, 30)])


def binned(values: np.ndarray) -> list[int]:
    return np.histogram(np.abs(values), QUARTERS)[0].tolist()


def within(one: Activation) -> list[int]:
    """The counts of the bars that `binned` counts."""
    first = int(np.flatnonzero(edges() == QUARTERS[0])[0])
    return one.counts[first : first + len(QUARTERS) - 1].tolist()


def figures(**changed) -> Activation:
    """900 ones, 90 threes and 10 zeros, the threshold at 2."""
    counts = np.zeros(1024, dtype=np.int64)
    counts[[0, np.flatnonzero(edges() == 1)[0], np.flatnonzero(edges() == 3)[0]]] = 10, 900, 90
    return Activation(**{"tensor": "t", "amax": 2.0, "largest": 3.0, "counts": counts, "beyond": 90, **changed})


def test_the_bars_hold_what_numpy_counts(paths: ModelPaths):
    values = np.random.default_rng(0).normal(0, 3, 5000).astype(np.float32)
    engine = paths.engine("digits-int8")
    calibrated(engine, {"a": values, "unread": values}, {"a": 4.0})
    found = read_activations(paths, {"digits-int8": {"calibrated": True}, "digits-fp16": {"calibrated": False}})
    (one,) = found.pop("digits-int8")
    assert found == {}
    assert within(one) == binned(values)
    assert sum(within(one)) == one.counted == 5000
    assert (one.tensor, one.amax, one.largest) == ("a", 4.0, float(np.abs(values).max()))
    near = np.count_nonzero((np.abs(values) > 4 / 1.008) & (np.abs(values) < 4 * 1.008))  # a bin around the threshold
    assert abs(one.beyond - np.count_nonzero(np.abs(values) > 4)) <= near
    assert one.beyond > 500


class Mlp:
    """Gemm, Relu, MatMul; two of the four inner channels are 64 times as large, and read with a 64th of the weight. All
    numbers are whole, times powers of two, so that float32 rounds nothing."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.x = rng.integers(-8, 9, (300, 6)).astype(np.float32)
        sizes = np.float32([1, 64, 1, 64])
        self.first = rng.integers(-5, 6, (6, 4)).astype(np.float32) * sizes
        self.second = rng.integers(-5, 6, (4, 3)).astype(np.float32) / sizes[:, None]

    def saved(self, path: Path) -> Path:
        nodes = [
            helper.make_node("Gemm", ["x", "first"], ["h"], "one"),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("MatMul", ["r", "second"], ["y"], "two"),
        ]
        ends = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])] for name, size in (("x", 6), ("y", 3))
        )
        held = [numpy_helper.from_array(self.first, "first"), numpy_helper.from_array(self.second, "second")]
        model = helper.make_model(
            helper.make_graph(nodes, "g", *ends, held), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path

    def quantized(self, paths: ModelPaths, engine: str):
        """Calibrates and quantizes for real, and writes what the report reads of it."""
        simplified = self.saved(paths.simplified)
        histograms = collect(simplified, [{"x": self.x}], workers=1)
        methods = {method.name: method for method in qntz_threshold_methods()}
        done = quantize(simplified, histograms, None, QuantizeConfig(precision="int8"), methods=methods)
        write_npz(paths.histograms, arrays_of(histograms))
        engine_records(paths.engine(engine), quantize=done.as_dict())
        write_json(paths.engine(engine).ranges, ranges_json(done))
        return done


def test_a_rescaled_tensor_is_drawn_as_it_was_rescaled(paths: ModelPaths):
    mlp = Mlp()
    done = mlp.quantized(paths, "digits-int8")
    exponents = np.array(done.rescaled["one"])
    assert exponents[[1, 3]].min() > exponents[[0, 2]].max()
    found = {one.tensor: one for one in read_activations(paths, {"digits-int8": done.as_dict()})["digits-int8"]}
    assert found.keys() == {"x", "r"}
    assert within(found["x"]) == binned(mlp.x)
    assert found["x"].exponents is None
    raw = np.maximum(mlp.x @ mlp.first, 0)
    evened = raw / 2.0**exponents
    assert within(found["r"]) == binned(evened)
    assert within(found["r"]) != binned(raw)
    assert found["r"].largest == evened.max()
    assert found["r"].exponents == (exponents.min(), exponents.max())
    assert found["r"].amax == done.ranges["r"]
    assert found["r"].kept_db == done.layers["two"]["input_db"]


def test_records_that_do_not_belong_together_are_refused(paths: ModelPaths):
    done = Mlp().quantized(paths, "digits-int8")
    told = done.as_dict()
    other = {**told, "rescaled": {"elsewhere": [1, 2]}}
    with pytest.raises(
        ArtifactError, match=r"simplified.onnx has no such channels: 'elsewhere'. Run `dvc repro quantize@"
    ):
        read_activations(paths, {"digits-int8": other})
    ranges = read_json(paths.engine("digits-int8").ranges)
    ranges["tensors"]["gone"] = {"amax": 1.0, "scale": 1 / 127}
    write_json(paths.engine("digits-int8").ranges, ranges)
    with pytest.raises(
        ArtifactError, match="was quantized from another graph or other histograms: histograms.npz has no 'gone'"
    ):
        read_activations(paths, {"digits-int8": told})
    write_json(paths.engine("digits-int8").ranges, {"tensors": {"x": 1}})
    with pytest.raises(ArtifactError, match="ranges.json: is no record of ranges"):
        read_activations(paths, {"digits-int8": told})


def test_the_bars_stand_where_they_were_worked_out_by_hand():
    # The axis: 12 octaves up to 4, from x = 66 to 282, 18 an octave; shares from y = 130 (1e-3) up to 8 (1)
    drawn = ET.fromstring(histogram_chart(figures(), "k"))
    (bars,) = [one for one in drawn.iter("path") if one.get("class") == "bars"]
    found = [[float(n) for n in re.findall(r"[\d.]+", bar)] for bar in re.findall(r"M[^M]+", bars.get("d", ""))]
    across = {value: 66 + 18 * (10 + np.log2(value)) for value in (1, 1.25, 2, 3, 3.5)}
    up = {share: 8 - 122 * np.log10(share) / 3 for share in (0.9, 0.09, 0.01)}
    assert found == [
        pytest.approx([46, 130, up[0.01], 58, 130], abs=0.06),
        pytest.approx([across[1], 130, up[0.9], across[1.25], 130], abs=0.06),
        pytest.approx([across[3], 130, up[0.09], across[3.5], 130], abs=0.06),
    ]
    (limit,) = [one for one in drawn.iter("line") if one.get("class") == "limit"]
    assert float(limit.get("x1", "")) == float(limit.get("x2", "")) == across[2] == 264
    (ground,) = [one for one in drawn.iter("rect") if one.get("class") == "beyond"]
    assert (ground.get("x"), ground.get("width")) == ("264", "18")
    ticks = [one.text for one in drawn.iter("text") if one.get("class") == "tick"]
    assert ticks == ["1e-3", "1e-2", "1e-1", "1", "~0", "0.01", "0.1", "1"]  # 0.001 would run into ~0


def test_the_chart_says_what_it_shows():
    drawn = ET.fromstring(histogram_chart(figures(kept_db=31.25, exponents=(-1, 3)), "k"))
    said = "threshold 2, largest 3, 9 % clipped, keeps 31.2 dB, after its channels were divided by 0.5 to 8"
    assert [one.text for one in drawn[:2]] == [
        "t: histogram and threshold",
        said.replace(" %", "\xa0%").replace(" dB", "\xa0dB"),
    ]
    assert drawn.get("aria-labelledby") == "k-title k-desc"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "9 %"),
        ({"beyond": 0, "amax": 3.0}, "none"),
        ({"beyond": 0, "amax": 2.9}, "less than 1 in 1,000"),  # the largest was seen, and not counted
    ],
)
def test_the_share_that_is_clipped(changed, said):
    assert activations("e", "k", [figures(**changed)], 5).table.rows[0][3].text == said


def test_a_threshold_far_below_and_far_above_stays_in_the_picture():
    for amax in (1e-9, 1e9):
        drawn = ET.fromstring(histogram_chart(figures(amax=amax), "k"))
        places = [float(one.get(key, "0")) for one in drawn.iter() for key in ("x", "x1", "x2")]
        assert 0 <= min(places) <= max(places) <= 290


def test_those_that_keep_least_come_first():
    given = [
        figures(tensor="quiet"),
        figures(tensor="good", kept_db=40.0),
        figures(tensor="bad", kept_db=20.0, beyond=1),
        figures(tensor="worse", kept_db=20.0, beyond=90),
    ]
    assert [one.tensor for one in worst_first(given)] == ["worse", "bad", "good", "quiet"]


def shown(paths: ModelPaths, layers: int = 20) -> Page:
    return Page(render_html(gather(paths, ["digits-int8"]), [], ReportConfig(layers=layers)))


def test_the_page_draws_some_and_tells_how_many_more(paths: ModelPaths):
    model_records(paths)
    seen = {f"t{place:02}": np.float32([0, 1, place + 1]) for place in range(12)}
    kept = {f"n{place}": {"inputs_db": {f"t{place:02}": 50.0 - place}} for place in range(12)}
    engine_records(paths.engine("digits-int8"), quantize={"calibrated": True, "precision": "int8", "layers": kept})
    calibrated(paths.engine("digits-int8"), seen, dict.fromkeys(seen, 2.0))
    page = shown(paths, layers=3)
    assert [tag for name, tag in page.tags if name == "svg" and tag.get("class") == "chart small"].__len__() == 8
    assert "12 tensors, 10 of them clipped. Drawn are the 8 that keep least." in page.text
    table = page.tables["digits-int8: 3 of the 12 thresholds, what keeps least first"]
    assert table == [
        ["Tensor", "Threshold", "Largest seen", "Clipped", "Keeps", "Channels divided by"],
        ["t11", "2", "12", "33 %", "39.0 dB", "not divided"],
        ["t10", "2", "11", "33 %", "40.0 dB", "not divided"],
        ["t09", "2", "10", "33 %", "41.0 dB", "not divided"],
    ]


def test_without_a_calibrated_engine_there_is_no_section(paths: ModelPaths):
    model_records(paths)
    engine_records(paths.engine("digits-int8"), quantize={"precision": "fp16", "calibrated": False})
    assert "Activations" not in shown(paths).text


def test_weights_alone_have_no_section_either(paths: ModelPaths):
    model_records(paths)
    engine_records(paths.engine("digits-int8"), quantize={"precision": "int4", "calibrated": True})
    assert "Activations" not in shown(paths).text
