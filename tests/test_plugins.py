"""Plugins: found, ordered, refused with their file and line."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from qntz import hookspecs, plugins
from qntz.errors import PluginError

METRIC = "Metric(name='{}', score=lambda o, t: 0.5, agree=lambda a, b: 1.0)"
HEAD = "from qntz import hookimpl\nfrom qntz.records import *\n"


def project_with(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "plugins").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / "plugins" / f"{name}.py").write_text(HEAD + text)
    return tmp_path


def metrics(root: Path) -> list[str]:
    return [p.record.name for p in plugins.load(root).provided("qntz_metrics") if p.provider.startswith("plugins/")]


def giving(*names: str, after: str = "") -> str:
    given = ", ".join(METRIC.format(name) for name in names)
    return f"@hookimpl\ndef qntz_metrics():\n    return [{given}]\n"


def test_local_plugins_are_found_and_their_order_decides_nothing(tmp_path: Path) -> None:
    root = project_with(tmp_path, zebra=giving("b", "a"), ape=giving("c"), _private="raise ValueError\n")
    assert metrics(root) == ["a", "b", "c"]


def test_after_is_the_only_order(tmp_path: Path) -> None:
    text = """
@hookimpl
def qntz_graph_passes(phase):
    if phase == "export":
        yield GraphPass(name="a", apply=lambda m: (m, 0), after=("c",))
        yield GraphPass(name="b", apply=lambda m: (m, 0))
        yield GraphPass(name="c", apply=lambda m: (m, 0), after=("d", "not-installed"))
        yield GraphPass(name="d", apply=lambda m: (m, 0))
"""
    loaded = plugins.load(project_with(tmp_path, one=text))
    names = [
        p.record.name for p in loaded.provided("qntz_graph_passes", phase="export") if p.provider == "plugins/one.py"
    ]
    assert names == ["b", "d", "c", "a"]
    assert [p for p in loaded.provided("qntz_graph_passes", phase="simplify") if p.provider == "plugins/one.py"] == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bad": "1 / 0\n"}, "plugins/bad.py:3: the plugin does not load: ZeroDivisionError: division by zero."),
        ({"bad": "def f(:\n"}, "plugins/bad.py:3: the plugin does not load: SyntaxError"),
        ({"bad": "import no_such_module\n"}, "plugins/bad.py:3: the plugin does not load: ModuleNotFoundError"),
        (
            {"bad": "\n@hookimpl\ndef qntz_metric():\n    return []\n"},
            "plugins/bad.py:4: unknown hook 'qntz_metric'. Did you mean 'qntz_metrics'?",
        ),
        ({"bad": "def qntz_metrics():\n    return []\n"}, "plugins/bad.py:3: qntz_metrics is not marked as a hook"),
        (
            {"bad": "@hookimpl\ndef qntz_metrics(model):\n    return []\n"},
            "plugins/bad.py: the plugin does not fit its hook",
        ),
        (
            {"one": giving("top3"), "two": giving("top3")},
            "plugins/one.py and plugins/two.py: 'top3' is provided twice for qntz_metrics",
        ),
        ({"one": giving("accuracy")}, "builtin/metrics.py and plugins/one.py: 'accuracy' is provided twice"),
        (
            {"bad": "@hookimpl\ndef qntz_metrics():\n    return [3]\n"},
            "plugins/bad.py: qntz_metrics gives 3, which has no name",
        ),
        (
            {"bad": "@hookimpl\ndef qntz_metrics():\n    raise KeyError('x')\n"},
            "plugins/bad.py: qntz_metrics fails: KeyError",
        ),
    ],
)
def test_a_bad_plugin_is_an_error_with_its_place(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(PluginError) as error:
        metrics(project_with(tmp_path, **files))
    assert message in str(error.value)


def test_a_hook_without_its_mark_concerns_every_stage(tmp_path: Path) -> None:
    root = project_with(tmp_path, bad="def qntz_explain(error):\n    return 'hint'\n")
    with pytest.raises(PluginError, match="plugins/bad.py:3: qntz_explain is not marked as a hook"):
        plugins.load(root, "simplify")
    plugins.load(project_with(tmp_path, bad="@hookimpl\ndef qntz_metrics():\n    1 / 0\n"), "simplify")


def test_a_circle_is_refused(tmp_path: Path) -> None:
    text = """
@hookimpl
def qntz_graph_passes(phase):
    yield GraphPass(name="a", apply=lambda m: (m, 0), after=("b",))
    yield GraphPass(name="b", apply=lambda m: (m, 0), after=("a",))
"""
    with pytest.raises(PluginError, match="`after` goes in a circle"):
        plugins.load(project_with(tmp_path, one=text)).provided("qntz_graph_passes", phase="export")


def test_all_explanations_are_given(tmp_path: Path) -> None:
    text = "@hookimpl\ndef qntz_explain(error):\n    return 'see the wiki' if 'grid' in str(error) else None\n"
    loaded = plugins.load(project_with(tmp_path, b=text, a=text))
    assert loaded.explanations(ValueError("grid_sample")) == [
        ("plugins/a.py", "see the wiki"),
        ("plugins/b.py", "see the wiki"),
    ]
    assert loaded.explanations(ValueError("other")) == []


def test_every_hook_is_documented_with_an_example_and_called(root: Path) -> None:
    sources = "".join(p.read_text() for folder in ("stages", "qntz") for p in (root / folder).rglob("*.py"))
    for name in hookspecs.CALLED_BY:
        function = getattr(hookspecs, name)
        documentation = inspect.getdoc(function) or ""
        assert "Example::" in documentation, name
        assert f"def {name}(" in documentation, name
        assert f'"{name}"' in sources or f".hook.{name}" in sources, f"{name} is never called"


def test_hook_signatures_are_pinned() -> None:
    pinned = {
        "qntz_rules": [],
        "qntz_module_rewrites": [],
        "qntz_function_rewrites": [],
        "qntz_symbolics": ["opset"],
        "qntz_translations": ["opset"],
        "qntz_graph_passes": ["phase"],
        "qntz_data_sources": [],
        "qntz_metrics": [],
        "qntz_threshold_methods": [],
        "qntz_backends": [],
        "qntz_report": ["run"],
        "qntz_explain": ["error"],
    }
    assert {n: list(inspect.signature(getattr(hookspecs, n)).parameters) for n in hookspecs.CALLED_BY} == pinned
