"""TorchScript to ONNX: right at other sizes than the example's, or refused with the operator."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from qntz import ort
from qntz.errors import ConfigError, ExportError, ParityError, PluginError, RewriteError
from qntz.export import Exported, deferred, export, torchscript
from qntz.export.deferred import put_back, without_weights
from qntz.export.names import dynamic_axes
from qntz.model import load_torchscript, run_model
from qntz.records import Capture, GraphPass, Provided, Symbolic
from qntz.torchscript import archive_bytes, capture

SHAPES = {"x": ("batch", "length")}
RNG = np.random.default_rng(3)
PROBES = [{"x": RNG.standard_normal(shape).astype(np.float32)} for shape in ((2, 3), (5, 4), (1, 7))]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x.unsqueeze(1)), x.sum(1)


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.abs().max() > 1):
            x = x * 0.5
        if bool(x.sum() > 0):
            x = x + 1.0
        return x


class Fft(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).real


class NoNan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.entr(x.abs() + 0.5)


def exported_from(module: torch.jit.ScriptModule, probes: list, outputs: list, **options: Any) -> Exported:
    """At opset 17, and with none but the given translations and passes."""
    given = {"opset": 17, "symbolics": (), "passes": (), **options}
    return export(Capture(module=module, shapes=SHAPES, probes=probes, golden=outputs), **given)


def traced(module: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(module.eval(), (torch.from_numpy(PROBES[0]["x"]),))


def golden(module: nn.Module, probes: list = PROBES) -> list:
    return [run_model(module.eval(), probe, ["x"]) for probe in probes]


def test_dynamic_dimensions_keep_their_names_and_the_outputs_are_eager(tmp_path: Path) -> None:
    net = Net()
    exported = exported_from(traced(net), PROBES, golden(net))
    model = onnx.load_from_string(exported.data)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert shapes == {"output_0": ["batch", 4, "length"], "output_1": ["batch"]}
    assert exported.parity.error < 1e-5
    other = {"x": RNG.standard_normal((3, 11)).astype(np.float32)}  # a size that no probe had
    got, wanted = ort.run_all(exported.data, [other])[0], golden(net, [other])[0]
    np.testing.assert_allclose(got["output_0"], wanted["output_0"], atol=1e-5)
    np.testing.assert_allclose(got["output_1"], other["x"].sum(1), atol=1e-5)
    assert exported.sources["/inner/0/Conv"] == {"operator": "Conv", "module": "inner.0", "statement": ""}


def test_a_saved_file_gives_the_same_bytes_as_the_next_export(tmp_path: Path) -> None:
    net = Net()
    for name in ("a.ts", "b.ts"):
        (tmp_path / name).write_bytes(archive_bytes(traced(net)))
    a, b = (exported_from(load_torchscript(tmp_path / name), PROBES, golden(net)).data for name in ("a.ts", "b.ts"))
    assert a == b
    assert str(tmp_path).encode() not in a


class Projected(nn.Module):
    """Weights that the exporter transposes, that a shape is computed of, and that a branch alone takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(64, 48), nn.Parameter(torch.randn(64, 48))
        self.register_buffer("sizes", torch.tensor([4, -1]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :1].expand(-1, 64 - x.size(1))], 1)
        y = self.linear(x[:, None]) if bool(x.sum() > 0) else (x @ self.other)[:, None]
        return y.reshape(-1, int(self.sizes[0]), 12).sum(2)


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.ones(2, 3))])
def test_leaving_the_weights_out_for_a_while_changes_no_byte(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    net = Projected().eval()
    module = make(net)
    probes = [probe for probe in PROBES if bool(probe["x"].sum() > 0)] or PROBES[:1]
    outputs = [{"output": module(torch.from_numpy(probe["x"])).detach().numpy()} for probe in probes]
    saved = archive_bytes(module)  # which runs leave as it is
    left_out: list[dict[str, bytes]] = []

    @contextlib.contextmanager
    def seen() -> Iterator[dict[str, bytes]]:
        with without_weights() as weights:
            yield weights
        left_out.append(weights)

    def must_not_run(*_: Any) -> None:
        raise AssertionError("the module is run for outputs that are known")

    utils = sys.modules[torch.onnx.register_custom_op_symbolic.__module__]
    with monkeypatch.context() as patched:
        patched.setattr(torchscript, "without_weights", seen)
        patched.setattr(utils, "_get_example_outputs", must_not_run)
        ours = exported_from(torch.jit.load(io.BytesIO(saved)), probes, outputs)
    kept = torch._C.Graph._export_onnx, torch._C._jit_pass_onnx_graph_shape_type_inference

    assert left_out[0].keys() >= {"linear.bias"}
    monkeypatch.setattr(deferred, "_MOST", 0)  # bytes of weights that are left out at most
    assert exported_from(torch.jit.load(io.BytesIO(saved)), probes, outputs).data == ours.data
    for name, plain in (("without_weights", {}), ("with_outputs", None)):
        monkeypatch.setattr(torchscript, name, lambda *_, plain=plain: contextlib.nullcontext(plain))
    assert exported_from(torch.jit.load(io.BytesIO(saved)), probes, outputs).data == ours.data
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(ours.data).graph.initializer}
    weight = net.linear.weight.detach().numpy()
    assert any(np.array_equal(one, weight) or np.array_equal(one, weight.T) for one in weights.values())
    assert (torch._C.Graph._export_onnx, torch._C._jit_pass_onnx_graph_shape_type_inference) == kept


def test_weights_that_do_not_belong_to_a_graph_are_refused() -> None:
    with pytest.raises(ExportError, match="lost weights: 1 were left out, the graph names 0"):
        put_back(onnx.ModelProto(), {"w": b"1234"})


def test_control_flow_stays_control_flow() -> None:
    script = torch.jit.script(Loops())
    probes = [{"x": np.full((2, 2), v, np.float32)} for v in (0.25, 40.0, -7.0)]
    exported = exported_from(script, probes, golden(Loops(), probes))
    assert exported.operators["If"] == 1
    assert exported.operators["Loop"] == 1
    x = {"x": np.full((3, 1), 3.0, np.float32)}  # 3 -> 1.5 -> 0.75, and 1 more for a positive sum
    np.testing.assert_array_equal(ort.run_all(exported.data, [x])[0]["output"], np.full((3, 1), 1.75, np.float32))


def test_a_trace_that_froze_a_size_is_caught() -> None:
    class Frozen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.shape[1])

    with pytest.raises(ParityError) as error:
        exported_from(traced(Frozen()), PROBES, golden(Frozen()))
    assert "model.onnx: differs from the eager model: output 'output' on probe" in str(error.value)


def test_an_operator_without_translation_is_named(capfd) -> None:
    with pytest.raises(ExportError) as error:
        exported_from(traced(Fft()), PROBES, golden(Fft()))
    assert "opset 17: the model cannot be exported: Exporting the operator 'aten::fft_rfft'" in str(error.value)
    assert "graph(" not in "".join(capfd.readouterr())  # torch's print of the whole graph is kept back


@pytest.mark.parametrize("opset", [99, 0, -1, "17", True])
def test_an_opset_that_is_none_is_refused_by_capture_and_export(opset: Any) -> None:
    with pytest.raises(ConfigError, match=f"export.opset: opset {opset!r} is out of reach. Give a number of 7 to "):
        exported_from(traced(Net()), PROBES, golden(Net()), opset=opset)
    with pytest.raises(ConfigError, match="out of reach"):
        capture(Net(), PROBES[0], PROBES[1:], opset=opset)


def entr(g, x):
    return g.op("Neg", g.op("Mul", x, g.op("Log", x)))


def test_a_symbolic_translates_and_is_counted() -> None:
    symbolic = Provided(Symbolic("aten::special_entr", entr), "plugins/entr.py")
    with pytest.raises(ExportError, match="special_entr"):
        exported_from(traced(NoNan()), PROBES, golden(NoNan()))
    exported = exported_from(traced(NoNan()), PROBES, golden(NoNan()), symbolics=[symbolic])
    assert exported.symbolics == [
        {"name": "aten::special_entr", "provider": "plugins/entr.py", "fired": 1, "places": [""], "reason": ""}
    ]
    with pytest.raises(ExportError, match="special_entr"):  # and torch has forgotten it again
        exported_from(traced(NoNan()), PROBES, golden(NoNan()))


def test_a_symbolic_that_does_not_fire_or_fails() -> None:
    net = Net()
    unused = Provided(Symbolic("aten::special_entr", entr), "plugins/entr.py")
    exported = exported_from(traced(net), PROBES, golden(net), symbolics=[unused])
    assert exported.symbolics[0]["reason"] == "the captured model has no such operator"
    with pytest.raises(RewriteError, match="symbolic 'aten::special_entr' is required and did not fire"):
        exported_from(traced(net), PROBES, golden(net), symbolics=[unused], require=["aten::special_entr"])
    with pytest.raises(RewriteError, match="no symbolic or graph pass 'nonsense'"):
        exported_from(traced(net), PROBES, golden(net), symbolics=[unused], forbid=["nonsense"])

    def broken(g, x):
        raise KeyError("x")

    with pytest.raises((PluginError, ExportError), match="special_entr"):
        exported_from(
            traced(NoNan()),
            PROBES,
            golden(NoNan()),
            symbolics=[Provided(Symbolic("aten::special_entr", broken), "p")],
        )


def test_a_wrong_symbolic_is_caught_by_the_outputs() -> None:
    wrong = Provided(Symbolic("aten::special_entr", lambda g, x: g.op("Mul", x, g.op("Log", x))), "plugins/wrong.py")
    with pytest.raises(ParityError, match="off by 2 of its largest magnitude"):
        exported_from(traced(NoNan()), PROBES, golden(NoNan()), symbolics=[wrong])


def test_passes_run_and_are_recorded() -> None:
    def rename(model):
        model.graph.name = "renamed"
        return model, 1

    net = Net()
    exported = exported_from(
        traced(net),
        PROBES,
        golden(net),
        passes=[Provided(GraphPass("rename", rename), "p")],
        require=["rename"],
    )
    assert onnx.load_from_string(exported.data).graph.name == "renamed"
    assert exported.passes[0]["fired"] == 1


def test_outputs_named_after_the_input_dimension_they_follow() -> None:
    probes = [{"x": np.zeros(s, np.float32)} for s in ((2, 3), (4, 3), (3, 5))]
    outputs = [{"y": np.zeros((p["x"].shape[1], 2, p["x"].shape[0] + 1))} for p in probes]
    assert dynamic_axes(SHAPES, probes, outputs) == {"x": {0: "batch", 1: "length"}, "y": {0: "length", 2: "y_2"}}


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"twice": x * 2, "sum": x.sum(1)}


class Listed(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x * 2, x.sum(1)]


@pytest.mark.parametrize(("net", "names"), [(Named(), ["twice", "sum"]), (Listed(), ["output_0", "output_1"])])
def test_a_dict_or_list_of_outputs_is_traced_and_exported_under_its_names(net: nn.Module, names: list[str]) -> None:
    captured = capture(net, PROBES[0], PROBES[1:])
    exported = export(captured, opset=17)
    model = onnx.load_from_string(exported.data)
    assert [output.name for output in model.graph.output] == names
    got = ort.run_all(exported.data, [PROBES[1]])[0]
    np.testing.assert_array_equal(got[names[0]], PROBES[1]["x"] * 2)


class Branches(nn.Module):
    """A dict of a branch on the values: only a script keeps both."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x: Tensor, scale: int = 2) -> dict[str, Tensor]:
        y = self.layers(x)
        if bool(x.sum() > 0):
            y = y * scale
        return {"y": y, "sum": y.sum(1)}


def test_a_scripted_dict_keeps_its_names_its_branch_and_its_modules_paths() -> None:
    torch.manual_seed(0)
    net = Branches()
    probes = [{"x": np.ones((2, 3), np.float32)}, {"x": -np.ones((4, 3), np.float32)}]
    captured = capture(net, probes[0], probes[1:], method="script")
    exported = export(captured, opset=17)
    model = onnx.load_from_string(exported.data)
    assert [output.name for output in model.graph.output] == ["y", "sum"]
    assert "If" in exported.operators
    assert {"layers.0", "layers.1"} <= {source["module"] for source in exported.sources.values()}
    assert b"qntz_model" not in exported.data
    weight, bias = (p.detach().numpy() for p in net.layers[0].parameters())
    for probe, scale, got in zip(probes, (2, 1), ort.run_all(exported.data, probes), strict=True):
        wanted = np.maximum(probe["x"] @ weight.T + bias, 0) * scale
        np.testing.assert_allclose(got["y"], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["sum"], wanted.sum(1), rtol=1e-5, atol=1e-6)
