"""Every hook of qntz, in one place.

A plugin is a Python file in `plugins/` (found by itself) or an installed distribution with an entry point in the group
`qntz`. It marks its functions with `@qntz.hookimpl`. Hooks yield records (`qntz.records`); a record is chosen by its
name or by its match, never by the order in which plugins were found; `after=` in a record is the only order.

`stages` in a specification names the stages that call the hook: a change of a plugin reruns those and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import pluggy

if TYPE_CHECKING:
    from qntz import records

PROJECT = "qntz"
hookimpl = pluggy.HookimplMarker(PROJECT)
_hookspec = pluggy.HookspecMarker(PROJECT)

PHASES = ("export", "simplify", "quantize")
"""The stages that run graph passes."""
CALLED_BY: dict[str, tuple[str, ...]] = {}
"""The stages whose artifacts depend on each hook, by the hook's name."""


def _called_by(*stages: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        CALLED_BY[function.__name__] = stages
        return _hookspec(function)

    return mark


@_called_by("check")
def qntz_rules() -> Iterable[records.Rule]:
    """Rules of the check.

    Example::

        @hookimpl
        def qntz_rules():
            yield Rule(code="ACME1", slug="no-lstm", severity="error", what="an LSTM", why="our target has no LSTM",
                       fix="Use a GRU.", routes=("trace", "script"), link="", find=find_lstm)
    """


@_called_by("check", "torchscript")
def qntz_module_rewrites() -> Iterable[records.ModuleRewrite]:
    """Replacements of submodules, on a copy of the model, before it is captured.

    Example::

        @hookimpl
        def qntz_module_rewrites():
            yield ModuleRewrite(name="tanh-gelu", match=is_gelu, apply=lambda m: nn.GELU("tanh"), tolerance=1e-3)
    """


@_called_by("check", "torchscript")
def qntz_function_rewrites() -> Iterable[records.FunctionRewrite]:
    """Replacements of functions, of torch or of the model's own packages, while the model is captured.

    Example::

        @hookimpl
        def qntz_function_rewrites():
            yield FunctionRewrite(name="plain-roll", functions={"acme.ops.roll": roll_by_slices})
    """


@_called_by("check", "torchscript", "export")
def qntz_symbolics(opset: int) -> Iterable[records.Symbolic]:
    """Translations of torch operators to ONNX at this opset; one of a name that qntz ships goes before it.

    Example::

        @hookimpl
        def qntz_symbolics(opset):
            yield Symbolic(name="aten::nan_to_num", function=nan_to_num)
    """


@_called_by("torchscript", "export")
def qntz_translations(opset: int) -> Iterable[records.Translation]:
    """Translations of torch operators to ONNX by the exporter of the dynamo route, which writes opset 18 first.

    Example::

        @hookimpl
        def qntz_translations(opset):
            yield Translation(name="aten::special_entr.default", function=entr)
    """


@_called_by("export", "simplify", "quantize")
def qntz_graph_passes(phase: Literal["export", "simplify", "quantize"]) -> Iterable[records.GraphPass]:
    """Passes over the ONNX graph, after the stage that `phase` names.

    Example::

        @hookimpl
        def qntz_graph_passes(phase):
            if phase == "simplify":
                yield GraphPass(name="small-determinant", apply=by_patterns(determinant_of_2))
    """


@_called_by("torchscript", "calibrate", "quantize", "verify")
def qntz_data_sources() -> Iterable[records.DataSource]:
    """Where calibration and test samples come from.

    Example::

        @hookimpl
        def qntz_data_sources():
            yield DataSource(name="parquet", open=read_parquet)
    """


@_called_by("quantize", "verify")
def qntz_metrics() -> Iterable[records.Metric]:
    """Figures of merit on labelled data.

    Example::

        @hookimpl
        def qntz_metrics():
            yield Metric(name="top5", score=top5_accuracy, agree=same_top1)
    """


@_called_by("quantize")
def qntz_threshold_methods() -> Iterable[records.ThresholdMethod]:
    """Ways to choose a clipping threshold from an activation histogram.

    Example::

        @hookimpl
        def qntz_threshold_methods():
            yield ThresholdMethod(name="half-max", threshold=lambda histogram: histogram.amax / 2)
    """


@_called_by("engine", "verify")
def qntz_backends() -> Iterable[records.Backend]:
    """Engine builders and their runtimes.

    Example::

        @hookimpl
        def qntz_backends():
            yield OpenVinoBackend()
    """


@_called_by("report")
def qntz_report(run: dict[str, Any]) -> Iterable[records.ReportRow]:
    """Further lines of a model's report. `run` holds the JSON records of the model and its engines.

    Example::

        @hookimpl
        def qntz_report(run):
            yield ReportRow(section="Deployment", label="fits the device", value="yes")
    """


@_called_by()  # by every stage when it fails; it changes no artifact, so it is part of no stage's key
def qntz_explain(error: Exception) -> str | None:
    """A hint for an error that ended a stage, or None. All answers are shown, with the plugin's name.

    Example::

        @hookimpl
        def qntz_explain(error):
            if "grid_sample" in str(error):
                return "Our wiki has a page on grid_sample."
    """
