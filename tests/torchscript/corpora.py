"""Corpora of models to capture, each with inputs that no capture is given, and how a result is judged on them.

Those of the rule check (tests/check) have their further inputs made here; those in blind/ were written with theirs, by
others, without sight of qntz.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qntz import ort
from tests.check import test_corpus as checked

TOLERANCE = 1e-3  # of an output's largest magnitude
BLIND = Path(__file__).parent / "blind"
FOLDERS = ("corpus", "blind", "control", "operators", "ported")
"""Those of the rule check, and those in blind/."""
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """name: "folder/file:Class". others: what a capture is judged on, beside the example and the probes."""

    name: str
    model: torch.nn.Module
    example: Inputs
    probes: Sequence[Inputs]
    others: Sequence[Inputs]

    @property
    def is_good(self) -> bool:
        """Whether every plain way is to be right."""
        return "/good_" in self.name


def files(folders: Sequence[str] = FOLDERS) -> list[str]:
    """The files of the folders, "folder/file"."""
    own = [f"{path.parent.name}/{path.stem}" for path in sorted(BLIND.glob("*/[a-z]*.py"))]
    return [name for name in (*checked.NAMES, *own) if name.partition("/")[0] in folders]


def names(file: str) -> list[str]:
    """The names of a file's classes that are cases."""
    return checked.class_names(file) if file in checked.NAMES else list(_built(file))


@lru_cache
def _built(file: str) -> dict[str, Any]:
    if file in checked.NAMES:
        return checked.built(file)
    torch.manual_seed(0)
    return importlib.import_module(f"tests.torchscript.blind.{file.replace('/', '.')}").cases()


def case(file: str, name: str) -> Case:
    """A case, its model a copy of its own."""
    model, example, probes, *others = _built(file)[name]
    given = [example, *probes]
    return Case(f"{file}:{name}", copy.deepcopy(model), example, probes, others[0] if others else list(made(given)))


def made(given: Sequence[Inputs]) -> Iterator[Inputs]:
    """What was given with its values flipped and scaled, or with a size that differs in it doubled."""
    for inputs in given:
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
    given = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    try:
        with torch.no_grad():
            raw = fresh(**given)
    except Exception:
        return None
    outputs = [leaf.numpy() for leaf in leaves(raw)]
    return None if any(np.isnan(one).any() for one in outputs if one.dtype.kind == "f") else outputs


def leaves(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested outputs, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif value is not None:
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)


def wrong(case: Case, data: bytes) -> tuple[int, int]:
    """On how many of the inputs that eager takes an ONNX model gives other outputs or refuses, and how many they are."""
    failed = compared = 0
    for inputs in (case.example, *case.probes, *case.others):
        if (wanted := eagers(case.model, inputs)) is None:
            continue
        compared += 1
        try:
            failed += not same(under_onnxruntime(data, inputs), wanted)
        except Exception:  # whatever ONNX Runtime refuses
            failed += 1
    return failed, compared


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
