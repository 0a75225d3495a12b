"""What a stage's key holds: each input changes it, a comment does not."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qntz import hookspecs, plugins
from qntz.compose import compose


def inputs(project: Path) -> dict[tuple[str, str], dict]:
    result = compose(project)
    assert not result.errors
    entries = {**result.models, **result.engines}
    return {(name, stage): section for name, entry in entries.items() for stage, section in entry["inputs"].items()}


def changed(project: Path, edit: Callable[[Path], None]) -> set[tuple[str, str]]:
    before = inputs(project)
    edit(project)
    after = inputs(project)
    return {key for key in before if before[key] != after[key]}


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        text = (project / path).read_text()
        assert old in text
        (project / path).write_text(text.replace(old, new, 1))

    return edit


def append(path: str, text: str) -> Callable[[Path], None]:
    return lambda project: (project / path).open("a").write(text)


MODELS = ("digits", "rows", "early_exit")
ENGINES = ("digits-fp32", "digits-fp16", "digits-int8", "rows-fp16", "rows-int8", "early_exit-fp32")


def test_a_line_of_a_models_source(project: Path) -> None:
    edit = append("examples/digits/model.py", "\nEXTRA = 1\n")
    assert changed(project, edit) == {("digits", "check"), ("digits", "torchscript")}


def test_a_comment_in_a_models_source_reaches_the_check_alone(project: Path) -> None:
    assert changed(project, append("examples/digits/model.py", "\n# a remark\n")) == {("digits", "check")}


def test_a_docstring_of_the_tool_reaches_nothing(project: Path) -> None:
    assert changed(project, replace("qntz/simplify.py", '"""Simplifies an', '"""Simplifies some')) == set()


def test_a_line_of_one_stages_module(project: Path) -> None:
    edit = append("qntz/simplify.py", "\nEXTRA = 1\n")
    assert changed(project, edit) == {(m, "simplify") for m in MODELS}


def test_a_module_that_every_stage_imports(project: Path) -> None:
    every = {(m, s) for m in MODELS for s in ("check", "torchscript", "export", "simplify", "calibrate", "report")}
    every |= {(e, s) for e in ENGINES for s in ("quantize", "engine", "verify")}
    assert changed(project, append("qntz/errors.py", "\nEXTRA = 1\n")) == every


def test_a_template_of_the_report(project: Path) -> None:
    templates = sorted((project / "qntz/report/templates").iterdir())
    edit = append(str(templates[0].relative_to(project)), "\n")
    assert changed(project, edit) == {(m, "report") for m in MODELS}


def test_a_plugin_reaches_the_stages_of_its_hooks(project: Path) -> None:
    edit = replace("plugins/complex_rotary.py", "tolerance=1e-5", "tolerance=2e-5")
    assert changed(project, edit) == {(m, s) for m in MODELS for s in ("check", "torchscript")}


def test_what_a_plugin_imports_counts_too(project: Path) -> None:
    (project / "plugins/_angles.py").write_text("LIMIT = 1\n")
    (project / "plugins/angles.py").write_text(
        "from qntz import hookimpl\nfrom plugins._angles import LIMIT\n\n@hookimpl\ndef qntz_metrics():\n    return []\n"
    )
    edit = replace("plugins/_angles.py", "LIMIT = 1", "LIMIT = 2")
    assert changed(project, edit) == {(e, s) for e in ENGINES for s in ("quantize", "verify")}


def test_calibration_data(project: Path) -> None:
    def edit(project: Path) -> None:
        path = project / "examples/rows/data/train.npz"
        path.write_bytes(path.read_bytes() + b"\0")

    assert changed(project, edit) == {("rows", "calibrate")}


def test_test_data(project: Path) -> None:
    def edit(project: Path) -> None:
        path = project / "examples/rows/data/test.npz"
        path.write_bytes(path.read_bytes() + b"\0")

    wanted = {("rows", "torchscript")} | {(e, s) for e in ("rows-fp16", "rows-int8") for s in ("quantize", "verify")}
    assert changed(project, edit) == wanted


def test_a_module_that_the_model_imports_in_a_function(project: Path) -> None:
    (project / "layers.py").write_text("def scale():\n    return 1\n")
    edit = append("examples/digits/model.py", "\ndef late():\n    from layers import scale\n    return scale()\n")
    edit(project)
    edit = replace("layers.py", "return 1", "return 2")
    assert changed(project, edit) == {("digits", "check"), ("digits", "torchscript")}


def test_extra_inputs(project: Path) -> None:
    (project / "table.txt").write_text("1")
    (project / "conf/model/digits.yaml").open("a").write("extra_inputs: ['*.txt']\n")
    # export and simplify by a plugin of the project, which may read it too
    wanted = {("digits", stage) for stage in ("check", "torchscript", "export", "simplify", "calibrate")}
    wanted |= {(e, s) for e in ENGINES if e.startswith("digits") for s in ("quantize", "verify")}
    assert changed(project, lambda p: (p / "table.txt").write_text("2")) == wanted


@pytest.mark.parametrize(
    "edit",
    [
        append("README.md", "more"),
        append("examples/digits/train.py", "\nEXTRA = 1\n"),
        append("tests.py", "x = 1\n"),
        append("stages/compose.py", "\nEXTRA = 1\n"),
        append("params.yaml", "\n# a remark\n"),
        append("conf/export/default.yaml", "\n# a remark\n"),
    ],
    ids=["readme", "training", "a-test", "compose-stage", "params-comment", "conf-comment"],
)
def test_what_no_stage_depends_on(project: Path, edit: Callable[[Path], None]) -> None:
    (project / "README.md").write_text("read me")
    assert changed(project, edit) == set()


def write(path: str, text: str) -> Callable[[Path], None]:
    def edit(project: Path) -> None:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)

    return edit


CAPTURED = {("digits", "check"), ("digits", "torchscript")}


@pytest.mark.parametrize(
    ("given", "statement", "edit"),
    [
        (
            {"extra/parts.py": "A = 1"},
            "if not TYPE_CHECKING:\n    import extra.parts",
            write("extra/parts.py", "A = 2"),
        ),
        (
            {"extra/__init__.py": "__all__ = ['parts']", "extra/parts.py": "A = 1"},
            "from extra import *",
            write("extra/parts.py", "A = 2"),
        ),
        ({"extra/_c.so": "one"}, "from extra import _c", write("extra/_c.so", "two")),
        (
            {},
            "def f(x):\n    # type: (Tensor) -> Tensor\n    return x",
            replace("examples/digits/model.py", "(Tensor) ->", "(int) ->"),
        ),
        (
            {"examples/digits/beside.py": "A = 1"},
            "import sys\nsys.path.insert(0, 'examples/digits')\nfrom beside import A",
            write("examples/digits/beside.py", "A = 2"),
        ),
        (
            {"examples/blocks/one.py": "A = 1"},
            "import sys\nsys.path.insert(0, 'examples')\nfrom blocks import one",
            write("examples/blocks/one.py", "A = 2"),
        ),
        (
            {"examples/parts/__init__.py": "", "examples/parts/two.py": "A = 1"},
            "import sys\nsys.path.insert(0, 'examples')\nimport parts.two",
            write("examples/parts/two.py", "A = 2"),
        ),
        (
            {
                "extra/many.py": "def f(x):\n    if x == 0:\n        return 0\n"
                + "".join(f"    elif x == {i}:\n        return {i}\n" for i in range(1, 400))
            },
            "import extra.many",
            replace("extra/many.py", "return 399", "return 0"),
        ),
    ],
    ids=[
        "not-type-checking",
        "star",
        "extension",
        "type-comment",
        "on-the-path",
        "folder-on-the-path",
        "package-on-the-path",
        "deep",
    ],
)
def test_what_is_easily_missed_in_a_models_source(project: Path, given: dict, statement: str, edit) -> None:
    for path, text in given.items():
        write(path, text)(project)
    append("examples/digits/model.py", f"\n{statement}\n")(project)
    assert changed(project, edit) == CAPTURED


def test_a_file_that_the_factory_names(project: Path) -> None:
    write("extra/net.json", "{}")(project)
    replace("conf/model/digits.yaml", "width: 32", "width: 32, config: extra/net.json")(project)
    assert changed(project, write("extra/net.json", "{1}")) == CAPTURED


def test_a_glob_and_the_code_of_a_data_source(project: Path) -> None:
    write("extra/a.npy", "1")(project)
    write("extra/scale.py", "A = 1")(project)
    named = "files: 'extra/*.npy', _target_: extra.scale.f, file: examples/digits/data/train.npz"
    replace("conf/model/digits.yaml", "file: examples/digits/data/train.npz", named)(project)
    assert changed(project, write("extra/b.npy", "2")) == {("digits", "calibrate")}
    assert changed(project, write("extra/scale.py", "A = 2")) == {("digits", "calibrate")}


def test_the_order_of_the_inputs(project: Path) -> None:
    text = (project / "conf/model/rows.yaml").read_text().splitlines(keepends=True)
    rows, mask = (next(i for i, line in enumerate(text) if line.startswith(f"  {n}:")) for n in ("rows", "mask"))
    text[rows], text[mask] = text[mask], text[rows]
    reached = changed(project, write("conf/model/rows.yaml", "".join(text)))
    assert {("rows", stage) for stage in ("check", "torchscript", "export", "calibrate")} <= reached


def test_the_order_of_a_mapping_that_the_factory_or_a_source_may_go_through(project: Path) -> None:
    path = "conf/model/digits.yaml"
    replace(path, "width: 32", "width: 32, layers: {relu: 1, plus: 2}")(project)
    assert changed(project, replace(path, "{relu: 1, plus: 2}", "{plus: 2, relu: 1}")) == CAPTURED
    # what is given by name has no order
    one, other = "width: 32, layers: {plus: 2, relu: 1}", "layers: {plus: 2, relu: 1}, width: 32"
    assert changed(project, replace(path, one, other)) == set()
    data = "file: examples/digits/data/train.npz"
    replace(path, data, f"{data}, arrays: {{image: image, target: target}}")(project)
    one, other = "{image: image, target: target}", "{target: target, image: image}"
    assert changed(project, replace(path, one, other)) == {("digits", "calibrate")}


def test_environment_variables_that_sources_name(project: Path, monkeypatch) -> None:
    reads = (
        "import os\nfrom os import environ, getenv\n"
        "one = os.environ['ONE']\ntwo = environ.get('TWO', '')\nthree = getenv('THREE')\nfour = 'FOUR' in os.environ\n"
        "token = os.environ.get('HF_TOKEN')\nos.environ['FIVE'] = '5'\nhome = os.environ['HOME'], os.getenv('LOCAL_RANK')\n"
        "from os import environ as e, getenv as g\nother = e['SEVEN'], g(key='EIGHT')\nthis = os.environ\nthis['NINE']\n"
    )
    append("examples/digits/model.py", f"\n{reads}")(project)
    monkeypatch.setenv("ONE", "1")
    told = inputs(project)["digits", "torchscript"]["environment"]
    one = hashlib.sha256(b"1").hexdigest()
    unset = dict.fromkeys(["EIGHT", "FOUR", "HF_TOKEN", "NINE", "SEVEN", "THREE", "TWO"])
    assert told == {**unset, "ONE": one}
    for name in ("ONE", "FOUR", "NINE"):
        assert changed(project, lambda _, name=name: monkeypatch.setenv(name, "other")) == CAPTURED
    assert changed(project, lambda _: monkeypatch.setenv("HF_TOKEN", "hf_secret_one")) == CAPTURED
    assert inputs(project)["digits", "torchscript"]["environment"]["HF_TOKEN"] == "set"
    assert changed(project, lambda _: monkeypatch.setenv("HF_TOKEN", "hf_secret_two")) == set()
    assert changed(project, lambda _: monkeypatch.setenv("TWO", "https://me:hidden@host")) == CAPTURED
    assert inputs(project)["digits", "torchscript"]["environment"]["TWO"] == "set"
    assert changed(project, lambda _: monkeypatch.setenv("LOCAL_RANK", "1")) == set()
    assert changed(project, lambda _: monkeypatch.setenv("FIVE", "6")) == set()
    text = "import os\nfrom qntz import hookimpl\n@hookimpl\ndef qntz_graph_passes(opset, phase):\n    return [os.environ['SIX']]\n"
    write("plugins/z.py", text)(project)
    reached = changed(project, lambda _: monkeypatch.setenv("SIX", "6"))
    assert {stage for _, stage in reached} == set(hookspecs.CALLED_BY["qntz_graph_passes"])


def test_data_outside_of_the_project_has_one_name_wherever_the_checkout_lies(project: Path, tmp_path_factory) -> None:
    path, inside = "conf/model/digits.yaml", "examples/digits/data/train.npz"
    outside = tmp_path_factory.mktemp("data") / "train.npz"
    shutil.copy(project / inside, outside)
    replace(path, inside, str(outside))(project)
    before = inputs(project)
    assert [*before["digits", "calibrate"]["data"]] == [str(outside)]
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "deep" / "er"
    shutil.copytree(project, elsewhere, ignore=shutil.ignore_patterns("build"))
    assert inputs(elsewhere) == before
    replace(path, str(outside), str(project / inside))(project)
    assert [*inputs(project)["digits", "calibrate"]["data"]] == [inside]


@pytest.mark.parametrize("text", [".", "/", ".."])
def test_an_argument_that_happens_to_be_the_folder_of_all(project: Path, text: str) -> None:
    replace("conf/model/digits.yaml", "width: 32", f"width: 32, separator: '{text}'")(project)
    assert inputs(project)["digits", "torchscript"]["model_files"] == {}
    replace("conf/model/digits.yaml", "separator:", "path:")(project)
    error = str(compose(project).errors["models", "digits"])
    assert error == f"path: {text}: is the whole project, and changes with each run. Name a folder in it."


def test_a_factorys_argument_that_is_build_where_that_is_a_link(project: Path, tmp_path_factory) -> None:
    (project / "build").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    replace("conf/model/digits.yaml", "width: 32", "width: 32, cache: build")(project)
    assert inputs(project)["digits", "torchscript"]["model_files"] == {}


@pytest.mark.parametrize(
    ("local", "shown"),
    [("cpu", "1.0"), ("cu130", "1.0"), ("rocm6.2", "1.0"), ("pt23cu121", "1.0"), ("g1a2", "1.0+g1a2")],
)
def test_of_a_version_what_device_it_is_for_is_left_out(
    project: Path, tmp_path: Path, monkeypatch, local, shown
) -> None:
    other = tmp_path / "site" / "onnxsim-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: onnxsim\nVersion: 1.0+{local}\n")
    (other / "RECORD").write_text("onnxsim/__init__.py,,\n")
    monkeypatch.setattr(sys, "path", [str(other.parent), *sys.path])
    assert inputs(project)["digits", "simplify"]["tools"]["onnxsim"] == shown


def test_hooks_that_a_plugin_imports(project: Path) -> None:
    write("extra/hooks.py", "def f():\n    return []\n")(project)
    text = (
        "from qntz import hookimpl\ntry:\n    from extra.hooks import f as qntz_rules\nexcept ImportError:\n    raise\n"
    )
    write("plugins/z.py", text)(project)
    assert changed(project, write("extra/hooks.py", "def f():\n    return ()\n")) == {(m, "check") for m in MODELS}


def test_an_editable_distribution_with_its_egg_info_is_followed_as_source(project: Path, tmp_path, monkeypatch) -> None:
    import json

    source, site = tmp_path / "lib" / "src", tmp_path / "site"
    write("lib/src/acme/__init__.py", "A = 1")(tmp_path)
    write("lib/src/acme.egg-info/PKG-INFO", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")(tmp_path)
    write("lib/src/acme.egg-info/top_level.txt", "acme\n")(tmp_path)
    write("site/acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")(tmp_path)
    write("site/acme-1.0.dist-info/direct_url.json", json.dumps({"url": "", "dir_info": {"editable": True}}))(tmp_path)
    monkeypatch.setattr(sys, "path", [str(source), str(site), *sys.path])
    append("examples/digits/model.py", "\nimport acme\n")(project)
    assert changed(project, lambda _: (source / "acme/__init__.py").write_text("A = 2")) == CAPTURED


def test_another_place_and_touching_change_nothing(project: Path, tmp_path_factory) -> None:
    import os

    before = inputs(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "deep" / "er"
    shutil.copytree(project, elsewhere, ignore=shutil.ignore_patterns("build"))
    for path in elsewhere.rglob("*"):
        os.utime(path)
    assert inputs(elsewhere) == before


def test_a_tools_version(project: Path, tmp_path: Path, monkeypatch) -> None:
    """Another version of a distribution, first on the path, is another key for the stages that import it."""
    import sys

    before = inputs(project)
    other = tmp_path / "site" / "onnxsim-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxsim\nVersion: 99.0\n")
    (other / "RECORD").write_text("onnxsim/__init__.py,,\n")
    monkeypatch.setattr(sys, "path", [str(other.parent), *sys.path])
    after = inputs(project)
    assert {key for key in before if before[key] != after[key]} == {(m, "simplify") for m in MODELS}
    assert after["digits", "simplify"]["tools"]["onnxsim"] == "99.0"


def test_another_build_of_one_version_from_a_folder(project: Path, tmp_path: Path, monkeypatch) -> None:
    """A distribution that came from no index is known by its files: its version may stay while they change."""
    import sys

    other = tmp_path / "site" / "onnxsim-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxsim\nVersion: 99.0\n")
    (other / "direct_url.json").write_text('{"url": "file:///there", "dir_info": {}}')
    monkeypatch.setattr(sys, "path", [str(other.parent), *sys.path])

    def key(record: str) -> str:
        (other / "RECORD").write_text(record)
        (project / "build/memo/compose.json").unlink(missing_ok=True)
        return inputs(project)["digits", "simplify"]["tools"]["onnxsim"]

    first = key("onnxsim/__init__.py,sha256=aa,1\n../../bin/onnxsim,sha256=bb,2\nonnxsim-99.0.dist-info/RECORD,,\n")
    assert first.startswith("99.0 ")
    assert key("onnxsim/__init__.py,sha256=aa,1\n../../bin/onnxsim,sha256=dd,2\n") == first
    assert key("onnxsim/__init__.py,sha256=cc,1\n") != first


def test_a_file_beside_a_plugin_reaches_the_stages_of_the_plugins(project: Path, tmp_path_factory) -> None:
    def edit(name: str) -> Callable[[Path], None]:
        def write(project: Path) -> None:
            (project / "plugins" / name).parent.mkdir(exist_ok=True)
            (project / "plugins" / name).write_text(f"{name}\n")

        return write

    called = {(m, s) for m in MODELS for s in ("check", "torchscript", "export", "simplify")} | {
        (e, "quantize") for e in ENGINES
    }
    assert changed(project, edit("table.csv")) == called
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (project / "plugins/linked").symlink_to(elsewhere)
    assert changed(project, edit("linked/table.csv")) == called
    assert changed(project, edit(".ipynb_checkpoints/table.csv")) == set()


@pytest.mark.parametrize("text", ["raise RuntimeError", "def qntz_ruls():\n    pass\n"])
def test_a_plugin_that_every_stage_refuses_is_in_every_key(project: Path, text: str) -> None:
    every = {(m, s) for m in MODELS for s in ("check", "torchscript", "export", "simplify", "calibrate", "report")}
    every |= {(e, s) for e in ENGINES for s in ("quantize", "engine", "verify")}
    assert changed(project, lambda path: (path / "plugins/bad.py").write_text(text)) == every


def test_a_shipped_backend_is_named_after_its_file() -> None:
    """What the keys rest on."""
    for path in plugins.builtin_files():
        if plugins.hooks_in(path) == ["qntz_backends"]:
            (backend,) = importlib.import_module(f"qntz.builtin.{path.stem}").qntz_backends()
            assert backend.name == path.stem


def test_only_the_engines_own_backend_is_in_its_key(project: Path) -> None:
    for backend in ("onnxruntime", "tensorrt"):
        assert changed(project, append(f"qntz/builtin/{backend}.py", "\nEXTRA = 1\n")) == set()
    edit = append("qntz/builtin/tensorrt_rtx.py", "\nEXTRA = 1\n")
    assert changed(project, edit) == {(e, s) for e in ENGINES for s in ("engine", "verify")}


def test_a_package_that_only_carries_bytes_to_a_gpu_is_in_no_key(project: Path, tmp_path: Path, monkeypatch) -> None:
    import sys

    before = inputs(project)
    for name in ("pycuda", "cuda"):
        other = tmp_path / "site" / f"{name}-99.0.dist-info"
        other.mkdir(parents=True)
        (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
        (other / "RECORD").write_text(f"{name}/__init__.py,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert inputs(project) == before


def test_a_folder_that_no_key_calls_a_path(project: Path) -> None:
    """A Dataset's `root`, say, without a slash that would tell it."""
    (project / "pictures").mkdir()
    (project / "pictures" / "one.bin").write_bytes(b"1")
    own = "calibrate: {source: dataset, _target_: examples.digits.dataset.Digits, root: pictures}"
    replace(
        "conf/model/digits.yaml", "calibrate: {source: npz, file: examples/digits/data/train.npz, count: 256}", own
    )(project)
    edit = append("pictures/one.bin", "2")
    assert changed(project, edit) == {("digits", "calibrate")}
