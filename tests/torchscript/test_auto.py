"""`auto`: the first route in a fixed order that is right on the given inputs and on others made of them, as it is and as
ONNX; or a refusal that tells of each route why."""

from __future__ import annotations

import copy
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from qntz import ort
from qntz.config import DimConfig
from qntz.errors import CaptureError, ConfigError, ModelError
from qntz.export import export
from qntz.torchscript import ORDER, capture, judge, record
from qntz.torchscript.further import apart, further_inputs, resized, scaled, shapes_of, small_inputs
from tests.torchscript import routed

RNG = np.random.default_rng(0)


def positive(*shape: int) -> dict[str, np.ndarray]:
    """Inputs on which no branch of the models turns."""
    return {"x": (np.abs(RNG.standard_normal(shape)) + 0.1).astype(np.float32)}


GIVEN = [positive(2, 4), positive(3, 4), positive(5, 4)]
OTHERS = [{"x": RNG.standard_normal(shape).astype(np.float32) * 4 - 2} for shape in ((1, 4), (4, 4), (7, 4))]
"""Other signs, magnitudes and sizes than those that are given or made."""


def right_as_onnx(module: torch.nn.Module, captured, tmp_path: Path) -> None:
    export(captured, tmp_path / "model.onnx")
    session = ort.session(tmp_path / "model.onnx")
    for inputs in OTHERS:
        wanted = module(torch.from_numpy(inputs["x"])).detach().numpy()
        (got,) = ort.run(session, inputs).values()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "method", "told"),
    [
        ("Linear", "trace", ""),
        ("GateWithin", "mixed", "scripted: gate; the rest is traced"),
        ("GateAtTheTop", "mixed", "scripted: the model's own forward"),
        ("HelperWithin", "mixed", "scripted: until_small; the rest is traced"),
        ("Everywhere", "mixed", "scripted: the model's own forward"),
        ("EarlyExit", "paths", "traced in 8 ways"),
        ("Arithmetic", "paths", "traced in 1 way"),
        ("Rare", "paths", "traced in 3 ways"),
        ("Area", "dynamo", ""),
    ],
)
def test_the_first_route_that_is_right_is_taken(name: str, method: str, told: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = getattr(routed, name)()
    before = copy.deepcopy(model.state_dict())
    captured = capture(model, GIVEN[0], GIVEN[1:])
    assert captured.method == method
    assert captured.why.endswith(told or "that is right")
    assert [one.method for one in captured.tried] == list(ORDER[: ORDER.index(method)])
    assert all(one.why for one in captured.tried)
    right_as_onnx(model, captured, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert type(model) is getattr(routed, name)


def test_a_number_that_a_helper_gives_takes_the_script_of_the_whole(tmp_path: Path) -> None:
    captured = capture(routed.Scaled(), positive(2, 3), [positive(3, 4), positive(3, 6)])
    assert captured.method == "script"
    (mixed,) = (one for one in captured.tried if one.method == "mixed")
    assert "Tracer cannot set value trace for type Double" in mixed.why
    exported = export(captured)
    for length, scale in ((4, 2.0), (5, 0.5), (9, 0.5)):
        (got,) = ort.run_all(exported.data, [{"x": np.ones((2, length), np.float32)}])[0].values()
        assert (got == scale).all()


def test_what_no_route_captures_is_refused_with_the_reason_of_each() -> None:
    captured = capture(routed.Rare(), GIVEN[0], GIVEN[1:], method="trace")
    assert captured.worst.error == 0  # on those alone
    with pytest.raises(CaptureError) as error:
        capture(routed.Collatz(), GIVEN[0], GIVEN[1:])
    assert [one.method for one in error.value.tried] == list(ORDER)
    assert "there are too many ways through the model" in error.value.tried[3].why
    assert error.value.tried[4].where.endswith(" in Collatz.forward")
    assert "routed.py:" in str(error.value)
    with pytest.raises(CaptureError, match="torch.export refuses the model: GuardOnDataDependent"):
        capture(routed.Gate(), GIVEN[0], GIVEN[1:], method="dynamo")


def test_an_exported_program_is_held_to_the_sizes_that_its_guards_exclude() -> None:
    with pytest.raises(CaptureError) as error:
        capture(routed.EvenRows(), positive(2, 4), [positive(4, 4), positive(6, 4)])
    assert [one.method for one in error.value.tried] == list(ORDER)
    dims = {"rows": DimConfig(2, 2, 2)}
    shapes = {"x": ("rows", 4)}
    with pytest.raises(CaptureError, match="on made input 0 is off by"):
        capture(routed.EvenRows(), positive(2, 4), [positive(4, 4)], method="dynamo")
    captured = capture(routed.EvenRows(), positive(2, 4), [positive(2, 4)], dims=dims, shapes=shapes, method="dynamo")
    assert captured.method == "dynamo"  # where only that size comes


@pytest.mark.parametrize(
    ("name", "seconds", "why"),
    [("Crashes", 60, "the model ended the program: exit code 7"), ("Hangs", 8, "the model did not end within 8 s")],
)
def test_what_ends_or_holds_up_the_process_is_a_route_that_fails(name: str, seconds: float, why: str) -> None:
    captured = capture(getattr(routed, name)(), GIVEN[0], GIVEN[1:], seconds=seconds)
    assert captured.method == "dynamo"
    assert why in captured.tried[0].why
    if name == "Hangs":
        assert captured.tried[0].where.endswith(" in depth")


def test_the_record_tells_order_and_reasons() -> None:
    model = routed.GateWithin()
    told = record(capture(model, GIVEN[0], GIVEN[1:]), 1e-4, model)
    assert told["method"] == "mixed"
    assert told["why"] == "; ".join(
        ("the first of trace, mixed, script, paths, dynamo that is right", "scripted: gate; the rest is traced")
    )
    assert [one["method"] for one in told["tried"]] == ["trace"]
    assert told["further"] >= 4
    assert told["errors"] == [0.0, 0.0, 0.0]


def test_keyword_and_optional_inputs_and_nested_outputs() -> None:
    model, x = routed.Many(), torch.randn(3, 4)
    scale, bias = torch.tensor([2.0]), torch.randn(4)
    first = {"x": x, "bias": bias, "scale": scale}
    second = {"scale": scale * 3, "x": x[:2], "bias": bias}
    captured = capture(model, first, [second])
    assert captured.order == ("x", "bias", "scale")
    assert captured.shapes == {"x": ("x_0", 4), "bias": (4,), "scale": (1,)}
    wanted = model(x[:1], None, bias, scale=scale)["out"]
    exported = export(captured)
    graph = onnx.load_from_string(exported.data).graph
    assert [one.name for one in graph.input] == ["x", "bias", "scale"]
    assert [one.name for one in graph.output] == ["out_mean", "out_parts_0", "out_parts_1"]
    got = ort.run_all(exported.data, [{"x": x[:1].numpy(), "bias": bias.numpy(), "scale": scale.numpy()}])[0]
    np.testing.assert_allclose(got["out_mean"], wanted.mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(got["out_parts_1"], wanted.parts[1].numpy(), rtol=1e-6)


def test_a_tuple_is_in_the_order_of_forwards_parameters_and_none_is_left_out() -> None:
    class Two(torch.nn.Module):
        def forward(self, a, b=None, c=None):
            return a - (0 if b is None else b) - 2 * c

    captured = capture(Two(), (torch.ones(2, 2), None, torch.ones(2, 2)))
    assert captured.order == ("a", "c")
    (got,) = captured.golden[0].values()
    assert (got == -1).all()
    with pytest.raises(ModelError, match="input 'b' is a float"):
        capture(Two(), (torch.ones(2, 2), 3.0, torch.ones(2, 2)))
    with pytest.raises(ModelError, match="4 inputs do not fit forward"):
        capture(Two(), (1, 2, 3, 4))
    with pytest.raises(ModelError, match="probe 1 has other inputs than the example: a, not a, c. Give each"):
        capture(Two(), (torch.ones(2, 2), None, torch.ones(2, 2)), [(torch.ones(2, 2),)])
    with pytest.raises(ConfigError, match="unknown method 'traced'.*'trace'"):
        capture(Two(), torch.ones(2, 2), method="traced")


def test_a_model_in_training_mode_is_captured_in_evaluation_mode() -> None:
    model = routed.Dropped()
    captured = capture(model, GIVEN[0], GIVEN[1:])
    assert captured.training == ("", "norm", "drop")
    assert model.training
    assert model.norm.training
    wanted = copy.deepcopy(model).eval()(torch.from_numpy(GIVEN[1]["x"])).detach().numpy()
    np.testing.assert_array_equal(captured.golden[1]["output"], wanted)


def test_a_part_that_is_left_in_training_mode_is_refused_where_it_matters() -> None:
    model = routed.Dropped().eval()
    model.drop.train()
    with pytest.raises(ModelError, match="drop is in training mode in a model in evaluation mode"):
        capture(model, GIVEN[0], GIVEN[1:])
    model.drop.p = 0.0
    assert capture(model, GIVEN[0], GIVEN[1:]).training == ("drop",)


def test_sizes_that_differ_have_one_name_where_they_always_agree() -> None:
    given = [{"a": np.zeros((2, 5)), "b": np.zeros((5, 2))}, {"a": np.zeros((3, 5)), "b": np.zeros((5, 3))}]
    assert shapes_of(given, {}) == {"a": ("a_0", 5), "b": (5, "a_0")}
    assert shapes_of(given, {"n": DimConfig(1, 2, 9)}) == {"a": ("n", 5), "b": (5, "n")}
    assert shapes_of(given, {"n": DimConfig(1, 2, 2)}) == {"a": ("a_0", 5), "b": (5, "a_0")}
    sizes = [(one["a"].shape[0], one["b"].shape[1]) for one in further_inputs(given, shapes_of(given, {}), {})]
    assert (4, 4) in sizes
    assert (1, 1) in sizes
    (group,) = apart(given, shapes_of(given, {}), {})
    assert [(one["a"].shape[0], one["b"].shape[1]) for one in group] == [(4, 3), (3, 4)]
    assert not list(apart(given, {"a": ("n", 5), "b": (5, "n")}, {"n": DimConfig(1, 2, 9)}))  # it was said
    sizes = [
        (one["a"].shape[0], one["b"].shape[1])
        for one in further_inputs(given, {"a": ("n", 5), "b": (5, "n")}, {"n": DimConfig(2, 2, 3)})
    ]
    assert set(sizes) == {(2, 2), (3, 3)}


class Annealed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x / self.calls


class FirstMean(torch.nn.Module):
    """Keeps the mean of the first inputs, with which it gives the same for the same inputs from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = None

    def forward(self, x):
        if self.mean is None:
            self.mean = x.mean()
        return x - self.mean


class Buffered(torch.nn.Module):
    """A sum in a buffer, which each run replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.total = self.total + x.sum()
        return x + self.total


class Counting(torch.nn.Module):
    """Keeps what its outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, None

    def forward(self, x):
        self.calls += 1
        self.last = x.sum(1)
        return x * self.last[:, None]


@pytest.mark.parametrize(("model", "name"), [(Annealed(), "calls"), (FirstMean(), "mean"), (Buffered(), "total")])
def test_a_model_that_remembers_its_inputs_is_refused(model: torch.nn.Module, name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name}: the model remembers earlier inputs"):
        capture(model, GIVEN[0], GIVEN[1:])


def test_what_a_model_keeps_and_does_not_use_again_is_no_memory() -> None:
    captured = capture(Counting(), {"x": torch.ones(3, 2)}, [{"x": torch.ones(5, 2)}])
    assert captured.module(torch.tensor([[1.0, 2], [3, 4]])).tolist() == [[3, 6], [21, 28]]


class Masking(torch.nn.Module):
    """Looks at its mask where that masks something, or a trace is recorded, as models of transformers do."""

    def forward(self, x, mask):
        if not torch.jit.is_tracing() and bool(mask.all()):
            return x * 2
        return x * 2 * mask


def test_sizes_that_agree_need_not_be_taken_apart_where_the_model_did_not_look_at_one() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    given = [{"x": x, "mask": torch.ones(3, 4) > 0}, {"x": x[:2] + 1, "mask": torch.ones(2, 4) > 0}]
    captured = capture(Masking(), given[0], given[1:])
    assert captured.method == "trace"
    half = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 1]]) > 0
    assert torch.equal(captured.module(x, half), x * 2 * half)


class Added(torch.nn.Module):
    """Takes sizes of its inputs that differ, which its trace does not: that repeats what was the same."""

    def forward(self, a, b):
        return torch.stack([row * b.sum() for row in a]) + b.mean()


def test_sizes_that_agree_by_chance_are_taken_apart() -> None:
    a, b = torch.ones(3, 2), torch.arange(3.0)
    captured = capture(Added(), {"a": a, "b": b}, [{"a": a[:2], "b": b[:2] + 1}])
    assert captured.method != "trace"
    got = captured.module(torch.ones(5, 2), torch.ones(4))
    assert torch.equal(got, torch.full((5, 2), 5.0))


def test_of_a_large_model_the_made_inputs_are_small() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 1
    given = [{"x": x}, {"x": np.concatenate([x, x])[:3, :2]}]
    first, *others = small_inputs(given, {"x": ("n", "m", 4)}, {"n": DimConfig(1, 2, 9), "m": DimConfig(2, 3, 5)})
    turned = -np.flip(x)[:1]  # 1 and 4 are the least that are new
    np.testing.assert_array_equal(first["x"], np.concatenate([turned, turned[:, :1] * np.float32(0.875)], 1))
    assert [one["x"].shape for one in others] == [(1, 3, 4), (2, 4, 4)]


def test_made_inputs() -> None:
    given = {"x": np.array([[1, 2, 3]], np.float32), "ids": np.array([4, 5])}
    made = scaled(given, -2.0)
    np.testing.assert_array_equal(made["x"], [[-6, -4, -2]])
    np.testing.assert_array_equal(made["ids"], [5, 4])
    np.testing.assert_array_equal(resized(given, [("x", 1)], 5)["x"], [[1, 2, 3, 0.875, 1.75]])
    np.testing.assert_array_equal(resized(given, [("x", 1)], 2)["x"], [[1, 2]])


class Endless(nn.Module):
    """Ends for what is positive alone."""

    def forward(self, x: Tensor) -> Tensor:
        while float(x.sum()) <= 0:
            x = x * 1.0
        return x * 2


def test_a_model_that_does_not_end_on_what_is_made_of_its_inputs_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(judge, "LONGEST", 0.5)
    started = time.monotonic()
    captured = capture(Endless(), (torch.rand(2, 3) + 0.1,), [(torch.rand(4, 3) + 0.1,)])
    assert captured.method in ORDER
    assert time.monotonic() - started < 60
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
