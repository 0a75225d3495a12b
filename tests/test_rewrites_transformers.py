"""Rewrites of transformers' models: the same as the original at every size. That they are needed, test_rewrites shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qntz.builtin import rewrites_transformers as ours

pytest.importorskip("transformers")


@pytest.mark.parametrize("size", [*range(1, 12), 17, 32])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (1, 2, 1), (3, 3, 2), (5, 4, 1), (2, 5, 3)]
)
def test_the_padding_is_tensorflows(size: int, kernel: int, stride: int, dilation: int) -> None:
    from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import apply_tf_padding

    conv = nn.Conv2d(2, 2, kernel, stride, dilation=dilation)
    x = torch.arange(2.0 * size * (size + 3)).reshape(1, 2, size, size + 3)
    assert torch.equal(ours.same_padding(x, conv), apply_tf_padding(x, conv))
