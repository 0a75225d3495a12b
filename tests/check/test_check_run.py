"""What the check does with a model that cannot be run, and that it leaves a model as it was."""

import random

import numpy as np
import pytest
import torch

from qntz.check import check_model
from qntz.errors import ConfigError, ModelError, PluginError
from qntz.records import Rule


def failing(**options):
    from check_models.failing import Net

    return Net(**options).eval()


def test_a_model_that_raises_is_an_error_with_its_own_line_and_the_shapes(check):
    from tests.check.conftest import HERE

    with pytest.raises(ModelError) as caught:
        check_model(failing(), {"image": torch.rand(2, 4)}, source_root=HERE)
    assert str(caught.value) == (
        "models/failing.py:8 in combine: the model does not run on its example inputs: RuntimeError: mat1 and mat2"
        " shapes cannot be multiplied (2x4 and 5x2) at `return x @ weight  # the line that fails`, with image float32"
        " [2, 4]. Mend the model, or the shapes, dtypes and ranges of model.inputs."
    ).replace("weight  #", "weight #")


def test_a_model_that_ends_the_program_is_an_error(check):
    with pytest.raises(ModelError, match=r"failing\.py:20 in Net\.forward: .*ended the program \(exit code 3\)"):
        check_model(failing(leave=True), (torch.rand(2, 5),))


def test_a_probe_that_fails_is_named(check):
    probes = [(torch.rand(2, 5),), (torch.rand(3, 5),)]
    with pytest.raises(ModelError, match=r"on probe 1: ValueError: too many .*argument 0 float32 \[3, 5\]"):
        check_model(failing(rows=3), (torch.rand(2, 5),), probes)


def test_a_finding_on_the_object_stands_for_the_failure_that_it_explains(check, rules):
    report = check_model(failing(device="meta"), (torch.rand(2, 5),), rules=rules)
    (finding,) = report.errors
    assert (finding.slug, finding.line) == ("multi-device", 16)
    assert finding.message == "lost.weight, lost.bias are on meta and have no values; others are on cpu"
    assert "does not run on its example inputs" in report.failure


def test_an_unknown_slug_is_refused_with_the_nearest(rules):
    with pytest.raises(ConfigError, match=r"check\.severity\.numpy-forward: .*Did you mean 'numpy-in-forward'\?"):
        check_model(torch.nn.Linear(2, 2), (torch.rand(1, 2),), rules=rules, severity={"numpy-forward": "off"})


def test_a_rule_that_fails_is_named():
    def find(subject):
        raise KeyError("layer")

    rule = Rule("ACME1", "acme", "error", "what", "why", "fix", ("trace",), "", find)
    with pytest.raises(PluginError, match="ACME1: the rule 'acme' failed: KeyError: 'layer'"):
        check_model(torch.nn.Linear(2, 2), (torch.rand(1, 2),), rules=[rule])


def test_a_rule_sees_what_left_torch_although_it_is_no_finding():
    subjects = []
    rule = Rule("ACME1", "acme", "error", "what", "why", "fix", ("trace",), "", lambda s: subjects.append(s) or ())
    import check_models.good_suspicious as model

    module, example, probes = model.make()
    check_model(module, example, probes, rules=[rule])
    leaks = [leak for leak in subjects[0].observations.leaks if leak.of == "shape"]
    assert {(leak.kind, leak.place.line, leak.place.function, leak.varied) for leak in leaks} == {
        ("__float__", 35, "Net.forward", False),  # math.ceil(x.shape[1] / 2)
        ("__bool__", 36, "Net.forward", False),
    }
    assert set(subjects[0].observations.ran) == {"", "head"}
    names = {function.name for function in subjects[0].index.functions.values()}
    assert {"Net.forward", "Box.numpy", "Box.__init__"} <= names
    assert "Net.preview" not in names


def test_the_model_its_inputs_and_the_generators_are_left_as_they_were(rules):
    import check_models.states as model

    module, example, probes = model.make()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    inputs = example["x"].clone()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    check_model(module, example, probes, rules=rules)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == flags
    assert torch.equal(example["x"], inputs)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


def test_a_compiled_model_is_checked_by_its_runs(rules):
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.double().float()

    assert check_model(torch.jit.script(Net()), (torch.rand(2, 3),), rules=rules).findings == ()


def test_a_whole_model_in_training_mode_is_one_finding(rules):
    import check_models.good_encoder as model

    module, example, probes = model.make()
    (finding,) = check_model(module.train(), example, probes, rules=rules).errors
    assert finding.slug == "training-mode"
    assert finding.message == "attention.0.drop, attention.1.drop ran in training mode; so is the whole model"


def test_importing_the_rules_stays_light():
    import subprocess
    import sys

    code = "import sys, qntz.builtin.rules, qntz.builtin.rules_state as _; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_what_cannot_be_a_constant_is_traced_as_part_of_a_module() -> None:
    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("adjacency", torch.eye(3).to_sparse())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sparse.mm(self.adjacency, x)

    report = check_model(Graph().eval(), {"x": torch.rand(3, 2)}, [{"x": torch.rand(3, 4)}])
    assert [finding.slug for finding in (*report.errors, *report.warnings)] == ["unsupported-onnx-op"]


def test_what_torch_itself_asks_of_a_device_is_no_finding() -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0]

    report = check_model(Tagger().eval(), {"x": torch.rand(2, 5, 3)}, [{"x": torch.rand(3, 7, 3)}])
    assert (*report.errors, *report.warnings) == ()
