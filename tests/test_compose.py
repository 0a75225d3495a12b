"""compose: what it writes, what it leaves alone, and how it says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from qntz.compose import MEMO, compose, read_params
from qntz.errors import ConfigError
from qntz.fingerprint import TRUSTED_AGE_NS, Memo
from qntz.watch import files_in


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
        (
            "models: {digits: {report: {gates: {digits-in8: {sqnr_db: 30}}}}, rows: {}}\n"
            "engines: {e: {model: digits}, digits-int8: {model: digits}, digits-in8: {model: rows}}",
            "params.yaml: models.digits.report.gates.digits-in8: matches no engine of the model."
            " Did you mean 'digits-int8'?",
        ),
        (
            "models: {digits: {report: {gates: {'*': {baseline: digits, bytes_ratio: 1}}}}}\n"
            "engines: {e: {model: digits}, fp32: {model: digits}}",
            "params.yaml: models.digits.report.gates.*.baseline: no engine 'digits' of the model. Known: e, fp32.",
        ),
        (
            "models: {digits: {report: {gates: {e: {sqnr_db: 201}}}}}\nengines: {e: {model: digits}}",
            "params.yaml: models.digits.report.gates.e.sqnr_db: 201 dB are never reached",
        ),
    ],
)
def test_a_bad_model_entry_says_file_key_and_mend(project: Path, text: str, message: str) -> None:
    params(project, text)
    result = compose(project)
    model_error = next(e for (kind, _), e in result.errors.items() if kind == "models")
    assert message in str(model_error)
    assert "cannot be composed" in str(result.errors["engines", "e"])  # the engine says that its model is the reason


def test_a_gate_of_an_engine_that_has_an_error_leaves_the_others_alone(project: Path) -> None:
    gates = "{digits-int8: {baseline: digits-fp32, bytes_ratio: 0.5}, 'f*': {sqnr_db: 30}}"
    text = f"models: {{digits: {{report: {{gates: {gates}}}}}}}\n"
    text += "engines: {fine: {model: digits}, digits-int8: {model: digits, engin: {}}, digits-fp32: {}}"
    params(project, text)
    assert set(compose(project).errors) == {("engines", "digits-int8"), ("engines", "digits-fp32")}
    assert composed(project, "models", "digits")["report"]["engines"] == ["fine"]


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


@pytest.mark.parametrize(
    ("engine", "precision", "key", "message"),
    [
        ("{compute_capabilities: [sm89, sm90]}", "fp16", "engine.compute_capabilities", "tensorrt_rtx has no sm90: it"),
        ("{compute_capabilities: [sm75]}", "fp32", "engine.compute_capabilities", "sm75 does not run fp32: tensorrt_rtx"),
        ("{compute_capabilities: [sm75]}", "bf16", "engine.compute_capabilities", "sm75 does not run bf16: tensorrt_rtx"),
        ("{compute_capabilities: [sm75]}", "fp8", "engine.compute_capabilities", "sm75 has no fp8: it begins with sm89."),
        ("{use: onnxruntime}", "bf16", "quantize.precision", "onnxruntime has no bf16: its CPU kernels do not"),
        ("{use: tensorrt}", "fp16", "engine.compute_capabilities", "tensorrt builds for one GPU, none is named: its"),
        (
            "{use: tensorrt, compute_capabilities: [sm89, sm90]}",
            "fp16",
            "engine.compute_capabilities",
            "tensorrt builds for one GPU, sm89, sm90 are named: its",
        ),
    ],
)  # fmt: skip
def test_what_a_backend_cannot_build_is_refused_before_any_stage(
    project: Path, engine: str, precision: str, key: str, message: str
) -> None:
    entry = f"{{model: digits, quantize: {{use: {precision}}}, engine: {engine}}}"
    told = only_error(project, f"models: {{digits: {{}}}}\nengines: {{e: {entry}}}")
    file = f"conf/quantize/{precision}.yaml: precision" if key.startswith("quantize") else f"engines.e.{key}"
    assert f"{file}: {message}" in told
    assert told.count(". ") == 1  # what to do


@pytest.mark.parametrize("default", ["engine: tensorrt", "quantize: fp8"])
def test_what_a_models_engines_complete_is_no_error_of_the_model(project: Path, default: str) -> None:
    """A project's default backend, say, whose GPU each engine names."""
    config = project / "conf/config.yaml"
    group = default.partition(":")[0]
    text = config.read_text().replace({"engine": "engine: tensorrt_rtx", "quantize": "quantize: fp32"}[group], default)
    config.write_text(text)
    whole = "{model: rows, engine: {compute_capabilities: [sm89]}}"
    params(project, f"models: {{rows: {{}}}}\nengines: {{whole: {whole}, bare: {{model: rows}}}}")
    result = compose(project)
    assert set(result.errors) == {("engines", "bare")}
    assert result.models["rows"]["report"]["engines"] == ["whole"]
    params(project, f"models: {{rows: {{engine: {{tiling_level: most}}}}}}\nengines: {{whole: {whole}}}")
    told = str(compose(project).errors["models", "rows"])
    assert told.startswith("params.yaml: models.rows.engine.tiling_level: unknown value 'most'")


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


@pytest.mark.parametrize("name", ["a b", "../../victim", "x; touch ran", "$(touch ran)", "a/b", ".", "-k", "1a", ""])
def test_names_that_dvc_would_put_into_paths_and_commands(tmp_path: Path, name: str) -> None:
    for where, text in (
        ("models", f"models: {{digits: {{}}, {name!r}: {{use: digits}}}}\nengines: {{e: {{model: digits}}}}"),
        ("engines", f"models: {{digits: {{}}}}\nengines: {{{name!r}: {{model: digits}}}}"),
        ("engines.e.model", f"models: {{digits: {{}}}}\nengines: {{e: {{model: {name!r}}}}}"),
    ):
        params(tmp_path, text)
        with pytest.raises(ConfigError) as error:
            read_params(tmp_path / "params.yaml")
        assert str(error.value).startswith(f"params.yaml: {where}: {name!r} is no name. Names start with a letter")


@pytest.mark.parametrize(("name", "told"), [("true", "True is a bool"), ("null", "None is a NoneType")])
def test_a_name_that_yaml_takes_for_something_else(project: Path, name: str, told: str) -> None:
    for where, text in (
        ("models", f"models: {{digits: {{}}, {name}: {{use: digits}}}}\nengines: {{e: {{model: digits}}}}"),
        ("engines", f"models: {{digits: {{}}}}\nengines: {{{name}: {{model: digits}}}}"),
    ):
        params(project, text)
        with pytest.raises(ConfigError) as error:
            compose(project)
        assert str(error.value) == f"params.yaml: {where}: {told}, no name. Put it in quotes."
    params(project, f"models: {{'{name}': {{use: digits}}}}\nengines: {{e: {{model: '{name}'}}}}")
    assert not compose(project).errors
    assert composed(project, "models", name)["name"] == name


def test_nothing_is_composed_where_a_name_is_none(project: Path) -> None:
    params(project, "models: {digits: {}, 'a b': {use: digits}}\nengines: {e: {model: digits}}")
    with pytest.raises(ConfigError, match="'a b' is no name"):
        compose(project)
    assert not (project / "build").exists()


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


def test_a_file_that_is_young_is_not_remembered(project: Path) -> None:
    """On a coarse clock an edit of the same size may leave size and times as they were."""
    memo, path = Memo(project / "memo.json"), project / "weights"
    path.write_bytes(b"one")
    assert memo.of_file(path, "bytes", Path.read_bytes) == b"one"
    assert memo.of_file(path, "bytes", lambda _: b"two") == b"two"
    time.sleep(TRUSTED_AGE_NS / 1e9 + 0.1)
    assert memo.of_file(path, "bytes", Path.read_bytes) == b"one"
    assert memo.of_file(path, "bytes", lambda _: b"two") == b"one"


def test_what_is_remembered_is_found_again_whatever_conf_is_made_of(project: Path, monkeypatch) -> None:
    """A linked folder, a variable with a blank before its colon, a secret that is set later."""
    (project / "conf/model").rename(project / "shared")
    (project / "conf/model").symlink_to(project / "shared")
    file = project / "shared/digits.yaml"
    text = file.read_text()
    compose(project)
    assert "width: 32" in text
    file.write_text(text.replace("width: 32", "width: 48"))
    compose(project)
    assert composed(project, "models", "digits")["model"]["factory"]["width"] == 48
    file.write_text(text.replace("width: 32", "width: '${oc.decode:${oc.env : WIDTH_OF_A_TEST}}'"))
    for width in (16, 24):
        monkeypatch.setenv("WIDTH_OF_A_TEST", str(width))
        assert not compose(project).errors
        assert composed(project, "models", "digits")["model"]["factory"]["width"] == width
    file.write_text(text.replace("width: 32", "width: 31415926"))
    assert not compose(project).errors
    monkeypatch.setenv("A_TEST_TOKEN", "31415926")
    assert "holds the value of A_TEST_TOKEN" in str(compose(project).errors["models", "digits"])


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("{'0': {method: max}}", "{0: {method: max}}", "0"),
        ("{fc: {method: '2020-01-01'}}", "{fc: {method: 2020-01-01}}", "date"),
    ],
)
def test_what_is_told_apart_by_type_alone(project: Path, good: str, bad: str, words: str) -> None:
    text = "models: {digits: {}}\nengines: {a: {model: digits, quantize: {use: int8, layers: LAYERS}}}\n"
    params(project, text.replace("LAYERS", good))
    first = compose(project)
    params(project, text.replace("LAYERS", bad))
    error = compose(project).errors["engines", "a"]
    (project / MEMO).unlink()
    assert str(error) == str(compose(project).errors["engines", "a"])
    assert words in str(error)
    assert "2020" in good or not first.errors


def test_what_another_run_would_compose_otherwise_is_refused(project: Path) -> None:
    file = project / "conf/model/digits.yaml"
    text = file.read_text()
    file.write_text(text.replace("width: 32", "width: '${now:%S}'"))
    assert "conf/model/digits.yaml: factory.width: interpolates now: it is another at each run" in str(
        compose(project).errors["models", "digits"]
    )
    file.write_text(text)
    with (project / "conf/config.yaml").open("a") as config:
        config.write("hydra: {searchpath: [file:///elsewhere]}\n")
    with pytest.raises(ConfigError, match="conf/config.yaml: hydra.searchpath leads outside. Put the files into conf/"):
        compose(project)


def test_a_file_of_a_group_that_is_no_text_stops_none_but_who_uses_it(project: Path) -> None:
    (project / "conf/model/bad.yaml").write_bytes(b"a: \xff\n")
    params(project, "models: {digits: {}, bad: {}}\nengines: {a: {model: digits}}\n")
    result = compose(project)
    assert set(result.errors) == {("models", "bad")}
    assert "conf/model/bad.yaml: is no UTF-8 text: UnicodeDecodeError" in str(result.errors["models", "bad"])
    assert set(result.engines) == {"a"}


def test_a_folder_in_the_place_of_params_yaml(project: Path) -> None:
    (project / "params.yaml").unlink()
    (project / "params.yaml").mkdir()
    with pytest.raises(ConfigError, match="params.yaml: cannot be read: IsADirectoryError"):
        compose(project)


def test_weights_that_cannot_be_read_stop_their_own_entries_alone(project: Path) -> None:
    params(project, "models: {digits: {model: {weights: /proc/self/mem}}, rows: {}}\nengines: {a: {model: rows}}\n")
    result = compose(project)
    assert set(result.errors) == {("models", "digits")}
    assert "params.yaml: models.digits" in str(result.errors["models", "digits"])
    assert set(result.engines) == {"a"}


def test_folders_that_hold_links_to_themselves_have_an_end(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/one").write_text("1")
    compose(project)
    for name in ("l1", "l2"):
        (project / "data" / name).symlink_to(project / "data")
    assert [path.name for path in files_in(project / "data")] == ["one"]


def test_files_that_another_process_writes_are_left_alone(project: Path) -> None:
    compose(project)
    folder = project / "build/config/models"
    living, dead = folder / f".rows.yaml.{os.getppid()}.tmp", folder / ".rows.yaml.4194305.tmp"
    for path in (living, dead):
        path.write_text("")
    (project / "build/config/models/rows.yaml").unlink()
    compose(project)
    assert living.exists()
    assert not dead.exists()


@pytest.mark.parametrize(
    "command",
    [
        *(["targets"], ["check", "digits"], ["report", "--allow-missing"], ["inspect", "digits-int8"], ["status"]),
        *(["bench", "digits-int8"], ["sensitivity", "digits-int8"]),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_only_look_leave_what_was_composed_to_a_run(project: Path, command: list[str]) -> None:
    compose(project)
    before = {path: path.read_bytes() for path in (project / "build/config").rglob("*.*")}
    params(project, (project / "params.yaml").read_text().replace("digits: {}", "digits: {model: {probes: {seed: 7}}}"))
    subprocess.run([sys.executable, "-m", "qntz.cli", *command], cwd=project, capture_output=True, timeout=120)
    assert {path: path.read_bytes() for path in (project / "build/config").rglob("*.*")} == before
