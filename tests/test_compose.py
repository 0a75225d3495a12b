"""compose: what it writes, what it leaves alone, and how it says what is wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from qntz.compose import compose, read_params
from qntz.errors import ConfigError


def composed(project: Path, kind: str, name: str) -> dict:
    return yaml.safe_load((project / f"build/config/{kind}/{name}.yaml").read_text())


def params(project: Path, text: str) -> None:
    (project / "params.yaml").write_text(text)


def only_error(project: Path, text: str) -> str:
    params(project, text)
    result = compose(project)
    (error,) = result.errors.values()
    return str(error)


def test_the_default_set_composes(project: Path) -> None:
    result = compose(project)
    assert not result.errors
    assert set(result.models) == {"digits", "rows", "early_exit"}
    digits = composed(project, "models", "digits")
    assert digits["model"]["factory"] == {"_target_": "examples.digits.model.DigitsNet", "width": 32}
    assert digits["calibrate"]["needed"] is True  # digits-int8
    assert digits["report"]["engines"] == ["digits-fp16", "digits-fp32", "digits-int8"]
    assert composed(project, "models", "early_exit")["calibrate"]["needed"] is False
    assert composed(project, "models", "early_exit")["torchscript"]["method"] == "script"
    int8 = composed(project, "engines", "digits-int8")
    assert (int8["model_name"], int8["quantize"]["precision"], int8["engine"]["backend"]) == (
        "digits",
        "int8",
        "tensorrt_rtx",
    )
    assert set(int8["inputs"]) == {"quantize", "engine", "verify"}


def test_an_unchanged_file_is_left_untouched(project: Path) -> None:
    compose(project)
    files = sorted((project / "build/config").rglob("*.yaml"))
    before = [(f, f.stat().st_mtime_ns) for f in files]
    assert compose(project).written == []
    assert [(f, f.stat().st_mtime_ns) for f in files] == before


def test_files_of_entries_that_are_gone_are_removed(project: Path) -> None:
    compose(project)
    params(project, "models: {digits: {}}\nengines: {d: {model: digits}}")
    compose(project)
    assert sorted(p.name for p in (project / "build/config").rglob("*.yaml")) == ["d.yaml", "digits.yaml"]


def test_overrides_and_inheritance(project: Path) -> None:
    params(
        project,
        """
models:
  wide: {use: digits, model: {factory: {width: 64}}, quantize: {use: int8, method: entropy}, export: {opset: 18}}
engines:
  a: {model: wide, engine: {compute_capabilities: [sm89, sm120]}}
  b: {model: wide, quantize: {use: int8, method: percentile, options: {percentile: 99.9}}}
""",
    )
    assert not compose(project).errors
    wide = composed(project, "models", "wide")
    assert wide["model"]["factory"]["width"] == 64
    assert wide["model"]["factory"]["_target_"] == "examples.digits.model.DigitsNet"
    assert wide["export"]["opset"] == 18
    a, b = composed(project, "engines", "a"), composed(project, "engines", "b")
    assert (a["quantize"]["precision"], a["quantize"]["method"]) == ("int8", "entropy")
    assert a["engine"]["compute_capabilities"] == ["sm89", "sm120"]
    assert (b["quantize"]["method"], b["quantize"]["options"]) == ("percentile", {"percentile": 99.9})


def test_an_interpolation_of_the_environment_is_resolved_and_remembered(project: Path, monkeypatch) -> None:
    params(
        project,
        "models: {m: {use: digits, model: {factory: {width: '${oc.decode:${oc.env:WIDTH}}'}}}}\nengines: {e: {model: m}}",
    )
    monkeypatch.setenv("WIDTH", "16")
    compose(project)
    assert composed(project, "models", "m")["model"]["factory"]["width"] == 16
    monkeypatch.setenv("WIDTH", "24")
    compose(project)
    assert composed(project, "models", "m")["model"]["factory"]["width"] == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models: {digts: {}}\nengines: {e: {model: digts}}",
            "params.yaml: models.digts: no conf/model/digts.yaml. Did you mean 'digits'?",
        ),
        (
            "models: {digits: {exprt: {opset: 18}}}\nengines: {e: {model: digits}}",
            "params.yaml: models.digits: unknown group 'exprt'. Did you mean 'export'?",
        ),
        (
            "models: {digits: {export: {opst: 18}}}\nengines: {e: {model: digits}}",
            "params.yaml: models.digits.export.opst: unknown key 'opst'. Did you mean 'opset'?",
        ),
        (
            "models: {digits: {export: {require: entropy}}}\nengines: {e: {model: digits}}",
            "params.yaml: models.digits.export.require: a list is expected. Give one, [a, b].",
        ),
        (
            "models: {digits: {export: {opset: high}}}\nengines: {e: {model: digits}}",
            "params.yaml: models.digits.export.opset: Value 'high' of type 'str' could not be converted to Integer.",
        ),
        (
            "models: {digits: {model: {dims: {batch: {min: 99}}}}}\nengines: {e: {model: digits}}",
            "min 99, opt 8, max 64 are out of order",
        ),
        (
            "models: {digits: {model: {factory: {width: '${nothing}'}}}}\nengines: {e: {model: digits}}",
            "Interpolation key 'nothing' not found",
        ),
    ],
)
def test_a_bad_model_entry_says_file_key_and_mend(project: Path, text: str, message: str) -> None:
    params(project, text)
    result = compose(project)
    model_error = next(e for (kind, _), e in result.errors.items() if kind == "models")
    assert message in str(model_error)
    assert "cannot be composed" in str(result.errors["engines", "e"])  # the engine says that its model is the reason


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("{model: digit}", "params.yaml: engines.e.model: unknown model 'digit'. Did you mean 'digits'?"),
        ("{quantize: {use: int8}}", "params.yaml: engines.e: no model is named"),
        (
            "{model: digits, quantize: {use: int9}}",
            "engines.e.quantize.use: no conf/quantize/int9.yaml. Did you mean 'int8'?",
        ),
        ("{model: digits, quantize: int8}", "Write quantize: {use: int8}."),
        ("{model: digits, export: {opset: 18}}", "'export' belongs to the model, which all its engines share"),
        (
            "{model: digits, quantize: {use: int8, methd: max}}",
            "engines.e.quantize.methd: unknown key 'methd'. Did you mean 'method'?",
        ),
        ("{model: digits, engine: {workspace_bytes: many}}", "engines.e.engine.workspace_bytes: Value 'many'"),
        ("7", "params.yaml: engines.e: 7 is no mapping"),
    ],
)
def test_a_bad_engine_entry_says_file_key_and_mend(project: Path, engine: str, message: str) -> None:
    assert message in only_error(project, f"models: {{digits: {{}}}}\nengines: {{e: {engine}}}")


def test_a_bad_file_of_a_group_is_named(project: Path) -> None:
    (project / "conf/model/broken.yaml").write_text(
        "factory: {_target_: a.B}\ninputs: {x: {dtipe: float32, shape: [2]}}\n"
    )
    params(project, "models: {broken: {}}\nengines: {e: {model: broken}}")
    result = compose(project)
    assert str(result.errors["models", "broken"]).startswith(
        "conf/model/broken.yaml: inputs.x.dtipe: unknown key 'dtipe'"
    )


def test_a_bad_entry_leaves_the_good_ones_alone(project: Path) -> None:
    params(project, "models: {digits: {}, nope: {}}\nengines: {good: {model: digits}, bad: {model: nope}}")
    result = compose(project)
    assert set(result.errors) == {("models", "nope"), ("engines", "bad")}
    assert composed(project, "engines", "good")["quantize"]["precision"] == "fp32"
    failed = composed(project, "models", "nope")
    assert failed["error"]["what"] == "no conf/model/nope.yaml"
    # every key that a stage depends on is there, so that DVC runs the stage and it says this error
    assert failed["export"] == {"opset": None}
    assert failed["model"]["inputs"] is None
    assert "error" in failed["inputs"]["export"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {a: {}}\nengines: {}", "params.yaml: `engines` is empty"),
        ("models: [a]\nengines: {e: {}}", "params.yaml: `models` is a list, no mapping"),
        ("models:\n  a: {}\n  a: {}\nengines: {e: {}}", "params.yaml:2 and line 3: 'a' stands twice"),
        ("models: {a: {}\n", "params.yaml"),
        ("- a", "params.yaml: holds no entries"),
    ],
)
def test_params_that_hold_no_entries(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_params(tmp_path / "params.yaml")
    assert message in str(error.value)


def test_names_that_dvc_would_stumble_over(project: Path) -> None:
    params(project, "models: {digits: {}, 'a b': {use: digits}}\nengines: {e: {model: digits}}")
    assert "'a b' is no name" in str(compose(project).errors["models", "a b"])


def test_it_imports_nothing_heavy(project: Path) -> None:
    compose(project)
    heavy = "torch onnx onnxruntime onnxsim tensorrt_rtx transformers"
    code = f"import sys, runpy\ntry: runpy.run_module('stages.compose', run_name='__main__')\nexcept SystemExit as e: assert e.code == 0\nbad = [m for m in '{heavy} plugins'.split() if m in sys.modules]\nassert not bad, bad"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], cwd=project, check=True, timeout=60)


def test_importing_qntz_is_light(project: Path) -> None:
    code = "import sys, qntz\nbad = [m for m in ('torch', 'onnx', 'tensorrt_rtx', 'numpy', 'hydra') if m in sys.modules]\nassert not bad, bad"
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, timeout=60)


def test_a_memo_from_elsewhere_does_no_harm(project: Path) -> None:
    compose(project)
    wanted = composed(project, "models", "digits")
    memo = project / "build/memo/compose.json"
    memo.write_text("{}")
    compose(project)
    assert composed(project, "models", "digits") == wanted
    memo.write_text('{"version": 3, "files": [')
    compose(project)
    assert composed(project, "models", "digits") == wanted


def test_an_edit_within_two_seconds_is_seen(project: Path) -> None:
    """Same size and, on a coarse clock, the same time: an entry that young must not be trusted."""
    weights = project / "examples/digits/weights.safetensors"
    data = bytearray(weights.read_bytes())
    compose(project)
    before = composed(project, "models", "digits")["inputs"]["torchscript"]["weights"]
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    compose(project)
    assert composed(project, "models", "digits")["inputs"]["torchscript"]["weights"] != before
    time.sleep(0)
