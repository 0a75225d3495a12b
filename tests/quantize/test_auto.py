"""`method: auto`: every method is measured on held-out samples, and the best is taken."""

from __future__ import annotations

import numpy as np
import pytest

from qntz import ort
from qntz.builtin.metrics import qntz_metrics
from qntz.calibrate import collect
from qntz.config import QuantizeConfig
from qntz.errors import QuantizeError
from qntz.quantize import quantize
from qntz.records import ThresholdMethod

ACCURACY = next(metric for metric in qntz_metrics() if metric.name == "accuracy")


def prepared(graphs, bench):
    """A small net with heavy tails, its histograms, and 40 held-out samples in two batches with the float classes."""
    import onnx

    model = graphs.mlp()
    onnx.save(model, bench.source)
    random = np.random.default_rng(2)
    data = random.standard_t(3, (300, 6)).astype(np.float32)
    histograms = collect(bench.source, [{"x": data[:260]}])
    session = ort.session(bench.source)
    batches = []
    for part in (data[260:280], data[280:]):
        batches.append(({"x": part}, ort.run(session, {"x": part})["y"].argmax(1)))
    return histograms, batches


def run(bench, histograms, batches, methods=None, **config):
    settings = QuantizeConfig(precision="int8", **{"method": "auto", **config})
    return quantize(
        bench.source,
        histograms,
        bench.target,
        settings,
        methods=methods or bench.methods,
        held_out=batches,
        metric=ACCURACY,
    )


def figures(bench, quantized, batches) -> tuple[float, float]:
    """Accuracy and SQNR, worked out by hand."""
    wanted, got = (
        np.concatenate([ort.run(ort.session(graph), inputs)["y"] for inputs, _ in batches])
        for graph in (bench.source, quantized.file)
    )
    classes = np.concatenate([target for _, target in batches])
    return float((got.argmax(1) == classes).mean()), float(
        10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum())
    )


def test_the_best_by_the_metric_and_then_by_sqnr_is_taken_and_all_are_told(graphs, bench):
    histograms, batches = prepared(graphs, bench)
    done = run(bench, histograms, batches)
    reached = {}
    for method in bench.methods:
        for correct in (False, True):
            one = run(bench, histograms, batches, method=method, correct_biases=correct)
            assert one.compared == ()
            reached[method, correct] = figures(bench, one, batches)
    told = {(row["method"], row["correct_biases"]): (row["accuracy"], row["sqnr_db"]) for row in done.compared}
    assert told.keys() == reached.keys()
    for key, values in reached.items():
        assert told[key] == pytest.approx(values, abs=1e-3)
    best = max(reached.values())
    assert figures(bench, done, batches) == pytest.approx(best, abs=1e-6)
    assert reached[done.method, bool(done.corrected)] == pytest.approx(best, abs=1e-6)
    assert len(set(reached.values())) > 1


def test_a_method_that_breaks_the_metric_is_not_taken_for_its_sqnr(graphs, bench):
    histograms, batches = prepared(graphs, bench)
    methods = {
        "good": ThresholdMethod("good", lambda histogram: histogram.amax),
        "ruin": ThresholdMethod("ruin", lambda histogram: histogram.amax * 1e6),  # everything rounds to 0
    }
    done = run(bench, histograms, batches, methods, correct_biases=False)
    assert done.method == "good"
    by_method = {row["method"]: row["accuracy"] for row in done.compared}
    assert by_method["ruin"] < by_method["good"]


def test_without_held_out_samples_and_with_options_it_is_refused(graphs, bench):
    histograms, batches = prepared(graphs, bench)
    with pytest.raises(QuantizeError) as caught:
        run(bench, histograms, ())
    assert str(caught.value) == (
        "quantize.method: no held-out samples to choose a method on. Set calibrate.held_out, or name a method."
    )
    with pytest.raises(QuantizeError, match="quantize.options: options are one method's. Name the method."):
        run(bench, histograms, batches, options={"percentile": 99})
    with pytest.raises(QuantizeError, match="no threshold method 'atuo'. Did you mean 'auto'"):
        run(bench, histograms, batches, method="atuo")
