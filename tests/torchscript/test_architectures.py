"""The architectures of the rule check's test, captured by `auto`: right under ONNX Runtime at other batch sizes, and at other
lengths and image sizes where the model takes them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from qntz.export import export
from qntz.torchscript import capture
from tests.check.test_architectures import ARCHITECTURES, Inputs
from tests.torchscript.corpora import eagers, same, under_onnxruntime

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_auto_is_right(name: str) -> None:
    make, example, probes = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = make()
    data = export(capture(model, example, probes)).data
    for inputs in others(example, probes):
        wanted = eagers(model, inputs)
        assert wanted is not None
        assert same(under_onnxruntime(data, inputs), wanted), {key: tuple(one.shape) for key, one in inputs.items()}


def others(example: Inputs, probes: list[Inputs]) -> list[Inputs]:
    """Batches of one and of four, of the example's sizes and of each probe's."""
    return [
        {key: torch.cat([value, value.flip(0)])[:count] for key, value in given.items()}
        for given in (example, *probes)
        for count in (1, 4)
    ]
