"""Legal models of unusual make: the check neither fails on them, nor leaves them changed, nor tells tales of them."""

from __future__ import annotations

import collections
import dataclasses
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qntz.check import check_model
from qntz.errors import ModelError

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Registers(nn.Module):
    def forward(self, x):
        self.register_buffer("mask", torch.ones_like(x))
        return x * self.mask


class Expanded(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("pos", torch.arange(4.0).expand(2, -1))

    def forward(self, x):
        return x + self.pos


class Fuses(nn.Module):
    """As RepVGG does on its first call."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        if hasattr(self, "a"):
            x = self.a(x)
            del self.a
        return self.b(x)


class Fills(nn.Module):
    def forward(self, x, cache):
        cache["k"] = x
        return x + 1


class PropertyForward(nn.Module):
    @property
    def forward(self):
        return torch.relu


class Slots:
    __slots__ = ("size",)

    def __init__(self):
        self.size = 3

    def __getattr__(self, name):
        raise KeyError(name)


class HoldsSlots(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Slots()

    def forward(self, x):
        return x * self.config.size


class Nested(nn.Module):
    """State in nested containers, arrays and generators of its own."""

    def __init__(self):
        super().__init__()
        self.state = {"calls": [0], "seen": collections.OrderedDict(last=torch.zeros(1)), "array": np.zeros(1)}
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        self.state["calls"][0] += 1
        self.state["seen"]["last"].add_(1)
        self.state["array"] += 1
        return x + torch.rand(1, generator=self.generator) * 0


class CsrBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("adjacent", torch.eye(4).to_sparse_csr())

    def forward(self, x):
        return (self.adjacent @ x.T).T


class SparseOutput(nn.Module):
    def forward(self, x):
        return x.to_sparse()


class BufferOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(2, 4))

    def forward(self, x):
        self.kept.copy_(x)
        return self.kept


class SelfReferring(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"scale": 2.0}
        self.config["self"] = self.config

    def forward(self, x):
        return x * 2


class NoTensors(nn.Module):
    def forward(self, n: int):
        return torch.arange(n)


CLEAN = {
    "expanded": (Expanded, (X,)),
    "fills": (Fills, (X, {})),
    "property": (PropertyForward, (X,)),
    "slots": (HoldsSlots, (X,)),
    "csr": (CsrBuffer, (X,)),
    "buffer-output": (BufferOutput, (X,)),
    "self-referring": (SelfReferring, (X,)),
    "no-tensors": (NoTensors, (5,)),
}


@pytest.mark.parametrize("name", CLEAN)
def test_an_odd_model_is_checked(name):
    make, inputs = CLEAN[name]
    report = check_model(make().eval(), inputs)
    assert [f"{f.slug}: {f.message}" for f in report.errors] == []


def test_what_a_run_adds_or_takes_away_is_put_back():
    registers, fuses = Registers().eval(), Fuses().eval()
    check_model(registers, (X,))
    assert dict(registers.named_buffers()) == {}
    changed = {f.message for f in check_model(fuses, (X,)).errors if f.slug == "captured-constant"}
    assert changed == {"a run changes a, which outlives it; outputs depend on what ran before"}
    assert [name for name, _ in fuses.named_children()] == ["a", "b"]


def test_state_in_containers_and_generators_is_put_back():
    model = Nested().eval()
    drawn = torch.Generator().manual_seed(3).get_state()
    check_model(model, (X,))
    assert model.state["calls"] == [0]
    assert model.state["seen"]["last"].item() == 0
    assert model.state["array"].item() == 0
    assert torch.equal(model.generator.get_state(), drawn)


def test_outputs_that_are_no_dense_tensors_are_compared():
    """The sparse tensors of both modes; where they are told apart, a trace that is right is no error."""
    report = check_model(SparseOutput().eval(), (X,), [(X * 2,)])
    assert [f.slug for f in report.errors if f.slug == "trace-differs"] == []


def test_inputs_of_other_kinds_are_not_written_into():
    class Writes(nn.Module):
        def forward(self, given):
            given["x"].add_(7)
            return given["x"] * 1

    mine = torch.zeros(2, 4)
    check_model(Writes().eval(), (types.MappingProxyType({"x": mine}),))
    assert mine.sum() == 0
    held = collections.UserDict({"x": mine})
    check_model(Writes().eval(), (held,))
    assert mine.sum() == 0


def test_inputs_are_bound_by_name_where_forward_has_the_names():
    class Divides(nn.Module):
        def forward(self, over, under):
            if under.min() < 1:
                raise ValueError("the inputs were swapped")
            return over / under

    given = {"under": torch.full((2, 4), 2.0), "over": torch.zeros(2, 4)}
    assert check_model(Divides().eval(), given).failure == ""
    with pytest.raises(ModelError, match=r"inputs over do not fit forward\(over, under\)"):
        check_model(Divides().eval(), {"over": X})


def test_whole_numbers_are_compared_exactly():
    class Token(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return torch.tensor([30000]) + x.shape[0]
            return torch.tensor([29998]) + x.shape[0]

    report = check_model(Token().eval(), (X + 1,), [(X - 1,)])
    found = [(f.slug, f.severity) for f in report.findings if f.slug == "data-dependent-control-flow"]
    assert found == [("data-dependent-control-flow", "error")]


def test_a_dataclass_among_the_outputs_is_compared():
    @dataclasses.dataclass
    class Output:
        score: torch.Tensor

    class Branches(nn.Module):
        def forward(self, x):
            return Output(x if x.sum() > 0 else -x)

    report = check_model(Branches().eval(), (X + 1,), [(X - 1,)])
    assert "data-dependent-control-flow" in {f.slug for f in report.errors}


@pytest.mark.parametrize("kind", ["dropout", "noise", "rrelu"])
def test_a_model_left_in_training_mode_is_an_error_whatever_draws(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rrelu = nn.RReLU()

        def forward(self, x):
            if kind == "dropout":
                return F.dropout(x, 0.5, self.training)
            if kind == "rrelu":
                return self.rrelu(x)
            return x + torch.randn_like(x) if self.training else x

    assert "training-mode" not in {f.slug for f in check_model(Net().eval(), (X,)).findings}
    assert {f.slug for f in check_model(Net().train(), (X,)).errors} >= {"training-mode"}


def test_a_model_that_only_runs_in_training_mode_is_told_so():
    class Trains(nn.Module):
        def forward(self, x):
            if not self.training:
                raise RuntimeError("no inference yet")
            return F.dropout(x)

    assert "training-mode" in {f.slug for f in check_model(Trains().train(), (X,)).errors}


def test_what_torch_refuses_to_trace_in_a_module_is_an_error():
    class Shares(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(4))
            self.b = self.a

        def forward(self, x):
            return x * self.a * self.b

    module = Shares().eval()
    with pytest.raises(ValueError, match="parameter sharing"):
        torch.jit.trace(module, X)
    assert [f.slug for f in check_model(module, (X,)).errors] == ["trace-differs"]


def test_a_compiled_part_is_refused_as_torch_refuses_it():
    module = nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager")).eval()
    report = check_model(module, (X,))
    assert [f.slug for f in report.errors] == ["trace-differs"]
    assert "dynamo-optimized" in report.errors[0].message


def test_a_model_without_all_its_weights_is_refused():
    with pytest.raises(ModelError, match="the parameter has no shape before the first run"):
        check_model(nn.Sequential(nn.LazyLinear(3)).eval(), (X,))


def test_it_works_within_inference_mode():
    with torch.inference_mode():
        assert check_model(nn.Linear(4, 4).eval(), (X * 2,)).failure == ""


def test_deeply_nested_source_is_read(tmp_path, monkeypatch):
    source = "class Net(nn.Module):\n    def forward(self, x):\n        n = x.max().item()\n        return x + ("
    text = "from torch import nn\n\n\n" + source + " + ".join(["n"] * 1500) + ")\n"
    (tmp_path / "deep_net.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import deep_net

    report = check_model(deep_net.Net().eval(), (X,), [(X * 3,)], source_root=tmp_path)
    assert ("captured-constant", 6) in {(f.slug, f.line) for f in report.errors}
