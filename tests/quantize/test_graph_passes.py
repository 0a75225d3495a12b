"""Applying graph passes: what fired, what did not and why, and who is to blame."""

from __future__ import annotations

import onnx
import pytest

from qntz.errors import PluginError, RewriteError
from qntz.graph_passes import apply_passes, require_known
from qntz.records import GraphPass, Provided


def rename_producer(name: str):
    def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
        new = onnx.ModelProto()
        new.CopyFrom(model)
        new.producer_name += name
        return new, len(name)

    return apply


def fails(model):
    raise KeyError("axis")


def provided(name: str, apply=None) -> Provided:
    return Provided(GraphPass(name, apply or rename_producer(name)), f"plugins/{name}.py")


EMPTY = {"nodes": [0, 0], "operators": {}}
UNPROVEN = {"error": None, "tolerance": 1e-5}
NOTHING = provided("nothing", lambda model: (model, 0))


def test_passes_run_in_the_order_given_and_are_told():
    model, told = apply_passes(onnx.ModelProto(), [provided("bb"), NOTHING, provided("a")], ["a"], [])
    assert model.producer_name == "bba"
    assert [one.pop("bytes") for one in told if one["fired"]] == [[0, 4], [4, 5]]
    assert told == [
        {"name": "bb", "provider": "plugins/bb.py", "fired": 2, "reason": "", **UNPROVEN, **EMPTY},
        {
            "name": "nothing",
            "provider": "plugins/nothing.py",
            "fired": 0,
            "reason": "the graph has nothing that it matches",
            **UNPROVEN,
        },
        {"name": "a", "provider": "plugins/a.py", "fired": 1, "reason": "", **UNPROVEN, **EMPTY},
    ]


def test_a_forbidden_pass_does_not_run():
    model, told = apply_passes(onnx.ModelProto(), [provided("a"), provided("b")], [], ["a"])
    assert model.producer_name == "b"
    assert told[0] == {"name": "a", "provider": "plugins/a.py", "fired": 0, "reason": "forbidden", **UNPROVEN}


@pytest.mark.parametrize(
    ("require", "forbid", "message"),
    [
        (["fuze"], [], "no graph pass 'fuze'. Did you mean 'fuse'?"),
        (
            ["nothing"],
            [],
            "plugins/nothing.py: graph pass 'nothing' is required and did not fire: the graph has nothing that it"
            " matches. Take it out of `require`, or mend its match.",
        ),
        (
            ["fuse"],
            ["fuse"],
            "plugins/fuse.py: graph pass 'fuse' is required and did not fire: forbidden. Take it out of `require`, or"
            " mend its match.",
        ),
    ],
)
def test_a_required_pass_that_does_not_fire_is_an_error(require, forbid, message):
    with pytest.raises(RewriteError) as caught:
        apply_passes(onnx.ModelProto(), [provided("fuse"), NOTHING], require, forbid)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (fails, "plugins/p.py: graph pass 'p' fails: KeyError: 'axis'."),
        (
            lambda model: model,
            "plugins/p.py: graph pass 'p' returned ModelProto: apply returns the model and how many places it changed."
            " Return (model, count).",
        ),
        (
            lambda model: None,
            "plugins/p.py: graph pass 'p' returned NoneType: apply returns the model and how many places it changed."
            " Return (model, count).",
        ),
    ],
)
def test_a_pass_that_misbehaves_is_blamed_on_its_plugin(apply, message):
    with pytest.raises(PluginError) as caught:
        apply_passes(onnx.ModelProto(), [provided("p", apply)], [], [])
    assert str(caught.value) == message


def test_unknown_names_can_be_refused_for_forbid_too():
    require_known(["a"], [provided("a")])
    with pytest.raises(RewriteError, match=r"^no graph pass 'b'\. Known: a\.$"):
        require_known(["b"], [provided("a")])
