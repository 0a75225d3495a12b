"""The digits' net, made hard without a change of what it computes: sensitivity names what reads the large channels, at
its line, and rescaling undoes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.nets import hardened
from examples.digits.dataset import read
from examples.digits.model import pretrained
from qntz import ort
from qntz.artifacts import npz_bytes
from qntz.builtin.thresholds import qntz_threshold_methods
from qntz.calibrate import collect
from qntz.config import QuantizeConfig
from qntz.export import export
from qntz.histograms import arrays_of
from qntz.origins import origins
from qntz.packed import packed, read_model
from qntz.quantize.auto import Judge
from qntz.quantize.prepared import Prepared, prepare
from qntz.quantize.sensitivity import costs
from qntz.statements import line_of
from qntz.torchscript import capture

ROOT = Path(__file__).parent.parent.parent
METHODS = {method.name: method for method in qntz_threshold_methods()}
TRAIN, TEST = (read(part)[0].numpy() for part in ("train", "test"))


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> dict[str, tuple[Path, dict, dict]]:
    """Easy and hard: the graph's path, its sources, and its histograms."""
    folder = tmp_path_factory.mktemp("nets")
    made = {}
    for kind in ("easy", "hard"):
        net = pretrained()
        if kind == "hard":
            hardened("conv", net)
        exported = export(capture(net, {"image": TEST[:2]}, [{"image": TEST[:3]}], method="trace"), opset=17)
        path = folder / f"{kind}.onnx"
        path.write_bytes(exported.data)
        histograms = collect(path, ({"image": TRAIN[i : i + 8]} for i in range(0, 256, 8)))
        made[kind] = path, exported.sources, histograms
    return made


def ready(net: tuple[Path, dict, dict], **config) -> tuple[Prepared, dict]:
    path, sources, histograms = net
    model = read_model(path)
    come_from = origins(model, sources)
    settings = QuantizeConfig(precision="int8", **config)
    return prepare(model, path, histograms, settings, METHODS, [{"image": TEST[:4]}], None, come_from), come_from


def sqnr(net: tuple[Path, dict, dict], **config) -> float:
    prepared, _ = ready(net, **config)
    wanted, got = (
        ort.run(ort.session(graph), {"image": TEST})["output"]
        for graph in (net[0], packed(prepared.graph()[0], "q.onnx"))
    )
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


def test_the_hard_net_computes_the_same(nets):
    easy, hard = (ort.run(ort.session(nets[kind][0]), {"image": TEST})["output"] for kind in ("easy", "hard"))
    np.testing.assert_allclose(hard, easy, atol=1e-4)


def test_what_reads_the_large_channels_is_named_first_and_at_its_line(nets):
    prepared, come_from = ready(nets["hard"], rescale=False)
    found = costs(prepared, Judge(nets["hard"][0], [({"image": TEST[:120]}, None)], None), come_from)
    worst, others = found[:3], found[3:]
    assert {cost.origin.module for cost in worst} == {f"blocks.{number}.conv2" for number in range(3)}
    assert max(cost.sqnr_db for cost in worst) + 6 < min(cost.sqnr_db for cost in others)
    source = (ROOT / "examples/digits/model.py").read_text().splitlines()
    for cost in worst:
        file, line = line_of(cost.origin.statement, ROOT)
        assert file == ROOT / "examples/digits/model.py"
        assert "self.conv2(" in source[line - 1]


@pytest.mark.parametrize("method", ["mse", "max", "percentile"])
def test_rescaling_undoes_it(nets, method):
    easy, hard = (sqnr(nets[kind], method=method) for kind in ("easy", "hard"))
    plain = sqnr(nets["hard"], method=method, rescale=False)
    assert plain < 25
    assert hard > 36
    assert hard > easy - 2


def test_the_histograms_do_not_depend_on_the_order_of_the_data(nets):
    """Those of channels and their sums among them."""
    order = np.random.default_rng(1).permutation(256)
    again = collect(nets["hard"][0], ({"image": TRAIN[order[i : i + 5]]} for i in range(0, 256, 5)), workers=3)
    assert npz_bytes(arrays_of(again)) == npz_bytes(arrays_of(nets["hard"][2]))


def test_biases_make_up_for_the_rounding(nets):
    assert sqnr(nets["easy"]) > sqnr(nets["easy"], correct_biases=False) + 0.5
    graph = packed(ready(nets["easy"])[0].graph()[0], "q.onnx").model()
    assert sum("/bias_corrected/" in tensor.name for tensor in graph.graph.initializer) == 9
    onnx.checker.check_model(graph, full_check=True)
