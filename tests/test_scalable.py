"""Which channels are free, and that dividing them changes no bit of what a graph computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qntz import ort
from qntz.scalable import FIXED, add_divided, divide, divided, scalable
from qntz.simplify import _lift_constants, _onnxsim


class Net(nn.Module):
    """A forward function over layers."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def residual(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.stem(x))
    x = F.relu(net.second(F.relu(net.first(x))) + x)
    return net.head(F.max_pool2d(x, 2))


def attention(net: Any, x: Tensor) -> Tensor:
    query, key, value = (
        layer(x).view(x.shape[0], x.shape[1], 2, 3).transpose(1, 2) for layer in (net.query, net.key, net.value)
    )
    mixed = torch.softmax(query @ key.transpose(2, 3), -1) @ value
    return net.output(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], 6))


def fused(net: Any, x: Tensor) -> Tensor:
    """As timm writes it: query, key and value from one layer."""
    whole = net.qkv(x).reshape(x.shape[0], 5, 3, 2, 3).permute(2, 0, 3, 1, 4)
    query, key, value = whole[0], whole[1], whole[2]
    mixed = torch.softmax(query @ key.transpose(2, 3), -1) @ value
    return net.output(mixed.transpose(1, 2).reshape(x.shape[0], 5, 6))


def gated(net: Any, x: Tensor) -> Tensor:
    return net.down(F.silu(net.gate(x)) * net.up(x))


def joined(net: Any, x: Tensor) -> Tensor:
    both = torch.cat([F.relu(net.left(x)), net.right(x)], 1)
    first, second = both.split([5, 3], 1)
    return net.wide(both) + net.narrow(first).sum(1, keepdim=True) + torch.sigmoid(second).sum(1, keepdim=True)


def twice(net: Any, x: Tensor) -> Tensor:
    return net.same(F.relu(net.same(x)))


def shown(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    inner = F.relu(net.first(x))
    return inner, net.second(inner)


IMAGE, ROWS, FLAT = (2, 3, 6, 6), (2, 5, 6), (4, 6)
CONV = {"first": nn.Conv2d(3, 8, 3, padding=1), "second": nn.Conv2d(8, 4, 3)}
DENSE = {"first": nn.Linear(6, 8), "second": nn.Linear(8, 4)}


def between(function: Callable[[Tensor], Tensor], layers: dict[str, nn.Module] = CONV) -> Net:
    """A function of what the first layer gives, read by the second."""
    return Net(lambda net, x: net.second(function(net.first(x))), **layers)


CASES: list[tuple[str, nn.Module, tuple[int, ...], int]] = [  # and how many channels are free
    ("relu", between(F.relu), IMAGE, 8),
    ("leaky", between(lambda x: F.leaky_relu(x, 0.1)), IMAGE, 8),
    ("prelu", Net(lambda net, x: net.second(net.slope(net.first(x))), slope=nn.PReLU(8), **CONV), IMAGE, 8),
    ("nothing", between(lambda x: x, DENSE), FLAT, 8),
    ("rows", between(F.relu, DENSE), ROWS, 8),
    ("a number", between(lambda x: -0.3 * F.relu(x)), IMAGE, 8),
    ("a vector", between(lambda x: x * torch.arange(1.0, 9)[:, None, None]), IMAGE, 8),
    ("a shift", between(lambda x: F.relu(x + 2) - 1), IMAGE, 8),
    ("a shift by channel", between(lambda x: F.relu(x - torch.arange(8.0)), DENSE), ROWS, 8),
    ("a quotient", between(lambda x: x / (1 + x.abs().sum((1, 2, 3), keepdim=True))), IMAGE, 0),
    ("pools", between(lambda x: F.avg_pool2d(F.max_pool2d(x, 2, 1, padding=1), 2, 1)), IMAGE, 8),
    ("resize", between(lambda x: F.interpolate(x, scale_factor=2.0)), IMAGE, 8),
    ("padding", between(lambda x: F.pad(x, (1, 0, 2, 1))), IMAGE, 8),
    ("padding with ones", between(lambda x: F.pad(x, (1, 0, 2, 1), value=1.0)), IMAGE, 0),
    ("relu6", between(F.relu6), IMAGE, 0),
    ("gelu", between(F.gelu), IMAGE, 0),
    ("sigmoid", between(torch.sigmoid, DENSE), FLAT, 0),
    ("a softmax of it too", between(lambda x: x * torch.softmax(x, 1)), IMAGE, 0),
    (
        "global pool",
        between(lambda x: F.relu(x).mean((2, 3)), {"first": CONV["first"], "second": DENSE["second"]}),
        IMAGE,
        8,
    ),
    (
        "flatten",
        between(lambda x: F.relu(x).flatten(1), {"first": nn.Conv2d(3, 8, 3), "second": nn.Linear(128, 4)}),
        IMAGE,
        8,
    ),
    ("groups", between(F.relu, {"first": nn.Conv2d(3, 8, 3), "second": nn.Conv2d(8, 4, 3, groups=2)}), IMAGE, 8),
    (
        "depthwise",
        Net(
            lambda net, x: net.second(F.relu(net.depth(F.relu(net.first(x))))),
            depth=nn.Conv2d(8, 8, 3, padding=1, groups=8),
            **CONV,
        ),
        IMAGE,
        16,
    ),
    (
        "transposed",
        between(
            F.relu,
            {"first": nn.ConvTranspose2d(3, 8, 3), "second": nn.ConvTranspose2d(8, 4, 3, groups=2)},
        ),
        IMAGE,
        8,
    ),
    (
        "transposed in groups",
        between(
            F.relu,
            {"first": nn.ConvTranspose2d(3, 6, 3, groups=3), "second": nn.Conv2d(6, 4, 3)},
        ),
        IMAGE,
        6,
    ),
    (
        "instance norm",
        Net(
            lambda net, x: net.second(net.norm(net.first(x))),
            norm=nn.InstanceNorm2d(8, affine=True),
            **CONV,
        ),
        IMAGE,
        8,
    ),
    (
        "layer norm",
        Net(
            lambda net, x: F.gelu(net.left(net.norm(x))) + net.right(net.norm(x)),
            norm=nn.LayerNorm(6),
            left=nn.Linear(6, 4),
            right=nn.Linear(6, 4, bias=False),
        ),
        ROWS,
        6,
    ),
    (
        "residual",
        Net(
            residual,
            stem=nn.Conv2d(3, 8, 3, padding=1),
            first=nn.Conv2d(8, 5, 3, padding=1),
            second=nn.Conv2d(5, 8, 3, padding=1),
            head=nn.Conv2d(8, 4, 3),
        ),
        IMAGE,
        13,
    ),
    ("attention", Net(attention, **{name: nn.Linear(6, 6) for name in ("query", "key", "value", "output")}), ROWS, 6),
    ("fused attention", Net(fused, qkv=nn.Linear(6, 18), output=nn.Linear(6, 6)), ROWS, 6),
    ("gated", Net(gated, gate=nn.Linear(6, 8), up=nn.Linear(6, 8), down=nn.Linear(8, 6)), ROWS, 8),
    (
        "joined and split",
        Net(
            joined,
            left=nn.Conv2d(3, 4, 1),
            right=nn.Conv2d(3, 4, 1),
            wide=nn.Conv2d(8, 1, 1),
            narrow=nn.Conv2d(5, 2, 1),
        ),
        IMAGE,
        5,
    ),
    ("one weight twice", Net(twice, same=nn.Linear(6, 6)), FLAT, 0),
    ("an output", Net(shown, **CONV), IMAGE, 0),
]


def exported(module: nn.Module, shape: tuple[int, ...], folder: Any) -> tuple[onnx.ModelProto, np.ndarray]:
    """As the pipeline simplifies it, of any batch size."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    path = folder / "m.onnx"
    torch.onnx.export(
        module.eval(), (x,), str(path), input_names=["x"], dynamic_axes={"x": {0: "n"}}, opset_version=17, dynamo=False
    )
    model = _onnxsim(onnx.load(path))
    _lift_constants(model)
    return model, x.numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "shape", "free"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_free_channels_are_found_and_divided_without_a_trace(module, shape, free, tmp_path):
    model, x = exported(module, shape, tmp_path)
    found = scalable(model)
    read = {name for node in model.graph.node if node.op_type in READERS for name in node.input[:2]}
    channels = np.unique(
        np.concatenate([[FIXED], *(found.layouts[name].index.ravel() for name in found.layouts if name in read)])
    )
    assert len(channels) - 1 == free
    before = copy.deepcopy(model)
    exponents = np.random.default_rng(3).integers(-9, 9, found.channels)
    divide(model, found, exponents)
    changed = sum(a != b for a, b in zip(before.graph.initializer, model.graph.initializer, strict=False))
    assert (changed >= 2) == bool(free)
    for inputs in ({"x": x}, {"x": -3 * x[:1]}):
        wanted, got = (
            ort.run(ort.session(m.SerializeToString(), optimize=ort.DISABLE), inputs) for m in (before, model)
        )
        for name, expected in wanted.items():
            np.testing.assert_array_equal(got[name], expected)


READERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def test_the_record_gives_the_exponents_back(tmp_path):
    model, _ = exported(*CASES[0][1:3], tmp_path)
    found = scalable(model)
    exponents = np.zeros(found.channels, dtype=np.int64)
    labels = next(iter(found.made.values()))
    exponents[labels] = [0, 1, -2, 0, 5, 0, 0, 3]
    by_node = found.by_node(exponents)
    assert list(by_node.values()) == [[0, 1, -2, 0, 5, 0, 0, 3]]
    np.testing.assert_array_equal(found.exponents(by_node), exponents)
    assert divided(model) == {}
    add_divided(model, by_node)
    assert divided(model) == by_node


def test_a_constant_that_others_read_is_copied():
    """Two normalizations share their scale; only the one that is read by a weight alone is divided."""
    ones = np.ones(6, np.float32)
    nodes = [
        onnx.helper.make_node("LayerNormalization", ["x", "ones", "zeros"], ["a"], "first"),
        onnx.helper.make_node("MatMul", ["a", "w"], ["b"], "product"),
        onnx.helper.make_node("LayerNormalization", ["b", "ones", "zeros"], ["y"], "second"),
    ]
    weights = {"ones": ones, "zeros": 0 * ones, "w": np.eye(6, dtype=np.float32)}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 6]) for name in "xy"]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    before = copy.deepcopy(model)
    found = scalable(model)
    exponents = np.zeros(found.channels, dtype=np.int64)
    exponents[found.made["first"]] = [4, 0, 0, -3, 0, 0]
    divide(model, found, exponents)
    held = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    np.testing.assert_array_equal(held["ones"], ones)
    np.testing.assert_array_equal(held["ones/divided/a/1"], np.float32([1 / 16, 1, 1, 8, 1, 1]))
    np.testing.assert_array_equal(held["w"], np.diag(np.float32([16, 1, 1, 1 / 8, 1, 1])))
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    wanted, got = (ort.run(ort.session(m.SerializeToString()), {"x": x})["y"] for m in (before, model))
    np.testing.assert_array_equal(got, wanted)


def test_what_leaves_float32_is_an_error(tmp_path):
    model, _ = exported(*CASES[0][1:3], tmp_path)
    found = scalable(model)
    with pytest.raises(ValueError, match="leaves float32"):
        divide(model, found, np.full(found.channels, 200))
