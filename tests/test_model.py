"""The eager model: what is refused, and with which words."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qntz.artifacts import digest_file
from qntz.errors import ModelError
from qntz.model import in_order, load_model, named_outputs, run_model


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(2, width)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.linear(x) if scale is None else self.linear(x) * scale


def not_a_module() -> int:
    return 3


def of_names(**layers: int) -> nn.Module:
    module = nn.Identity()
    module.names = list(layers)
    return module


def leaves() -> None:
    sys.exit(3)


def factory(**arguments) -> dict:
    return {"_target_": f"{__name__}.Net", **arguments}


def refused(tmp_path: Path, *, weights: str | None = None, **given) -> str:
    with pytest.raises(ModelError) as error:
        load_model(given.get("factory", factory()), weights, None, tmp_path)
    return str(error.value)


def test_weights_of_four_formats(tmp_path: Path) -> None:
    net = Net()
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    torch.save(net.state_dict(), tmp_path / "b.pt")
    torch.jit.script(net).save(str(tmp_path / "c.ts"))
    rows = torch.export.Dim("rows")
    torch.export.save(torch.export.export(net, (torch.ones(3, 2),), dynamic_shapes=({0: rows},)), tmp_path / "d.pt2")
    x = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    wanted = x["x"] @ net.linear.weight.detach().numpy().T + net.linear.bias.detach().numpy()
    for loaded in (
        load_model(factory(), "a.safetensors", None, tmp_path),
        load_model(factory(), "b.pt", None, tmp_path),
        load_model(None, None, "c.ts", tmp_path, digest_file(tmp_path / "c.ts")),
        load_model(None, None, "d.pt2", tmp_path, digest_file(tmp_path / "d.pt2")),
    ):
        assert not loaded.training
        np.testing.assert_allclose(run_model(loaded, x, ["x"])["output"], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "no_such_module.Net",
            "no_such_module.Net cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (f"{__name__}.Nett", "cannot be imported: AttributeError"),
        (f"{__name__}.not_a_module", "gives a int, no torch.nn.Module"),
        ("Net", "cannot be imported"),
        (f"{__name__}.leaves", "leaves() fails: it ended the program (exit code 3)"),
    ],
)
def test_a_class_that_cannot_be_had(tmp_path: Path, target: str, message: str) -> None:
    assert message in refused(tmp_path, factory={"_target_": target})


def test_arguments_by_name_come_in_one_order(tmp_path: Path) -> None:
    for names in (("relu", "conv"), ("conv", "relu")):
        made = load_model({"_target_": f"{__name__}.of_names", **dict.fromkeys(names, 1)}, None, None, tmp_path)
        assert made.names == ["conv", "relu"]


def test_arguments_that_the_class_refuses(tmp_path: Path) -> None:
    assert "Net(height=3) fails: TypeError" in refused(tmp_path, factory=factory(height=3))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    save_file(Net().state_dict(), tmp_path / "w.safetensors")
    message = refused(tmp_path, weights="w.safetensors", factory=factory(width=4))
    assert "linear.weight is [3, 2], the model wants [4, 2]" in message
    save_file({"linear.weight": torch.zeros(3, 2)}, tmp_path / "less.safetensors")
    assert "the weights lack linear.bias" in refused(tmp_path, weights="less.safetensors")
    save_file({**Net().state_dict(), "other": torch.zeros(1)}, tmp_path / "more.safetensors")
    assert "have a tensor that the model lacks: other" in refused(tmp_path, weights="more.safetensors")


def test_weights_that_are_missing_or_damaged(tmp_path: Path) -> None:
    assert "none.safetensors: the weights are missing" in refused(tmp_path, weights="none.safetensors")
    save_file(Net().state_dict(), tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    for size in (0, 4, 40, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        assert "cut.safetensors: the weights are damaged" in refused(tmp_path, weights="cut.safetensors")
    (tmp_path / "cut.pt").write_bytes(whole)
    assert "cut.pt: is no file of weights" in refused(tmp_path, weights="cut.pt")


def test_a_pickle_that_is_not_weights_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").write_text, ("x",))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    assert "is no file of weights: it cannot be read with weights_only=True" in refused(tmp_path, weights="evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no state dict" in refused(tmp_path, weights="list.pt")
    torch.save(Net(), tmp_path / "whole.pt")
    assert "is no file of weights" in refused(tmp_path, weights="whole.pt")


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float, kind: str) -> None:
    state = {k: v.clone() for k, v in Net().state_dict().items()}
    state["linear.bias"][1] = value
    save_file(state, tmp_path / "w.safetensors")
    assert f"w.safetensors: linear.bias holds {kind}" in refused(tmp_path, weights="w.safetensors")


def test_a_torchscript_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.ts").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"x\.ts: is no TorchScript file"):
        load_model(None, None, "x.ts", tmp_path, digest_file(tmp_path / "x.ts"))
    with pytest.raises(ModelError, match="the TorchScript file is missing"):
        load_model(None, None, "y.ts", tmp_path)
    with pytest.raises(ModelError, match="the exported program is missing"):
        load_model(None, None, "x.pt2", tmp_path)
    (tmp_path / "y.pt2").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="y.pt2: is no exported program"):
        load_model(None, None, "y.pt2", tmp_path, digest_file(tmp_path / "y.pt2"))


def test_inputs_are_matched_with_forward() -> None:
    assert in_order(Net(), ["scale", "x"]) == ["x", "scale"]
    assert in_order(torch.jit.script(nn.Linear(2, 2)), ["input"]) == ["input"]
    with pytest.raises(ModelError, match=r"inputs y do not fit forward\(x, scale\)"):
        in_order(Net(), ["y"])
    with pytest.raises(ModelError, match="inputs scale do not fit"):
        in_order(Net(), ["scale"])


def test_shapes_that_the_model_refuses() -> None:
    with pytest.raises(
        ModelError, match=r"x float32 \[4, 3\]: the model refuses its inputs: RuntimeError: mat1 and mat2"
    ):
        run_model(Net(), {"x": np.zeros((4, 3), np.float32)}, ["x"])


def test_outputs_are_named() -> None:
    from collections import namedtuple

    a, b = torch.zeros(1), torch.ones(2)
    assert list(named_outputs(a)) == ["output"]
    assert list(named_outputs((a, b))) == ["output_0", "output_1"]
    assert list(named_outputs({"logits": a, "none": None})) == ["logits"]
    assert list(named_outputs(namedtuple("Out", "left right")(a, b))) == ["left", "right"]
    assert list(named_outputs((a, [b, None, {"c": a}]))) == ["output_0", "output_1_0", "output_1_2_c"]
    assert list(named_outputs({"hidden": (a, b)})) == ["hidden_0", "hidden_1"]
    with pytest.raises(ModelError, match="output 'output_1_0' is a int"):
        named_outputs((a, [3]))
    with pytest.raises(ModelError, match="two outputs have the name 'a_0'"):
        named_outputs({"a": [a], "a_0": b})
    with pytest.raises(ModelError, match="forward returns no tensor"):
        named_outputs({"none": None})
    with pytest.raises(ModelError, match="forward returns a str"):
        named_outputs("x")


def test_a_model_that_writes_on_its_input_does_not_spoil_the_probe() -> None:
    class Adds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    x = {"x": np.zeros((2, 2), np.float32)}
    assert run_model(Adds(), x, ["x"])["output"].max() == 1
    assert x["x"].max() == 0
