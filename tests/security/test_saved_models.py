"""Files that hold code: each is shown to run it where it is loaded bluntly, and not to where qntz is given it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from qntz.artifacts import digest_file
from qntz.compose import compose
from qntz.config import InputConfig, ModelConfig
from qntz.errors import ConfigError, ModelError
from qntz.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Writes(nn.Module):
    """Writes `#!` into the file "ran" as it is loaded, in TorchScript alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight)

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        text = torch.from_file("ran", True, 2, dtype=torch.uint8)
        text.copy_(torch.tensor([35, 33], dtype=torch.uint8))
        self.weight = state[0] + 0 * text.sum()
        self.training = state[1]


class Evil:
    def __reduce__(self):
        return (os.system, ("touch ran",))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def torchscript(path: Path) -> None:
    torch.jit.script(Writes()).save(str(path))


def program_with_pickled_weight(path: Path) -> None:
    """The weights' index says that one is a pickle, which torch then loads with weights_only=False."""
    changed(path, "data/weights/model_weights_config.json", pickled_weight)


def program_with_pickled_inputs(path: Path) -> None:
    """The example inputs, which torch loads with weights_only=True, and then, as that fails, without."""
    changed(path, "data/sample_inputs/model.pt", lambda _, files: files | {"data/sample_inputs/model.pt": evil()})


def pickled_weight(config: bytes, files: dict[str, bytes]) -> dict[str, bytes]:
    told = json.loads(config)
    weight = told["config"]["linear.weight"]
    weight["use_pickle"] = True
    return files | {
        "data/weights/model_weights_config.json": json.dumps(told).encode(),
        f"data/weights/{weight['path_name']}": evil(),
    }


def evil() -> bytes:
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    return buffer.getvalue()


def changed(path: Path, name: str, change) -> None:
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(3, 2),)), path)
    with zipfile.ZipFile(path) as archive:
        top = archive.namelist()[0].partition("/")[0]
        files = {one.partition("/")[2]: archive.read(one) for one in archive.namelist()}
    files = change(files[name], files)
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in files.items():
            archive.writestr(f"{top}/{inner}", data)


def load_bluntly(path: Path) -> None:
    with contextlib.suppress(Exception):  # what is no model in the end has run its code all the same
        torch.jit.load(str(path)) if path.suffix == ".ts" else torch.export.load(path)


SAVED = {
    "net.ts": torchscript,
    "weight.pt2": program_with_pickled_weight,
    "inputs.pt2": program_with_pickled_inputs,
}


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_runs_code_and_is_refused_unless_its_digest_is_trusted(here: Path, name: str) -> None:
    SAVED[name](here / name)
    (here / "ran").unlink(missing_ok=True)
    digest = digest_file(here / name)
    for trusted in (None, "0" * 64):
        with pytest.raises(ConfigError) as error:
            load_model(None, None, name, here, trusted)
        message = str(error.value)
        assert message.startswith(f"model.trusted: {name} is ")
        assert "as soon as it is loaded" in message
        key = "torchscript" if name.endswith(".ts") else "program"
        assert message.endswith(f"If you trust who made it, put `trusted: {digest}` beside `{key}:`.")
    assert not (here / "ran").exists()
    load_bluntly(here / name)
    assert (here / "ran").exists(), "this one is harmless: the test shows nothing"


def test_a_trusted_one_is_loaded(here: Path) -> None:
    torch.jit.script(Net().eval()).save("net.ts")
    loaded = load_model(None, None, "net.ts", here, digest_file(here / "net.ts"))
    assert loaded(torch.ones(1, 2)).shape == (1, 3)


CONF = """
torchscript: mine/net.ts
{trusted}inputs: {{x: {{dtype: float32, shape: [batch, 2]}}}}
dims: {{batch: {{min: 1, opt: 2, max: 4}}}}
"""


def composed(project: Path, trusted: str) -> list[str]:
    (project / "conf/model/saved.yaml").write_text(CONF.format(trusted=f"trusted: {trusted}\n" if trusted else ""))
    params = "models: {saved: {}, digits: {}}\nengines: {e: {model: saved}, d: {model: digits}}"
    (project / "params.yaml").write_text(params)
    result = compose(project)
    assert set(result.models) >= {"digits"}  # the others go on
    return [str(error) for error in result.mistakes]


def test_compose_tells_the_line_to_add_and_takes_it(project: Path) -> None:
    (project / "mine").mkdir()
    torch.jit.script(Net().eval()).save(str(project / "mine/net.ts"))
    digest = digest_file(project / "mine/net.ts")
    (message,) = composed(project, "")
    assert message == (
        "params.yaml: models.saved.model.trusted: mine/net.ts is not trusted: a TorchScript archive holds code, which runs"
        f" as soon as it is loaded. If you trust who made it, put `trusted: {digest}` beside `torchscript:`."
    )
    line = message.partition("`")[2].partition("`")[0]
    assert composed(project, line.removeprefix("trusted: ")) == []
    torch.jit.script(nn.Sequential(Net())).save(str(project / "mine/net.ts"))
    assert "True' is no SHA-256" in composed(project, "true")[0]  # as YAML has it
    (message,) = composed(project, digest)
    assert "mine/net.ts is another file than the trusted one" in message
    assert digest_file(project / "mine/net.ts") in message


@pytest.mark.parametrize("trusted", ["true", "yes", "", "A" * 64, "0" * 63])
def test_what_is_no_digest_is_no_trust(trusted: str) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(torchscript="net.ts", trusted=trusted, inputs={"x": InputConfig(shape=[2])})
    wanted = "is no SHA-256. Give the 64 digits that `sha256sum` prints of the file."
    assert str(error.value) == f"model.trusted: {trusted!r} {wanted}"


def test_a_factory_has_nothing_to_trust() -> None:
    with pytest.raises(ConfigError, match="there is no saved model to trust"):
        ModelConfig(factory={"_target_": "a.B"}, trusted="a" * 64, inputs={"x": InputConfig(shape=[2])})


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_weights_that_are_a_malicious_pickle_are_refused(here: Path, suffix: str, protocol: int) -> None:
    path = here / f"weights{suffix}"
    for write in (lambda: torch.save({"w": Evil()}, path), lambda: path.write_bytes(pickle.dumps(Evil(), protocol))):
        write()
        with pytest.raises(ModelError) as error:
            load_model({"_target_": f"{__name__}.Net"}, path.name, None, here)
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)
    assert not (here / "ran").exists()
    if suffix == ".pt":
        torch.load(io.BytesIO(evil()), weights_only=False)
        assert (here / "ran").exists(), "this one is harmless: the test shows nothing"


def test_what_a_capture_tells_of_its_code_is_read_without_running_any(here: Path) -> None:
    """The places in a TorchScript archive are a pickle, of whoever wrote it."""
    from qntz.torchscript.places import places_in

    torch.jit.script(Net()).save("net.ts")
    with zipfile.ZipFile("net.ts") as archive:
        assert places_in(archive)
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("evil.ts", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, pickle.dumps(Evil(), 2) if name.endswith(".debug_pkl") else data)
    with zipfile.ZipFile("evil.ts") as archive, pytest.raises(pickle.UnpicklingError, match="posix.system"):
        places_in(archive)
    assert not (here / "ran").exists()
