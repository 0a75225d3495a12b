"""Translations that are written in torch's operators: those that qntz ships are eager's at other sizes; where they go in
the graph, and what they leave alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qntz import ort
from qntz.builtin import _composed, _linalg_operators
from qntz.builtin._numbers import Converting, converts
from qntz.builtin.symbolics_numbers import qntz_symbolics
from qntz.errors import ExportError, PluginError
from qntz.export import export
from qntz.records import Provided, Symbolic
from qntz.selftest import Calls
from qntz.symbolics import lowered, nodes, put_in_place
from qntz.torchscript import archive_bytes, capture

RNG = np.random.default_rng(3)
MATRICES = [RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 4, 6), (3, 2, 4, 7), (1, 5, 4, 9))]
ROWS = [RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 5), (3, 6, 5), (4, 3, 5))]
OTHERS = {
    4: RNG.standard_normal((4, 1, 4, 8)).astype(np.float32),
    3: RNG.standard_normal((5, 7, 5)).astype(np.float32) * 2,
}


def cases(operators: Any, given: list[np.ndarray]) -> list[Any]:
    return [
        pytest.param(name, function, given, id=f"{name}-{number}")
        for name, (_, *functions) in operators.OPERATORS.items()
        for number, function in enumerate(functions)
    ]


@pytest.mark.parametrize(("name", "function", "given"), [*cases(_linalg_operators, MATRICES), *cases(_composed, ROWS)])
def test_it_is_eagers(name: str, function: Callable[[Tensor], Tensor], given: list[np.ndarray]) -> None:
    module = Calls(function, 1)
    captured = capture(module, {"x": given[0]}, [{"x": one} for one in given[1:]], method="trace")
    exported = export(captured, opset=17, require=[f"aten::{name}"])
    other = OTHERS[given[0].ndim]
    wanted = module(torch.from_numpy(other)).numpy()
    (got,) = ort.run_all(exported.data, [{"x": other}])[0].values()
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_numbers_are_converted_where_torch_erases_the_conversion() -> None:
    module = torch.jit.script(Converting())
    given = [{"x": one} for one in ROWS]
    captured = capture(Converting(), given[0], given[1:], method="script")
    exported = export(captured, opset=17)
    for length in (7, 20, 55, 100, 110, 200):  # at 100 and 200, length * 0.29 is a little less than a whole number
        other = RNG.standard_normal((2, length, 5)).astype(np.float32)
        (got,) = ort.run_all(exported.data, [{"x": other}])[0].values()
        wanted = module(torch.from_numpy(other)).numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.linalg.qr(x, mode="complete")[0], "qr in another mode than reduced"),
        (lambda x: torch.svd(x, some=False)[1], "svd with full matrices"),
        (lambda x: torch.cov(x[0, 0], fweights=torch.tensor([1, 2, 1, 3, 1, 1])), "cov with weights"),
        (lambda x: torch.unique_consecutive(x.round(), dim=0), "unique_consecutive along a dimension"),
        (lambda x: torch.histc(x, 4), "histc without limits"),
        (lambda x: torch.cdist(x, x, p=0.0), "cdist that counts what differs"),
    ],
)
def test_what_an_argument_asks_for_and_is_not_translated_is_refused(function: Any, why: str) -> None:
    x = torch.from_numpy(MATRICES[0])
    with pytest.raises(ExportError, match=why):
        export(capture(Calls(function, 1), (x,), [(x * 2,)], method="trace"), opset=17)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.zeros(3, 5).scatter_add(0, (torch.arange(4) // 2)[:, None].expand(4, 5), x[0]),
        lambda x: torch.zeros(3, 5).index_add(0, torch.arange(4) // 2, x[0]),
        lambda x: torch.zeros(3, 5).index_put((torch.arange(4) // 2,), x[0], accumulate=True),
    ],
)
def test_adding_to_one_place_is_refused_where_onnx_keeps_one_of_it(function: Any) -> None:
    x = torch.from_numpy(ROWS[0])
    captured = capture(Calls(function, 1), (x,), [(x * 2,)], method="trace")
    with pytest.raises((ExportError, PluginError), match="below opset 16, which has no scatter that adds"):
        export(captured, opset=13)
    export(captured, opset=16)


class Solver(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return torch.linalg.inv(a + 9 * torch.eye(a.shape[-1]))


class Two(nn.Module):
    """An operator in a part, and one in a function that a part calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Solver(), Solver()])

    def forward(self, a: Tensor) -> Tensor:
        return inverted(self.inner[1](self.inner[0](a)))


def inverted(a: Tensor) -> Tensor:
    return torch.linalg.inv(a + 5 * torch.eye(a.size(-1)))


def halved(A: Tensor) -> Tensor:
    return A * 0.5


HALVED = Provided(Symbolic("aten::linalg_inv", halved, of_torch=True), "plugins/half.py")


@pytest.mark.parametrize("made", [torch.jit.script, lambda module: torch.jit.trace(module, torch.eye(3)[None])])
def test_its_code_goes_in_the_operators_place_in_a_copy(made: Callable[[nn.Module], Any]) -> None:
    module = made(Two())
    before, a = archive_bytes(module), torch.rand(2, 3, 3)
    changed, fired = lowered(module, [HALVED])
    assert archive_bytes(module) == before
    assert sorted(fired["aten::linalg_inv"]) == ["", "inner.0", "inner.1"]
    assert "aten::linalg_inv" not in {node.kind() for node in nodes(changed.inlined_graph)}
    plus = [9, 9, 5]
    wanted = a
    for number in plus:
        wanted = (wanted + number * torch.eye(3)) / 2
    torch.testing.assert_close(changed(a), wanted)


def test_a_module_without_the_operator_is_itself() -> None:
    module = torch.jit.script(nn.Linear(2, 2))
    assert lowered(module, [HALVED])[0] is module


def wrong_type(A: Tensor) -> Tensor:
    return A.no_such_method()


def two_outputs(A: Tensor) -> tuple[Tensor, Tensor]:
    return A, A


def test_a_name_that_is_no_overload_is_refused() -> None:
    provided = Provided(Symbolic("aten::trapezoid", halved, of_torch=True), "plugins/bad.py")
    with pytest.raises(PluginError, match=r"no such overload, but aten::trapezoid.x, aten::trapezoid.dx"):
        lowered(torch.jit.script(Solver()), [provided])


@pytest.mark.parametrize(("function", "why"), [(wrong_type, "no_such_method"), (two_outputs, "the operator has 1")])
def test_one_that_does_not_fit_names_its_plugin(function: Callable[..., Any], why: str) -> None:
    provided = Provided(Symbolic("aten::linalg_inv", function, of_torch=True), "plugins/bad.py")
    with pytest.raises(PluginError, match=why) as raised:
        lowered(torch.jit.script(Solver()), [provided])
    assert raised.value.where == "plugins/bad.py"


def test_a_match_that_fails_names_its_plugin() -> None:
    record = Symbolic("aten::linalg_inv", halved, of_torch=True, match=lambda node: node.no_such_thing)
    with pytest.raises(PluginError, match="'aten::linalg_inv' fails: .*no_such_thing") as raised:
        lowered(torch.jit.script(Solver()), [Provided(record, "plugins/bad.py")])
    assert raised.value.where == "plugins/bad.py"


def test_a_match_that_nothing_would_ask_is_refused() -> None:
    with pytest.raises(ValueError, match="symbolic 'aten::linalg_inv' has a match, and is not of_torch"):
        Symbolic("aten::linalg_inv", halved, match=lambda node: True)


class Halved(nn.Module):
    def forward(self, x: Tensor, size: int) -> Tensor:
        return x[:, : size // 2]


class Parted(nn.Module):
    """A part that is given a size, which in the part's own graph may be anything."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Halved()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x, x.shape[1])


def test_a_size_that_a_part_is_given_is_no_conversion() -> None:
    module = torch.jit.trace(Parted(), torch.randn(3, 6))
    part = module.part._c._get_method("forward").graph
    assert any(node.kind() == "aten::Int" and converts(node) for node in nodes(part))
    assert lowered(module, numbers())[0] is module


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + float(int(x[0, 0]))


@torch.jit.interface
class Sizing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.deep = Rounded(), nn.Sequential(nn.Sequential(nn.Sequential(Scaled())))

    def forward(self, x: Tensor) -> Tensor:
        return self.part.forward(self.deep(x))


Choice.__annotations__ = {"part": Sizing}  # and not its name, which torch does not look up


@pytest.mark.parametrize("has_run", [False, True])
def test_all_that_is_called_is_seen_also_after_a_run_and_beside_a_call_of_an_interface(has_run: bool) -> None:
    module = torch.jit.load(io.BytesIO(archive_bytes(torch.jit.script(Choice()))))
    if has_run:
        with torch.jit.optimized_execution(False):
            module(torch.ones(2, 3))
    assert put_in_place(module, numbers()) == {"aten::Int", "aten::Float"}


class Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.part.forward(x)


Chosen.__annotations__ = {"part": Sizing}


class Forked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(self.part, x))


@pytest.mark.parametrize("model", [Chosen(), Forked()])
def test_what_cannot_be_inlined_is_converted_too(model: nn.Module) -> None:
    given = [{"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"x": np.ones((4, 3), np.float32)}]
    exported = export(capture(torch.jit.script(model), given[0], given[1:]), opset=17)
    (got,) = ort.run_all(exported.data, [{"x": np.full((2, 3), 2.75, np.float32)}])[0].values()
    np.testing.assert_array_equal(got, np.full((2, 3), 4.75))  # 2.75 and the 2 of it


class Sized(nn.Module):
    """Sizes, and what is computed of them, as a trace has them."""

    def forward(self, x: Tensor) -> Tensor:
        n, m = x.shape
        padded = nn.functional.pad(x, (0, -m % 4, 0, n * 2 - n))
        return padded.reshape(2 * n, (m + 3) // 4, 4).sum(1).expand(-(-n * 2 // 1), 4)


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, : int(x.abs().max())]


def numbers() -> list[Provided]:
    return [Provided(one, "qntz") for one in qntz_symbolics(20)]


def test_sizes_are_no_conversions_of_numbers() -> None:
    module = torch.jit.trace(Sized(), torch.randn(3, 5))
    assert "aten::Int" in {node.kind() for node in nodes(module.inlined_graph)}
    same, fired = lowered(module, numbers())
    assert same is module
    assert not any(fired.values())


@pytest.mark.parametrize("value", [torch.tensor(True), torch.tensor(3, dtype=torch.int32), torch.tensor(2.7)])
def test_what_is_no_int64_yet_is_a_conversion(value: Tensor) -> None:
    graph = torch._C.Graph()
    constant = graph.insertConstant(value)
    node = graph.create("aten::Int", [constant], 1)
    graph.appendNode(node)
    assert converts(node)


def test_a_value_that_becomes_a_number_is_a_conversion() -> None:
    _, fired = lowered(torch.jit.script(Rounded()), numbers())
    assert {name for name, places in fired.items() if places} == {"aten::Int.Tensor"}


class Deep(nn.Module):
    """Sizes that are computed of sizes, again and again."""

    def __init__(self, depth: int, padded: bool) -> None:
        super().__init__()
        self.depth, self.padded = depth, padded

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        for _ in range(self.depth):
            n = n + (-n % 4) if self.padded else n + 1
        return x[:1].expand(n, -1)


@pytest.mark.parametrize(("depth", "padded"), [(40, True), (1200, False)])
def test_sizes_of_sizes_take_neither_ages_nor_the_stack(depth: int, padded: bool) -> None:
    module = torch.jit.trace(Deep(depth, padded), torch.randn(3, 5))
    assert lowered(module, numbers())[0](torch.randn(4, 2)).shape == ((4, 2) if padded else (4 + depth, 2))
