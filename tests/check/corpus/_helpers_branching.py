"""Input preparation shared by several encoders."""

from torch import Tensor

from tests.check.corpus import _helpers_branching_rules


def prepare(x: Tensor, limit: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return _helpers_branching_rules.clip_norm(centred, limit)
