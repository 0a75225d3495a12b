"""The rule check's corpora, captured by `auto`: each model is right under ONNX Runtime at sizes and values that nobody gave,
or refused with a reason. `refused.txt` lists the refused: what is random, what trains in part, what only Python computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from qntz import ort
from qntz.errors import QntzError
from qntz.export import export
from qntz.torchscript import capture
from tests.check.test_corpus import GOOD, HAZARDS, built, class_names

pytestmark = pytest.mark.slow
REFUSED = frozenset((Path(__file__).parent / "refused.txt").read_text().split())
TOLERANCE = 1e-3  # of an output's largest magnitude
Inputs = dict[str, Any]


@pytest.mark.parametrize("name", [*GOOD, *HAZARDS])
def test_right_or_refused(name: str) -> None:
    wrong, refused = judged(name)
    assert not wrong
    assert refused == {one for one in REFUSED if one.startswith(f"{name}:")}


def judged(name: str) -> tuple[list[str], set[str]]:
    """Of a corpus file the cases that are wrong, by which route, and those that are refused."""
    wrong, refused = [], set()
    for case in class_names(name):
        model, example, probes = built(name)[case]
        model = copy.deepcopy(model)
        try:
            captured = capture(model, example, probes)
            data = export(captured).data
        except QntzError:
            refused.add(f"{name}:{case}")
            continue
        compared = 0
        for inputs in others([example, *probes]):
            if (wanted := eagers(model, inputs)) is not None:
                compared += 1
                if not same(under_onnxruntime(data, inputs), wanted):
                    wrong.append(f"{case} by {captured.method}")
        assert compared, case
    return wrong, refused


def others(given: list[Inputs]) -> Iterator[Inputs]:
    """What was given, and the same with its values flipped and scaled, or with a size that differs in it doubled."""
    for inputs in given:
        yield inputs
        for factor in (0.25, -2.0, 6.0):
            yield {name: changed(value, factor) for name, value in inputs.items()}
    named: dict[tuple[int, ...], dict[str, list[int]]] = {}
    for name, value in tensors(given[0]).items():
        for axis in range(value.dim()):
            named.setdefault(tuple(one[name].shape[axis] for one in given), {}).setdefault(name, []).append(axis)
    for sizes, axes in named.items():
        if len(set(sizes)) > 1:
            yield {name: doubled(value, axes.get(name, ())) for name, value in given[0].items()}


def changed(value: Any, factor: float) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    flipped = value.flip(list(range(value.dim())))
    return flipped * factor if value.is_floating_point() else flipped


def doubled(value: Any, axes: Sequence[int]) -> Any:
    for axis in axes:  # no row twice: what compares scores is decided by rounding there
        value = torch.cat([value, changed(value.flip(axis), 0.7)], axis)
    return value


def tensors(inputs: Inputs) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def eagers(model: torch.nn.Module, inputs: Inputs) -> list[np.ndarray] | None:
    """What a fresh copy gives in evaluation mode; None where it refuses the inputs, or gives NaN."""
    fresh = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            raw = fresh(*(value.clone() if isinstance(value, torch.Tensor) else value for value in inputs.values()))
    except Exception:
        return None
    outputs = [leaf.numpy() for leaf in pytree.tree_leaves(raw) if isinstance(leaf, torch.Tensor)]
    return None if any(np.isnan(one).any() for one in outputs if one.dtype.kind == "f") else outputs


def under_onnxruntime(data: bytes, inputs: Inputs) -> list[np.ndarray]:
    return list(ort.run_all(data, [{name: value.numpy() for name, value in tensors(inputs).items()}])[0].values())


def same(got: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return len(got) == len(wanted) and all(
        one.shape == other.shape
        and np.allclose(
            one, other, rtol=0, atol=TOLERANCE * max(np.abs(other[np.isfinite(other)]).max(initial=0), 1e-6)
        )
        for one, other in zip(got, wanted, strict=True)
    )
