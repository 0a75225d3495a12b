"""plugins/complex_rotary.py: it matches, it refuses, it is equal, and without it the model does not export."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from examples.rows.model import ComplexRotary, RowsTransformer


@pytest.fixture(scope="module")
def plugin(root: Path):
    spec = importlib.util.spec_from_file_location("complex_rotary", root / "plugins/complex_rotary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_matches_the_rotary_of_each_layer_and_nothing_else(plugin) -> None:
    matched = [path for path, module in RowsTransformer().named_modules() if plugin.is_complex_rotary(module)]
    assert matched == ["layers.0.attention.rotary", "layers.1.attention.rotary"]

    class ComplexRotaryOfSomeoneElse(nn.Module):
        pass

    assert not plugin.is_complex_rotary(ComplexRotaryOfSomeoneElse())


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 5, 16), (3, 4, 16, 8)])
def test_it_turns_by_the_same_angles(plugin, shape: tuple[int, ...]) -> None:
    rotary = ComplexRotary(shape[-1])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plugin.in_real_arithmetic(rotary)(x), rotary(x), rtol=0, atol=2e-6)
    # the second position of the first pair, by hand: a turn by one radian
    if shape[2] > 1:
        a, b = x[0, 0, 1, 0], x[0, 0, 1, 1]
        one = torch.tensor(1.0)
        wanted = torch.stack((a * one.cos() - b * one.sin(), a * one.sin() + b * one.cos()))
        torch.testing.assert_close(plugin.in_real_arithmetic(rotary)(x)[0, 0, 1, :2], wanted, rtol=0, atol=2e-6)
