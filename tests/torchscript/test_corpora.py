"""The corpora, captured by `auto`: each model is right under ONNX Runtime at sizes and values that nobody gave, or refused with
a reason. `refused.txt` lists the refused: what is random, what trains in part, what only Python computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qntz.errors import QntzError
from qntz.export import export
from qntz.torchscript import capture
from tests.torchscript import corpora

pytestmark = pytest.mark.slow
LONG = frozenset(
    (
        "ported/impossible:HungarianMatcher",
        "control/values_lists:GreedyTranslator",
        "operators/robotics:HungarianTracker",
        "ported/generative:AdaptiveODE",
    )
)
"""Those that take minutes to be refused; `make bench-routes` has them."""
LATER = (  # in `make soak`: minutes each on two cores, and a quarter of one and more
    *("control/values_exit", "control/size_flow", "control/values_lists"),
    *("corpus/data_dependent_control_flow", "ported/vision"),
    *("blind/control_flow", "blind/good_blocks", "blind/numpy_non_torch", "control/python_idioms"),
    *("corpus/inplace_on_input", "corpus/non_torch_call", "corpus/numpy_in_forward"),
    *("corpus/shape_dependent_control_flow", "corpus/unsupported_onnx_op", "operators/language", "operators/recsys"),
    *("operators/robotics", "operators/stateful", "operators/vision", "ported/attention", "ported/decoding"),
    *("ported/detection", "ported/generative"),
)
REFUSED = frozenset((Path(__file__).parent / "refused.txt").read_text().split())


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=[pytest.mark.soak] if file in LATER else []) for file in corpora.files()]
)
def test_right_or_refused(file: str) -> None:
    wrong, refused = judged(file)
    assert not wrong
    assert refused == {one for one in REFUSED if one.startswith(f"{file}:")}


def judged(file: str) -> tuple[list[str], set[str]]:
    """Of a corpus file the cases that are wrong, by which route, and those that are refused."""
    wrong, refused = [], set()
    for name in corpora.names(file):
        if f"{file}:{name}" in LONG:
            continue
        case = corpora.case(file, name)
        try:
            captured = capture(case.model, case.example, case.probes)
            data = export(captured).data
        except QntzError:
            refused.add(case.name)
            continue
        failed, compared = corpora.wrong(case, data)
        assert compared, case.name
        if failed:
            wrong.append(f"{name} by {captured.method}, on {failed} of {compared}")
    return wrong, refused
