"""Captures: right on every probe, or refused with the reason."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qntz.config import DimConfig
from qntz.errors import CaptureError, ConfigError, ModelError, RewriteError
from qntz.export import export
from qntz.records import ModuleRewrite, Provided
from qntz.rewrite import rewritten
from qntz.torchscript import archive_bytes, capture

RNG = np.random.default_rng(0)


def inputs(*shape: int) -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal(shape).astype(np.float32)}


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x - 1


class FrozenReshape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(torch.tensor(x.shape[0]).item()), -1)


class Comprehends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return sum(v for v in {"a": x, "b": x * 2}.values())


UP, DOWN = {"x": np.full((2, 3), 1, np.float32)}, {"x": np.full((3, 3), -3, np.float32)}


def test_a_branch_is_refused_by_trace_and_kept_by_script() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Branch(), UP, [DOWN], method="trace")
    assert "trace captures another model: output 'output' on probe 1 is off by" in str(error.value)
    assert "Set torchscript.method to auto" in str(error.value)
    captured = capture(Branch(), UP, [DOWN], method="script")
    np.testing.assert_array_equal(captured.module(torch.from_numpy(UP["x"])).numpy(), UP["x"] * 2)
    np.testing.assert_array_equal(captured.module(torch.from_numpy(DOWN["x"])).numpy(), DOWN["x"] - 1)
    assert captured.method == "script"
    assert captured.worst.error == 0


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        ({"y": UP["x"]}, "probe 1 has other inputs than the example: y, not x"),
        ({"x": UP["x"][0]}, "probe 1: input 'x' is float32 of 1 dimensions, the example's is float32 of 2 dimensions"),
        ({"x": UP["x"].astype(np.float64)}, "probe 1: input 'x' is float64 of 2 dimensions, the example's is float32"),
    ],
)
def test_a_probe_that_is_not_like_the_example_is_refused(probe: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        capture(Comprehends(), UP, [probe])


@pytest.mark.parametrize("what", ["require", "forbid"])
def test_a_string_in_the_place_of_names_is_refused(what: str) -> None:
    told = "'square' is a string. Give a list, \\[square\\]"
    with pytest.raises(ConfigError, match=f"torchscript.{what}: {told}"):
        capture(Branch(), UP, **{what: "square"})
    with pytest.raises(ConfigError, match=f"export.{what}: {told}"):
        export(capture(Comprehends(), UP, method="trace"), **{what: "square"})


@pytest.mark.parametrize(
    ("dims", "why"),
    [
        ({"batch": DimConfig(1, 2, 8)}, r"dims\['batch'\]: no size of 1 to 8 differs between .* Add a probe"),
        ({"batch": 3}, r"dims\['batch'\]: 3 is no DimConfig. Give qntz.config.DimConfig\(min, opt, max\)"),
    ],
)
def test_dims_that_are_none_are_refused(dims: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        capture(Comprehends(), UP, dims=dims)
    if isinstance(dims["batch"], DimConfig):
        assert capture(Comprehends(), UP, [DOWN], dims=dims).shapes == {"x": ("batch", 3)}


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ModelError, match="a function is no model. Give a torch.nn.Module"):
        capture(lambda x: x, UP)


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = x + 1


class Catching(nn.Module):
    """Catches the first that ends it."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return Endless()(x)
        except:  # noqa: E722
            return Endless()(x)


class PartlyAwake(nn.Module):
    """In evaluation mode, but for a part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Endless()
        self.eval().part.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


@pytest.mark.parametrize("model", [Endless(), Catching(), PartlyAwake()])
def test_a_model_that_does_not_end_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"did not end within 0.5 s on what was given. .*torchscript.seconds"):
        capture(model, UP, seconds=0.5)


def test_any_limit_is_taken_that_is_one() -> None:
    assert capture(Comprehends(), UP, seconds=float("inf")).method == "trace"
    for seconds in (0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=f"torchscript.seconds: {seconds} is no limit"):
            capture(Comprehends(), UP, seconds=seconds)


def test_the_callers_alarm_goes_off() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 100, 50)
    capture(Comprehends(), UP, method="trace")
    left, again = signal.setitimer(signal.ITIMER_REAL, *before)
    assert 0 < left <= 100
    assert again == 50


class PartlyScripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = torch.jit.script(nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


def test_a_model_with_a_scripted_part_is_captured() -> None:
    captured = capture(PartlyScripted(), UP, [DOWN], method="trace")
    np.testing.assert_allclose(captured.module(torch.from_numpy(UP["x"])).detach().numpy(), UP["x"], rtol=1e-4)


class Keeping(nn.Module):
    """Its last inputs, as a buffer that is no tensor of autograd's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            self.last = x * 1
        return x + 1


def test_a_buffer_of_inference_mode_is_taken() -> None:
    assert capture(Keeping(), UP, [DOWN]).method == "trace"


def test_a_capture_whose_file_is_gone_says_so() -> None:
    captured = capture(Comprehends(), UP)
    captured.file.unlink()
    with pytest.raises(CaptureError, match="model.ts: the captured module's file is gone"):
        _ = captured.module


def test_a_frozen_size_is_refused() -> None:
    with pytest.raises(CaptureError, match="trace captures a model that refuses inputs which the eager model takes"):
        capture(FrozenReshape(), inputs(2, 5), [inputs(3, 5)], method="trace")


def test_what_script_cannot_compile_is_refused_with_its_place() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Comprehends(), inputs(2, 3), method="script")
    assert "the model cannot be scripted" in str(error.value)
    assert "test_capture.py:" in error.value.where
    assert capture(Comprehends(), inputs(2, 3), [inputs(4, 3)], method="trace").method == "trace"


def test_a_trace_that_raises_is_refused() -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                raise ValueError("no tracing, please")
            return x

    with pytest.raises(CaptureError, match="the model cannot be traced: ValueError: no tracing, please"):
        capture(Raises(), inputs(2, 3), method="trace")


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(ModelError, match="the model is not deterministic"):
        capture(Noisy(), inputs(2, 3))


def test_an_output_with_the_name_of_an_input_is_refused() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"y": x + 1, "x": x}

    with pytest.raises(ModelError, match="output 'x' has the name of an input: an ONNX graph cannot tell them apart"):
        capture(Same(), inputs(2, 3))


def test_a_model_that_gives_nan_is_refused() -> None:
    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 5).log()

    with pytest.raises(ModelError, match="the model's own output 'output' holds NaN on probe 0"):
        capture(Nan(), inputs(2, 3))


def test_several_outputs_and_inputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
            return {"masked": x * mask, "count": mask.sum(1)}

    given = [{"mask": RNG.random((n, 3)) < 0.5, "x": inputs(n, 3)["x"]} for n in (2, 4)]
    captured = capture(Two(), given[0], given[1:])
    assert captured.order == ("x", "mask")
    assert list(captured.golden[0]) == ["masked", "count"]
    np.testing.assert_array_equal(captured.golden[1]["count"], given[1]["mask"].sum(1))


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Optional[Tensor] = None, step: int = 3) -> Tensor:  # noqa: UP045
        if mask is not None:
            x = x * mask
        if bool(x.sum() > 0):
            x = x + step
        return x


@pytest.mark.parametrize("names", [["x"], ["x", "mask"]])
@pytest.mark.parametrize("saved", [False, True])
def test_a_scripted_model_with_optional_inputs_keeps_its_branch_and_its_names(names: list[str], saved: bool) -> None:
    mask = {"mask": np.full((3, 3), 2, np.float32)}
    up, down = {"x": np.ones((3, 3), np.float32), **mask}, {"x": np.full((3, 3), -1, np.float32), **mask}
    up, down = ({name: run[name] for name in names} for run in (up, down))
    model = torch.jit.freeze(torch.jit.script(Masked().eval())) if saved else Masked()
    captured = capture(model, up, [down], method="script")
    assert [a.name for a in captured.module.forward.schema.arguments[1:]] == names
    again = torch.jit.load(io.BytesIO(archive_bytes(captured.module)))
    scale = 2 if "mask" in names else 1
    for run, wanted in ((up, scale + 3), (down, -scale)):
        got = again(*(torch.from_numpy(array) for array in run.values()))
        np.testing.assert_array_equal(got.numpy(), np.full((3, 3), wanted, np.float32))


def test_a_saved_module_is_taken_as_it_is() -> None:
    captured = capture(torch.jit.script(Branch()), UP, [DOWN])
    assert (captured.method, captured.worst.error) == ("saved", 0)


def test_an_archive_keeps_the_version_that_its_operators_are_read_by() -> None:
    model, x = nn.GELU("tanh"), torch.linspace(-2, 2, 5)
    again = torch.jit.load(io.BytesIO(archive_bytes(torch.jit.trace(model, x))))
    torch.testing.assert_close(again(x), 0.5 * x * (1 + torch.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))))


CODE = """
import sys, hashlib, torch
sys.path.insert(0, sys.argv[1])
from net import Net
from qntz.torchscript import archive_bytes
torch.manual_seed(0)
net = Net().eval()
x = torch.ones(2, 3)
for module in (torch.jit.trace(net, (x,)), torch.jit.script(net)):
    print(hashlib.sha256(archive_bytes(module)).hexdigest())
"""
NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 3)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            x = x * 1.25 + 0.5
        return self.b(torch.relu(self.a(x))) * 0.125
"""


def test_archives_are_equal_in_any_folder_and_process(tmp_path: Path, root: Path) -> None:
    seen = []
    for folder in ("one", "another/deeper"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "net.py").write_text(NET)
        environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin", "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path / folder)],
            cwd=tmp_path / folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(done.stdout.split())
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 2  # the trace is not the script


def test_an_archive_loads_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for module in (torch.jit.trace(net, (x,)), torch.jit.script(net)):
        loaded = torch.jit.load(io.BytesIO(archive_bytes(module)))
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.pow(2)


class Multiply(nn.Module):
    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * x * self.by


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Square(), nn.ReLU()])
        self.shared = self.inner[0]

    def forward(self, x: Tensor) -> Tensor:
        for module in self.inner:
            x = module(x)
        return self.shared(x)


def rewrite(name: str = "square", by: float = 1.0, **changes) -> Provided:
    match = changes.get("match", lambda module: isinstance(module, Square))
    return Provided(ModuleRewrite(name, match, changes.get("apply", lambda module: Multiply(by))), "plugins/p.py")


def after(model, rewrites, probes, order, **names):
    found = rewritten(model, rewrites, probes, order, **names)
    return found.module, found.proofs[0]


def test_a_rewrite_works_on_a_copy_and_proves_itself() -> None:
    net = Holder()
    result, proof = after(net, [rewrite()], [inputs(2, 3), inputs(4, 3)], ["x"])
    assert proof.places == ("inner.0", "shared")
    assert proof.worst_error == 0
    assert isinstance(result.inner[0], Multiply)
    assert result.inner[0] is result.shared
    assert isinstance(net.inner[0], Square)


def test_a_rewrite_that_computes_something_else_is_refused() -> None:
    with pytest.raises(RewriteError) as error:
        rewritten(Holder(), [rewrite(by=1.001)], [inputs(2, 3)], ["x"])
    assert "plugins/p.py: rewrite 'square' changes what inner.0 computes: its output is off by 0.001" in str(
        error.value
    )


def test_a_required_rewrite_has_to_fire() -> None:
    never = rewrite("never", match=lambda module: False)
    _, proof = after(Holder(), [never], [inputs(2, 3)], ["x"])
    assert (proof.places, proof.worst_error, proof.reason) == ((), None, "no submodule matches")
    with pytest.raises(RewriteError, match="rewrite 'never' is required and did not fire: no submodule matches"):
        rewritten(Holder(), [never], [inputs(2, 3)], ["x"], require=["never"])
    with pytest.raises(RewriteError, match="no rewrite 'squar'. Did you mean 'square'?"):
        rewritten(Holder(), [rewrite()], [inputs(2, 3)], ["x"], require=["squar"])


def test_a_forbidden_rewrite_is_not_applied() -> None:
    net = Holder()
    result, proof = after(net, [rewrite()], [inputs(2, 3)], ["x"], forbid=["square"])
    assert result is net
    assert proof.reason == "forbidden"


def test_a_rewrite_that_no_probe_reaches_is_not_believed() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.square = Square()

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(RewriteError, match="rewrite 'square' cannot be proven: no probe reaches this submodule"):
        rewritten(Unused(), [rewrite()], [inputs(2, 3)], ["x"])
