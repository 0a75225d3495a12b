"""Each function that qntz ships a translation of: a trace exported at opset 17 and at 20, and run under ONNX Runtime at
other sizes, signs and magnitudes than the example's, against eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qntz import ort
from qntz.builtin._examples import EDGES, FUNCTIONS
from qntz.errors import CaptureError, ExportError
from qntz.export import export
from qntz.selftest import Calls
from qntz.torchscript import capture

CASES = [(name, number) for name, functions in FUNCTIONS.items() for number in range(len(functions))]
EXTREMES = [("aten::scatter_reduce", number) for number in (3, 4)]
RNG = np.random.default_rng(11)
GIVEN = [{"x": RNG.standard_normal(shape).astype(np.float32)} for shape in ((2, 4, 5), (3, 6, 5), (4, 3, 5))]
OTHERS = [RNG.standard_normal(shape).astype(np.float32) * 3 for shape in ((2, 5, 5), (5, 3, 5), (1, 7, 5))]


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_it_is_eagers(name: str, number: int, opset: int) -> None:
    module = Calls(FUNCTIONS[name][number], 1)
    if opset < 18 and (name in ("aten::bitwise_xor", "aten::col2im") or (name, number) in EXTREMES):
        pytest.skip("ONNX has it from opset 18 on")
    captured = capture(module, GIVEN[0], GIVEN[1:], method="trace")
    exported = export(captured, opset=opset)
    for x in OTHERS:
        wanted = module(torch.from_numpy(x))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        got = ort.run_all(exported.data, [{"x": x}])[0].values()
        for one, other in zip(got, wanted, strict=True):
            assert str(one.dtype) == str(other.dtype).removeprefix("torch.")
            np.testing.assert_allclose(one, other.numpy(), rtol=2e-5, atol=1e-5 * scale_of(other.numpy()))


def scale_of(array: np.ndarray) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return min(1.0, float(finite.max())) if finite.size else 1.0


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.diag_embed(x, offset=1), "diag_embed with an offset"),
        (lambda x: F.pdist(x[0], 1.0), "pdist with another norm than 2"),
        (lambda x: F.adaptive_max_pool1d(x, 3, return_indices=True)[1], "whose indices are used"),
        (lambda x: torch.searchsorted(EDGES, x, sorter=torch.tensor([0, 1, 2])), "searchsorted with a sorter"),
        (lambda x: torch.kron(x, x[0]), "kron of tensors with another number of dimensions"),
    ],
)
def test_what_it_does_not_translate_is_refused(function: Callable[[Tensor], Any], why: str) -> None:
    captured = capture(Calls(function, 1), GIVEN[0], GIVEN[1:], method="trace")
    with pytest.raises((ExportError, CaptureError), match=why):
        export(captured, opset=17)
