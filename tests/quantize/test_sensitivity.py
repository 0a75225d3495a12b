"""What each layer costs, against graphs in which the others are excluded; and which to leave out for a budget."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qntz import ort
from qntz.builtin.metrics import qntz_metrics
from qntz.calibrate import collect
from qntz.config import QuantizeConfig
from qntz.errors import QntzError, UsageError
from qntz.origins import Origin
from qntz.packed import packed, read_model
from qntz.quantize import quantize
from qntz.quantize.auto import Judge
from qntz.quantize.prepared import Prepared, prepare
from qntz.quantize.sensitivity import Budget, costs, fewest_excluded

ACCURACY = next(metric for metric in qntz_metrics() if metric.name == "accuracy")
LAYERS = ("one", "two", "three", "four")


def chain(graphs) -> onnx.ModelProto:
    """Four products with Tanh between them; the third reads a channel that is 60 times as large as the others."""
    scale = np.array([1, 60, 1, 1, 1, 1], np.float32)
    nodes = []
    tensor = "x"
    for name in LAYERS:
        nodes.append(("MatMul", [tensor, f"w_{name}"], [f"m_{name}"], name, {}))
        tensor = f"m_{name}"
        if name != "four":
            nodes.append(("Tanh", [tensor], [f"t_{name}"], f"tanh_{name}", {}))
            tensor = f"t_{name}"
        if name == "two":
            nodes.append(("Mul", [tensor, "scale"], ["large"], "large", {}))
            tensor = "large"
    weights = {f"w_{name}": graphs.weight(6, 6, scale=0.6) for name in LAYERS}
    weights["w_three"] /= scale[:, None]
    return graphs.model(nodes, {**weights, "scale": scale}, {"x": ["n", 6]}, {tensor: ["n", 6]})


@pytest.fixture
def ready(graphs, bench) -> tuple[Prepared, Judge, dict, list]:
    model = chain(graphs)
    onnx.save(model, bench.source)
    data = graphs.weight(200, 6, scale=1)
    histograms = collect(bench.source, [{"x": data[:120]}])
    held = [{"x": data[120:150]}, {"x": data[150:]}]
    session = ort.session(bench.source)
    batches = [(one, ort.run(session, one)["m_four"].argmax(1)) for one in held]
    config = QuantizeConfig(precision="int8", rescale=False)
    prepared = prepare(read_model(bench.source), bench.source, histograms, config, bench.methods, (), None, {})
    return prepared, Judge(bench.source, batches, ACCURACY), histograms, batches


def by_hand(bench, histograms, batches, exclude) -> tuple[float, float]:
    """SQNR and accuracy of what `quantize` makes with these layers excluded."""
    config = QuantizeConfig(precision="int8", rescale=False, exclude=list(exclude))
    done = quantize(bench.source, histograms, None, config, methods=bench.methods)
    wanted, got = (
        np.concatenate([ort.run(ort.session(graph), inputs)["m_four"] for inputs, _ in batches])
        for graph in (bench.source, done.file)
    )
    classes = np.concatenate([target for _, target in batches])
    decibels = 10 * np.log10((wanted.astype(np.float64) ** 2).sum() / ((got - wanted).astype(np.float64) ** 2).sum())
    return float(decibels), float((got.argmax(1) == classes).mean())


def test_each_layer_costs_what_it_costs_alone(bench, ready):
    prepared, judge, histograms, batches = ready
    found = costs(prepared, judge, {"three": Origin("body.third", "net.py:Net.forward:2")})
    assert {cost.node for cost in found} == set(LAYERS)
    assert found[0].node == "three"  # where the large channel is read
    assert found[0].origin.module == "body.third"
    for cost in found:
        alone = by_hand(bench, histograms, batches, set(LAYERS) - {cost.node})
        assert (cost.sqnr_db, cost.score) == pytest.approx(alone, abs=1e-3)
    assert [cost.sqnr_db for cost in found] == sorted(cost.sqnr_db for cost in found)
    assert judge.unquantized == 1.0


def test_what_is_known_is_not_measured_again_and_what_is_measured_is_saved(ready):
    prepared, judge, _, _ = ready
    saved: dict = {}

    class Stop:
        def step(self, phase: str, done: int, total: int) -> bool:
            return done < 2

    with pytest.raises(QntzError, match="^sensitivity: stopped on request"):
        costs(prepared, judge, {}, save=saved.__setitem__, progress=Stop())
    assert list(saved) == ["one", "two"]
    whole = costs(prepared, judge, {})
    marked = {**saved, "one": {"sqnr_db": 1.5, "accuracy": 0.25}}
    again: dict = {}
    found = costs(prepared, judge, {}, known=marked, save=again.__setitem__)
    assert list(again) == ["three", "four"]
    assert (found[0].node, found[0].sqnr_db, found[0].score) == ("one", 1.5, 0.25)
    assert [cost for cost in found if cost.node != "one"] == [cost for cost in whole if cost.node != "one"]


@pytest.mark.parametrize("budget", ["20dB", "30dB", "38dB", "45dB", "90dB", "0.5%", "0"])
def test_the_excluded_are_enough_and_each_of_them_is_needed(bench, ready, budget):
    prepared, judge, histograms, batches = ready
    wanted = Budget.of(budget)
    found = costs(prepared, judge, {})
    excluded, figures = fewest_excluded(prepared, judge, found, wanted)

    def holds(exclude) -> bool:
        if set(exclude) == set(LAYERS):
            return True  # nothing is quantized
        decibels, accuracy = by_hand(bench, histograms, batches, exclude)
        return decibels >= wanted.sqnr_db if wanted.sqnr_db is not None else 1 - accuracy <= wanted.drop + 1e-9

    assert holds(excluded)
    assert not any(holds([one for one in excluded if one != name]) for name in excluded)
    if set(excluded) != set(LAYERS):
        decibels, accuracy = by_hand(bench, histograms, batches, excluded)
        assert (figures["sqnr_db"], figures["accuracy"]) == pytest.approx((decibels, accuracy), abs=1e-3)


def test_the_layer_with_the_large_channel_goes_first(ready):
    prepared, judge, _, _ = ready
    found = costs(prepared, judge, {})
    whole = judge.figures(packed(prepared.graph()[0], "all.onnx"))["sqnr_db"]
    excluded, figures = fewest_excluded(prepared, judge, found, Budget(sqnr_db=whole + 3))
    assert excluded == ["three"]
    assert figures["sqnr_db"] > whole + 3


@pytest.mark.parametrize(("text", "budget"), [("0.5%", (0.005, None)), ("0.02", (0.02, None)), ("35 dB", (None, 35.0))])
def test_budgets_are_read(text, budget):
    found = Budget.of(text)
    assert (found.drop, found.sqnr_db) == (pytest.approx(budget[0]), budget[1])


@pytest.mark.parametrize("text", ["", "half", "-1%", "nan", "5 apples"])
def test_other_budgets_are_refused(text):
    with pytest.raises(
        UsageError, match="is no budget. Give the metric's largest drop, 0.5%, or the least SQNR, 35dB."
    ):
        Budget.of(text)


def test_a_budget_of_a_metric_asks_for_one(bench, ready):
    prepared, _, _, batches = ready
    judge = Judge(bench.source, [(inputs, None) for inputs, _ in batches], ACCURACY)
    found = costs(prepared, judge, {})
    assert found[0].score is None
    with pytest.raises(UsageError, match="the model has no metric, or its samples no target. Give the least SQNR"):
        fewest_excluded(prepared, judge, found, Budget.of("1%"))
