"""Rewrites of functions, translations and passes: what fires, what is equal, what declines, what is refused, and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qntz import hookimpl, ort
from qntz.builtin import rewrites, rewrites_complex
from qntz.check import check_model
from qntz.errors import CaptureError, ExportError, ParityError, PluginError, RewriteError
from qntz.export import export
from qntz.graph_passes import by_patterns
from qntz.plugins import Plugins, load
from qntz.records import Example, FunctionRewrite, GraphPass, ModuleRewrite, Provided, Symbolic, Translation
from qntz.selftest import Calls, outcome, outcomes
from qntz.testing import assert_equal, assert_refused, assert_unmatched
from qntz.torchscript import capture
from qntz.versions import unmet

GENERATOR = torch.Generator().manual_seed(5)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


X, LONGER = drawn(2, 4, 6), drawn(3, 5, 6)


def twice(x: Tensor) -> Tensor:
    """What the models below call."""
    return x * 2


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return twice(x) + 1


def doubling(**changes: Any) -> FunctionRewrite:
    functions = changes.pop("functions", {f"{__name__}.twice": changes.pop("by", lambda x: x + x)})
    return FunctionRewrite("doubling", functions, **changes)


def captured_with(rewrite: Any, model: nn.Module | None = None, provider: str = "plugins/p.py", **names: Any):
    given = [Provided(rewrite, provider)]
    return capture(model or Doubles(), (X,), [(LONGER,)], method="trace", rewrites=given, **names)


def test_a_function_is_replaced_while_the_model_is_captured_and_no_longer() -> None:
    captured = captured_with(doubling())
    (proof,) = captured.rewrites
    assert (proof.kind, proof.worst_error, proof.reason) == ("function", 0.0, "")
    assert proof.places[0].startswith("test_rewrites.py:")
    assert proof.places[0].endswith("twice")
    operators = export(captured, symbolics=(), passes=()).operators
    assert operators["Add"] == 2
    assert "Mul" not in operators
    assert twice(torch.ones(1)) == 2
    assert twice.__name__ == "twice"


def test_one_that_computes_something_else_is_refused_and_a_shipped_one_left_out() -> None:
    wrong = doubling(by=lambda x: x * 2.01)
    with pytest.raises(RewriteError, match="'doubling' changes what test_rewrites.py.*off by 0.005 of the largest"):
        captured_with(wrong)
    captured = captured_with(wrong, provider="builtin/p.py")
    assert "off by 0.005" in captured.rewrites[0].reason
    assert torch.equal(captured.module(X), Doubles()(X))


def test_one_that_declines_or_does_not_match_is_told() -> None:
    def declines(x: Tensor) -> Tensor:
        raise NotImplementedError("only of two dimensions")

    captured = captured_with(doubling(by=declines))
    assert captured.rewrites[0].reason == "it declines: NotImplementedError: only of two dimensions"
    captured = captured_with(doubling(match=lambda x: x.dim() == 2))
    assert captured.rewrites[0].reason == "the model calls none of its functions"
    with pytest.raises(RewriteError, match="required and did not fire: the model calls none"):
        captured_with(doubling(match=lambda x: False), require=["doubling"])
    assert captured_with(doubling(), forbid=["doubling"]).rewrites[0].reason == "forbidden"


def test_one_that_fails_or_names_no_function_is_refused() -> None:
    with pytest.raises(PluginError, match="the model fails with rewrite 'doubling'.*ZeroDivisionError"):
        captured_with(doubling(by=lambda x: 1 / 0))
    with pytest.raises(PluginError, match="replaces torch.fft.rffft, which does not exist"):
        captured_with(doubling(functions={"torch.fft.rffft": twice}))
    with pytest.raises(PluginError, match="replaces nowhere.f, which does not exist"):
        captured_with(doubling(functions={"nowhere.f": twice}))


def test_requirements_decide_by_version_and_opset() -> None:
    def told(*requires: str, opset: int = 20) -> str:
        return unmet(Provided(doubling(requires=requires), "p"), opset)

    assert told("torch>=2.5", "opset>=20", "numpy") == ""
    assert told("torch<2") == "it is for torch<2"
    assert told("opset<16") == "it is for opset<16"
    assert told("opset<16", opset=15) == ""
    assert told("no-such-distribution") == "it is for no-such-distribution"
    with pytest.raises(PluginError, match="'opset below 16', *that is no requirement|requires 'opset below 16'"):
        told("opset below 16")
    assert captured_with(doubling(requires=("torch<2",))).rewrites[0].reason == "it is for torch<2"


class Spectral(nn.Module):
    """A Fourier layer with complex weights, as neural operators have it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.complex(drawn(4, 3, 3), drawn(4, 3, 3)))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        out = torch.zeros(x.shape[0], 3, spectrum.shape[-1], dtype=torch.cfloat)
        out[:, :, :3] = torch.einsum("bik,iok->bok", spectrum[:, :, :3], self.weight)
        return torch.fft.irfft(out, n=x.shape[-1])


def exported_right(model: nn.Module, *runs: Tensor, method: str = "trace", others: Any = ()) -> Any:
    captured = capture(model.eval(), (runs[0],), [(one,) for one in runs[1:]], method=method)
    exported = export(captured)
    for x in (*runs, *others):
        (got,) = ort.run_all(exported.data, [{captured.order[0]: x.numpy()}])[0].values()
        wanted = model(x).detach()
        assert got.shape == tuple(wanted.shape)
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    return captured, exported


def test_complex_models_are_captured_in_real_arithmetic() -> None:
    captured, exported = exported_right(Spectral(), drawn(2, 4, 16), drawn(3, 4, 22), others=[drawn(1, 4, 35)])
    fired = {proof.name for proof in captured.rewrites if proof.places}
    assert fired == {"complex-arithmetic", "complex-constants", "complex-zeros"}
    assert "DFT" not in exported.operators
    exported_right(
        Calls(lambda x: torch.fft.fft2(torch.fft.ifft(x, norm="forward")).real, 1), drawn(2, 5, 6), drawn(3, 7, 4)
    )


def test_a_transform_that_is_too_long_stays_as_it_is() -> None:
    captured = capture(Calls(lambda x: torch.fft.rfft(x).abs(), 1), (drawn(1, 5000),), [], method="dynamo")
    reasons = {proof.name: proof.reason for proof in captured.rewrites}
    assert reasons["complex-arithmetic"].endswith("a Fourier transform of 5000 points, more than 4096")
    assert "DFT" in export(captured, tolerance=1e-3).operators


@pytest.mark.parametrize("n", [None, 5, 9, 10])
@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
def test_transforms_are_torchs(n: int | None, norm: str | None) -> None:
    x = drawn(3, 8, 2)
    real = {"n": n, "dim": 1, "norm": norm}
    for ours, theirs in ((rewrites_complex.rfft, torch.fft.rfft), (rewrites_complex.fft, torch.fft.fft)):
        torch.testing.assert_close(ours(x, **real).as_tensor(), theirs(x, **real), rtol=1e-5, atol=1e-5)
    z = torch.complex(drawn(3, 8, 2), drawn(3, 8, 2))
    for ours, theirs in ((rewrites_complex.irfft, torch.fft.irfft), (rewrites_complex.ifft, torch.fft.ifft)):
        got = ours(z, **real)
        got = got.as_tensor() if hasattr(got, "as_tensor") else got
        torch.testing.assert_close(got, theirs(z, **real), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_short_time_transforms_are_torchs(center: bool, normalized: bool) -> None:
    x, window = drawn(2, 100), torch.hamming_window(12)
    asked = {
        "n_fft": 16,
        "hop_length": 5,
        "win_length": 12,
        "window": window,
        "center": center,
        "normalized": normalized,
    }
    ours, theirs = rewrites_complex.stft(x, return_complex=True, **asked), torch.stft(x, return_complex=True, **asked)
    torch.testing.assert_close(ours.as_tensor(), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        rewrites_complex.stft(x[0], **asked, return_complex=False), torch.view_as_real(theirs[0]), rtol=1e-5, atol=1e-5
    )
    if center:
        for length in (None, 90):
            torch.testing.assert_close(
                rewrites_complex.istft(ours, length=length, **asked),
                torch.istft(theirs, length=length, **asked),
                rtol=1e-4,
                atol=1e-5,
            )


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("edge", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [True, False])
def test_grid_sample_is_torchs(mode: str, edge: str, corners: bool) -> None:
    x, grid = drawn(2, 3, 5, 7), drawn(2, 9, 4, 2) * 2
    ours = rewrites.grid_sample(x, grid, mode, edge, corners)
    torch.testing.assert_close(ours, F.grid_sample(x, grid, mode, edge, corners), rtol=1e-4, atol=1e-5)


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, low: float) -> tuple[Tensor, Tensor]:
        return x.clamp(min=low), x > low

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])


def test_the_forward_of_an_autograd_function_is_traced() -> None:
    captured, _ = exported_right(Calls(lambda x: Clip.apply(x, 0.25)[0], 1), X, LONGER)
    assert [one.name for one in captured.rewrites if one.places] == ["autograd-forward"]
    x = X.clone().requires_grad_()
    Clip.apply(x, 0.25)  # and is an autograd.Function again
    assert torch.autograd.Function.apply.__func__ is vars(torch.autograd.Function)["apply"].__func__


def entr(x: Any) -> Any:
    from onnxscript import opset18 as op

    return op.Neg(op.Mul(x, op.Log(x)))


def test_a_translation_is_used_by_the_dynamo_exporter_and_counted() -> None:
    model = Calls(lambda x: torch.special.entr(x.abs() + 0.5), 1)
    translation = Translation("aten::special_entr.default", entr)
    run = assert_equal(translation, model, X, LONGER)
    assert run.fired == 1
    assert run.captured.method == "dynamo"
    wrong = Translation("aten::special_entr.default", lambda x: x)
    assert_refused(wrong, model, X, LONGER, why="differs from the eager model")
    fails = Translation("aten::special_entr.default", lambda x: 1 / 0)
    assert_refused(fails, model, X, LONGER, why="translation 'aten::special_entr.default' fails: ZeroDivisionError")
    nowhere = Translation("aten::no_such.default", entr)
    assert_refused(nowhere, model, X, LONGER, why="torch has no operator 'aten::no_such.default'")
    captured = capture(model, (X,), [(LONGER,)], method="trace")
    (told,) = export(
        captured, symbolics=[Provided(Symbolic("aten::special_entr", script_entr), "p")], passes=()
    ).symbolics
    assert (told["fired"], told["places"]) == (1, [""])


def script_entr(g: Any, x: Any) -> Any:
    return g.op("Neg", g.op("Mul", x, g.op("Log", x)))


def no_double_negation() -> GraphPass:
    from onnxscript.rewriter.pattern import RewriteRule

    rule = RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x))
    return GraphPass("no-double-negation", by_patterns(rule))


def test_a_pass_by_patterns_fires_where_it_matches() -> None:
    run = assert_equal(no_double_negation(), lambda x: x.neg().neg() * 2, X, LONGER)
    assert run.fired == 1
    assert_unmatched(no_double_negation(), lambda x: -x * 2, X, LONGER)

    def spoil(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
        next(node for node in model.graph.node if node.op_type == "Mul").op_type = "Add"
        return model, 1

    assert_refused(GraphPass("spoil", spoil), lambda x: x * 3, X, LONGER, why="'spoil' changes what the graph computes")


def test_the_assertions_tell_what_is_not_so() -> None:
    with pytest.raises(AssertionError, match="^doubling: .*required and did not fire"):
        assert_equal(doubling(), lambda x: x + 1, X)
    with pytest.raises(AssertionError, match="^doubling fired 1 times$"):
        assert_unmatched(doubling(), Doubles(), X)
    with pytest.raises(AssertionError, match="^doubling fired 1 times and is right$"):
        assert_refused(doubling(), Doubles(), X, why="anything")
    with pytest.raises(AssertionError, match="is refused for another reason: .*off by 0.005"):
        assert_refused(doubling(by=lambda x: x * 2.01), Doubles(), X, why="nonsense")
    with pytest.raises(AssertionError, match="off by 0.005"):
        assert_unmatched(doubling(by=lambda x: x * 2.01), Doubles(), X)


class Acme(SimpleNamespace):
    """A plugin with every kind of rewrite; as a module has it."""


def acme() -> Plugins:
    @hookimpl
    def qntz_function_rewrites():
        yield doubling(examples=(Example(lambda x: twice(x)),))

    @hookimpl
    def qntz_translations(opset):
        yield Translation("aten::special_entr.default", lambda x: x, examples=(Example(torch.special.entr),))

    @hookimpl
    def qntz_module_rewrites():
        yield ModuleRewrite(
            "later", lambda m: True, lambda m: m, requires=("torch>=99",), examples=(Example(torch.abs),)
        )
        yield ModuleRewrite("bare", lambda m: False, lambda m: m)

    import sys
    import types

    module = types.ModuleType("acme")
    for function in (qntz_function_rewrites, qntz_translations, qntz_module_rewrites):
        function.__module__ = "acme"
        setattr(module, function.__name__, function)
    sys.modules["acme"] = module
    plugins = Plugins()
    plugins.register(module, "acme")
    return plugins


def test_every_rewrite_is_tested_on_its_examples() -> None:
    found = {one.name: one for one in outcomes(acme())}
    assert found["doubling"].state == "right"
    assert found["doubling"].fired == 1
    assert found["doubling"].without == "right as well"
    assert found["aten::special_entr.default"].state == "wrong"
    assert (found["later"].state, found["later"].told) == ("skipped", "it is for torch>=99")
    assert (found["bare"].state, found["bare"].told) == ("untested", "it has no examples")


SHIPPED = [
    (hook, provided)
    for hook, kind in (("qntz_module_rewrites", "module"), ("qntz_function_rewrites", "function"))
    for provided in load(Path(__file__).parent).provided(hook)
]


@pytest.mark.parametrize(("hook", "provided"), SHIPPED, ids=[one.record.name for _, one in SHIPPED])
def test_a_shipped_rewrite_is_right_and_needed(hook: str, provided: Provided) -> None:
    found = outcome(provided, hook, load(Path(__file__).parent))
    assert found.state == "right", found.told
    assert found.without.startswith("refused: "), found.without


def test_what_is_not_rewritten_is_refused_with_its_reason() -> None:
    with pytest.raises((CaptureError, ExportError), match="fft_rfft"):
        export(capture(Calls(lambda x: torch.fft.rfft(x).abs(), 1), (X,), [], method="trace", rewrites=()))


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        x = torch.exp(x)  # what the tests below translate wrongly
        return x.sum(-1)


def exp_line() -> int:
    return (
        Path(__file__)
        .read_text()
        .splitlines()
        .index("        x = torch.exp(x)  # what the tests below translate wrongly")
        + 1
    )


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("trace", Symbolic("aten::exp", lambda g, x: g.op("Tanh", g.op("Exp", x)))),
        ("script", Symbolic("aten::exp", lambda g, x: g.op("Tanh", g.op("Exp", x)))),
        ("dynamo", Translation("aten::exp.default", lambda x: tanh_of_exp(x))),
    ],
)
def test_the_first_node_that_is_off_is_told_with_its_line(method: str, wrong: Any) -> None:
    captured = capture(Chain(), (X,), [(LONGER,)], method=method)
    with pytest.raises(ParityError) as error:
        export(captured, symbolics=[Provided(wrong, "p")], passes=())
    told = str(error.value)
    assert "differs from the eager model: output 'output' on probe" in told
    assert "Tanh '/Tanh' of the model, " in told
    assert f"test_rewrites.py:{exp_line()} in Chain.forward, is the first that is off." in told


def tanh_of_exp(x: Any) -> Any:
    from onnxscript import opset18 as op

    return op.Tanh(op.Exp(x))


class Spectrum(torch.nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs() + torch.special.entr(x.abs()).sum(-1, keepdim=True)


def test_the_check_tells_what_a_rewrite_takes_away() -> None:
    def told(**given) -> list[tuple[str, str]]:
        report = check_model(Spectrum(), {"x": torch.ones(2, 8)}, [{"x": torch.ones(3, 6)}], **given)
        return [(f.severity, f.message) for f in report.findings if f.slug == "unsupported-onnx-op"]

    (rfft, entr) = told()
    assert rfft == ("note", "aten::fft_rfft: the rewrite complex-arithmetic will take it away")
    assert entr[0] == "warning"
    assert entr[1].startswith("aten::special_entr: torch's exporter has no translation")
    assert [severity for severity, _ in told(rewrites=())] == ["warning", "warning"]
    by_position = check_model(Spectrum(), (torch.ones(2, 8),), [(torch.ones(3, 6),)])
    assert ("note", rfft[1]) in {(f.severity, f.message) for f in by_position.findings}
