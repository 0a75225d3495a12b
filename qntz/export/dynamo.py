"""The exporter of torch.export: an exported program, whose decisions by sizes and values are made, as ONNX."""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from qntz.errors import ExportError, PluginError, one_line
from qntz.graph import nodes_of
from qntz.model import WRAPPED, quiet
from qntz.records import Capture, Provided

FIRST = 18  # what the exporter writes; lower ones it would only convert to, which onnx does not do safely
_SYMBOL = re.compile(r"\bs\d+\b")
_SCOPES = "pkg.torch.onnx.name_scopes"


def of_program(
    captured: Capture, opset: int, translations: Sequence[Provided] = ()
) -> tuple[Any, dict[str, list[str]]]:
    """The ONNX model of a torch.export.ExportedProgram, its dynamic dimensions and nodes named as those of
    `qntz.export.torchscript.of_script` are; and of each translation a "" for each use.

    Raises:
        ExportError: the exporter refuses an operator, or does not write this opset. PluginError: a translation fails,
        or there is no such operator.
    """
    import torch

    if opset < FIRST:
        raise ExportError(
            "the model cannot be exported",
            where=f"opset {opset}",
            why=f"the exporter of torch.export writes opset {FIRST} and up",
            do=f"Set export.opset to {FIRST} or more.",
        )
    fired: dict[str, list[str]] = {one.record.name: [] for one in translations}
    failed: list[PluginError] = []
    table = {_operator(one): _counting(one, fired[one.record.name], failed) for one in translations}
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                captured.module,
                dynamo=True,
                opset_version=opset,
                input_names=list(captured.shapes),
                output_names=list(captured.golden[0]),
                custom_translation_table=table,
                verbose=False,
            )
    except Exception as error:
        if failed:
            raise failed[0] from error
        raise ExportError(
            "the model cannot be exported",
            where=f"opset {opset}",
            why=_reason(error),
            do="Rewrite the operator by a plugin (README, 'Your own rewrite').",
        ) from error
    model = program.model_proto
    _name_sizes(model, captured)
    _name_nodes(model)
    return model, fired


def _operator(provided: Provided) -> Any:
    """The overload of "aten::name.overload"."""
    import torch

    namespace, _, rest = provided.record.name.partition("::")
    name, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
    except AttributeError as error:
        raise PluginError(
            f"torch has no operator {provided.record.name!r}",
            where=provided.provider,
            why=one_line(error),
            do='Name it with its overload, "aten::nan_to_num.default".',
        ) from error


def _counting(provided: Provided, used: list[str], failed: list[PluginError]) -> Callable[..., Any]:
    function = provided.record.function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        used.append("")
        try:
            return function(*args, **kwargs)
        except Exception as error:
            name = provided.record.name
            failed.append(PluginError(f"translation {name!r} fails", where=provided.provider, why=one_line(error)))
            raise

    return call


def _reason(error: BaseException) -> str:
    """The innermost sentence of the exporter's errors, which wrap one another."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:300]


def _name_sizes(model: Any, captured: Capture) -> None:
    """Gives dynamic dimensions the names that the inputs have, in place of torch's symbols."""
    names: dict[str, str] = {}
    for given in model.graph.input:
        for label, size in zip(captured.shapes[given.name], given.type.tensor_type.shape.dim, strict=True):
            if isinstance(label, str) and size.dim_param:
                names.setdefault(size.dim_param, label)
    for one in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in one.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = _SYMBOL.sub(lambda found: names.get(found[0], found[0]), size.dim_param)


def _name_nodes(model: Any) -> None:
    """Names each node by its module's path and its operator, "/encoder/layer.0/query/MatMul"."""
    taken: dict[str, int] = {}
    for node in nodes_of(model.graph):
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        path, outer = [], ""
        for scope in [
            scope for scope in ast.literal_eval(scopes)[:-1] if scope
        ]:  # "encoder", "encoder.layer.0", ..., and the node itself
            path.append(scope.removeprefix(f"{outer}."))
            outer = scope
        path = [part for part in path if part != WRAPPED]
        name = "/".join(["", *path, node.op_type])
        count = taken.get(name, 0)
        taken[name] = count + 1
        node.name = f"{name}_{count}" if count else name
