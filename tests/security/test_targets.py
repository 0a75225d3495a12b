"""`_target_`: called where a model's factory or a data source is named, refused anywhere else, and never Python's own."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qntz.callables import resolved
from qntz.compose import compose
from qntz.errors import ModelError
from qntz.model import load_model

ELSEWHERE = (
    "_target_ is not called here: it is called in model.factory, model.data.calibrate and model.data.test alone."
)
PYTHONS = "is refused: what comes with Python makes neither models nor samples."


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(2, width)


wide = functools.partial(Net, width=7)
system = subprocess.run  # under another name


def mistakes(project: Path, models: list[str], engines: list[str] = ()) -> list[str]:
    """What is wrong with each of the entries, which override `digits`, in their order."""
    text = "models:\n  digits: {}\n" + "".join(f"  m{i}: {{use: digits, {one}}}\n" for i, one in enumerate(models))
    text += "engines:\n  d: {model: digits}\n" + "".join(
        f"  e{i}: {{model: digits, {one}}}\n" for i, one in enumerate(engines)
    )
    (project / "params.yaml").write_text(text)
    found = compose(project)
    assert set(found.models) == {"digits"}
    assert set(found.engines) == {"d"}
    assert not any("\n" in str(error) for error in found.mistakes)
    return [str(error) for error in found.mistakes]


MODELS = {
    "model: {factory: {norm: {_target_: examples.digits.model.DigitsNet}}}": "model.factory.norm._target_",
    "model: {factory: {layers: [1, {_target_: os.system}]}}": "model.factory.layers.1._target_",
    "model: {data: {test: {transform: {_target_: a.b}}}}": "model.data.test.transform._target_",
    "model: {data: {_target_: a.b}}": "model.data._target_",
    "model: {_target_: a.b}": "model._target_",
    "export: {_target_: a.b}": "export._target_",
    "check: {severity: {_target_: a.b}}": "check.severity._target_",
    "report: {gates: {_target_: {sqnr_db: 3}}}": "report.gates._target_",
}
ENGINES = {
    "quantize: {options: {_target_: os.system}}": "quantize.options._target_",
    "quantize: {options: {percentile: {_target_: os.system}}}": "quantize.options.percentile._target_",
    "quantize: {layers: {head: {options: {_target_: a.b}}}}": "quantize.layers.head.options._target_",
    "engine: {_target_: a.b}": "engine._target_",
    "engine: {profiles: [{_target_: {min: 1}}]}": "engine.profiles.0._target_",
    "engine: {memory_pools: {_target_: 1}}": "engine.memory_pools._target_",
}


def test_a_target_anywhere_else_is_refused_with_its_place(project: Path) -> None:
    found = mistakes(project, list(MODELS), list(ENGINES))
    wanted = [f"params.yaml: models.m{index}.{place}" for index, place in enumerate(MODELS.values())]
    wanted += [f"params.yaml: engines.e{index}.{place}" for index, place in enumerate(ENGINES.values())]
    for message, place in zip(found, wanted, strict=True):
        assert message.startswith(f"{place}: {ELSEWHERE}")


def test_a_target_in_a_file_of_conf_is_refused_with_the_file(project: Path) -> None:
    file = project / "conf/model/digits.yaml"
    file.write_text(file.read_text().replace("width: 32}", "width: {_target_: a.b}}"))
    (project / "params.yaml").write_text("models: {digits: {}}\nengines: {d: {model: digits}}")
    (error,) = compose(project).mistakes
    assert str(error).startswith(f"conf/model/digits.yaml: factory.width._target_: {ELSEWHERE}")


STANDARD = """
os.system os.path subprocess.run builtins.eval builtins.exec shutil.rmtree pickle.load _pickle.load runpy.run_path
importlib.import_module code.interact posix.system pathlib.Path.write_text
"""
LOADERS = """
torch.load torch.serialization.load torch.jit.load torch.export.load torch.hub.load torch.hub.load_state_dict_from_url
torch.utils.cpp_extension.load torch.package.PackageImporter numpy.load
"""


def test_python_s_own_library_is_refused_as_the_entry_is_composed(project: Path) -> None:
    made = [f"model: {{factory: {{_target_: {target}}}}}" for target in STANDARD.split()]
    read = [f"model: {{data: {{test: {{source: python, _target_: {target}}}}}}}" for target in STANDARD.split()]
    keys = ["factory"] * len(made) + ["data.test"] * len(read)
    loaded = [f"model: {{factory: {{_target_: {target}}}}}" for target in LOADERS.split()]
    found = mistakes(project, made + read + loaded)
    for index, (message, key, target) in enumerate(zip(found, keys, STANDARD.split() * 2, strict=False)):
        assert message.startswith(f"params.yaml: models.m{index}.model.{key}._target_: {target} {PYTHONS}")
    for message, target in zip(found[len(keys) :], LOADERS.split(), strict=True):
        assert f"model.factory._target_: {target} is refused: it may run code that a file holds." in message


def test_a_package_of_one_s_own_may_have_the_name_of_one_of_python_s(project: Path) -> None:
    (project / "code").mkdir()
    (project / "code/__init__.py").write_text("")
    (project / "params.yaml").write_text(
        "models: {digits: {model: {factory: {_target_: code.Net}}}}\nengines: {d: {model: digits}}"
    )
    assert not compose(project).errors


def refusal(target: str) -> str:
    with pytest.raises(ModelError) as error:
        load_model({"_target_": target}, None, None, Path())
    assert str(error.value).startswith(f"model.factory._target_: {target} ")
    return str(error.value)


@pytest.mark.parametrize(
    "target",
    ["os.system", "posix.system", "builtins.eval", f"{__name__}.system", "torch.hub.urlopen", "torch.hub.Path"],
)
def test_python_s_own_library_is_refused_where_it_is_called(target: str) -> None:
    """By where a function comes from: `torch.hub.urlopen` is urllib's, and this file has subprocess.run as `system`."""
    assert PYTHONS in refusal(target)


@pytest.mark.parametrize("target", LOADERS.split())
def test_what_would_pass_by_the_trust_in_a_file_is_refused(target: str) -> None:
    message = refusal(target)
    assert "is refused: it may run code that a file holds." in message
    assert "Give the file as model.weights, model.torchscript or model.program" in message


def test_classes_functions_and_partials_of_a_project_and_of_a_library_are_called() -> None:
    made: Any = load_model({"_target_": f"{__name__}.Net", "width": 5}, None, None, Path())
    assert made.linear.weight.shape == (5, 2)
    assert load_model({"_target_": f"{__name__}.wide"}, None, None, Path()).linear.weight.shape == (7, 2)
    assert resolved("torch.nn.Linear", ModelError) is nn.Linear
    assert isinstance(load_model({"_target_": "torch.nn.Identity"}, None, None, Path()), torch.nn.Identity)
