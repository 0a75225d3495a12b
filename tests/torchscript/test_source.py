"""What torch.jit.script is told of the model's source: forms that it has in place of those that it lacks, and what a run
showed; the source itself stays as it is."""

from __future__ import annotations

import ast
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.jit import frontend

from qntz import ort
from qntz.errors import CaptureError
from qntz.export import export
from qntz.torchscript import capture
from qntz.torchscript.source import one_of_a_kind, retold, with_class_attributes

SCALE, GRID = -2.0, (1, 2)
TABLE = {"a": 1}


def told(function: Callable[..., Any], given: dict[str, str] | None = None, **numbers: Any) -> str:
    """The body, as TorchScript reads it. numbers: what `item` and `tolist` gave, by their names."""
    lines, first = inspect.getsourcelines(function)
    places = {}
    for name, value in numbers.items():
        row = next(i for i, line in enumerate(lines) if f".{name}()" in line)
        node = next(
            n
            for n in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(function))))
            if isinstance(n, ast.Call) and n.lineno == first + row and ast.unparse(n).endswith(f".{name}()")
        )
        places[(function.__code__.co_filename, node.lineno, node.col_offset)] = value
    with retold({function.__code__: given or {}}, places):
        parsed = frontend.parse_def(function)
    return ast.unparse(parsed.ast.body[0])


def constants(x):
    return x * SCALE + GRID[1] + len(TABLE)


def sized(x, count):
    return x.reshape(*x.shape[:-1], 2, -1)[:count]


def logarithm(n: int):
    return math.log2(n)


def generated(x: Tensor):
    return torch.stack(tuple(part * 2 for part in x.unbind(0)))


def listed(x: Tensor, lengths: Tensor):
    found = []
    for n in lengths.tolist():
        found.append(n)
    kept = []
    for n in found:
        kept.append(x[:n].sum(0))
    return kept


def counted(x: Tensor):
    found = []
    found.append(int(x.sum()))
    found.append(3)
    return found


def number(x: Tensor):
    return x[: x.max().item()]


def shadowed(x, GRID=(3, 4)):
    for SCALE in (1.0, 2.0):
        x = x * SCALE
    return x + GRID[0] + sum([TABLE_SIZE + 1 for TABLE_SIZE in (1, 2)]) + COUNTS[0]


TABLE_SIZE, COUNTS = 9, [1]


def chained(x: Tensor):
    a = b = []
    a.append(1)
    return b


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) * 2

    return wrapper


class Decorated(nn.Module):
    @doubled
    def scaled(self, x: Tensor) -> Tensor:
        return x * 3

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x) if x.sum() > 0 else x


class Quiet(nn.Module):
    @torch.no_grad()
    def scaled(self, x: Tensor) -> Tensor:
        return x * SCALE

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x) if x.sum() > 0 else x


def test_what_a_function_binds_itself_is_no_global() -> None:
    assert told(shadowed) == ast.unparse(ast.parse(inspect.getsource(shadowed)).body[0])


def test_a_list_with_two_names_is_left_alone() -> None:
    assert "a = b = []" in told(chained)


@pytest.mark.parametrize("method", ["mixed", "script"])
def test_a_decorator_that_torchscript_leaves_out_is_refused(method: str) -> None:
    x = torch.ones(2, 3)
    with pytest.raises(CaptureError, match=r"Decorated.scaled is decorated, which TorchScript leaves out"):
        capture(Decorated(), (x,), [(-x,)], method=method)
    assert capture(Decorated(), (x,), [(-x,)]).method == "paths"
    assert capture(Quiet(), (x,), [(-x,)]).method == "mixed"


@pytest.mark.parametrize(
    ("values", "one"),
    [
        ([1, 2], 2),
        ([1, 2.0], None),
        ([[], [0.5]], [0.5]),
        ([[]], None),
        ([[[], [1]], [[2]]], [[2]]),
        ([[1, True]], None),
    ],
)
def test_the_kind_of_numbers_is_that_of_all_runs(values: list[Any], one: Any) -> None:
    assert one_of_a_kind(values) == one


def test_plain_globals_stand_as_literals() -> None:
    assert told(constants) == "def constants(x):\n    return x * -2.0 + (1, 2)[1] + len(TABLE)"


def test_parameters_have_the_types_of_a_run() -> None:
    expected = "def sized(x, count: int):\n    return x.reshape(list(x.shape[:-1]) + [2, -1])[:count]"
    assert told(sized, {"count": "int", "x": "SomeClass"}) == expected


def test_a_generator_is_a_list_and_a_logarithm_of_two_a_quotient() -> None:
    assert "tuple([part * 2 for part in x.unbind(0)])" in told(generated)
    assert told(logarithm).endswith("return math.log(float(n)) / math.log(2.0)")


def test_numbers_are_converted_to_what_a_run_showed() -> None:
    assert "for n in [int(_element_0) for _element_0 in lengths]:" in told(listed, tolist=[3, 1])
    nested = told(listed, tolist=[[0.5], [1.0]])
    assert "[[float(_element_1) for _element_1 in _element_0] for _element_0 in lengths]" in nested
    assert told(number, item=4).endswith("return x[:int(x.max())]")
    assert told(number).endswith("return x[:x.max().item()]")  # nobody saw what it gave


def test_an_empty_list_has_the_type_of_what_is_appended() -> None:
    assert "found: List[int] = []" in told(counted)
    assert "kept = []" in told(listed, tolist=[3])


def test_the_source_and_the_parser_are_left_alone() -> None:
    parse = frontend.parse_def
    before = ast.unparse(parse(constants).ast)
    told(constants)
    assert frontend.parse_def is parse
    assert ast.unparse(parse(constants).ast) == before


class Pooled(nn.Module):
    """Means of as many rows as a list of lengths tells, by a helper whose parameter has no type."""

    window = 3
    factors = (0.5, 2.0)
    _hidden = 7

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def head(self, x, n):
        return x[:n] * SCALE

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        means = []
        for i, n in enumerate(lengths.tolist()):
            means.append(self.head(x[i], n).mean(0) * self.window)
        most = lengths.max().item()
        return self.layer(torch.stack(means)) * most + x.reshape(*x.shape[:-1], 2, -1).sum((1, 2, 3))[:, None]


def test_class_attributes_become_the_modules_own() -> None:
    module = Pooled()
    with_class_attributes(module)
    own = {name for name in vars(module) if not name.startswith("_")} - set(vars(nn.Module()))
    assert own == {"window", "factors"}


def rows(lengths: list[int], longest: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(len(lengths), longest, 4, generator=generator), "lengths": torch.tensor(lengths)}


@pytest.mark.parametrize("method", ["mixed", "auto"])
def test_what_torchscript_refuses_as_it_is_written_is_captured_and_right(method: str) -> None:
    torch.manual_seed(0)
    model = Pooled().eval()
    captured = capture(model, rows([3, 4], 5, 0), [rows([1, 6, 2], 6, 1), rows([7, 3, 1, 2], 7, 2)], method=method)
    assert captured.method == "mixed"
    other = rows([2, 9, 5, 8, 1], 9, 3)
    got = ort.run_all(export(captured).data, [{name: one.numpy() for name, one in other.items()}])[0]["output"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), model(**other), rtol=1e-4, atol=1e-4)
