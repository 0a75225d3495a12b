"""Captures a model by a route, or by the first that is right."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qntz import plugins
from qntz.compare import differences
from qntz.config import METHODS, DimConfig, require_limit, require_names
from qntz.eager import Eager
from qntz.errors import CaptureError, ConfigError, ModelError, QntzError, did_you_mean
from qntz.export import SYMBOLICS, Exported, export, opset_of
from qntz.guard import TimeIsUp, within
from qntz.model import ProgramModule, arrays_in, evaluated, in_order
from qntz.records import Arrays, Capture, Provided
from qntz.rewrite import REWRITES, Rewritten, functions_of, rewritten
from qntz.torchscript.attempts import Attempts, saved
from qntz.torchscript.captured import Captured, Tried
from qntz.torchscript.further import Shapes, axes_of, shapes_of
from qntz.torchscript.judge import Judge

ORDER = ("trace", "mixed", "script", "paths", "dynamo")
"""The order in which `auto` tries the routes; never by measured time, so that every machine takes the same."""
COPIES = 6  # of the weights that a route, its archive and its trial hold, beyond the memory that it may take


def capture(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Any,
    probes: Sequence[Any] = (),
    *,
    dims: Mapping[str, DimConfig] | None = None,
    shapes: Shapes | None = None,
    method: str = "auto",
    tolerance: float = 1e-4,
    opset: int | None = None,
    rewrites: Sequence[Provided] | None = None,
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
    symbolics: Sequence[Provided] | None = None,
    seconds: float = 600.0,
    memory: int = 8 << 30,
) -> Captured:
    """Captures `module` by `method` and compares it with the eager model on the example and every probe; with "auto" by
    the first route of `ORDER` that is right on them and on further inputs, which are made of them, both as it is and as
    ONNX. The model is captured in evaluation mode and on the CPU.

    Args:
        module: the model; one that is a ScriptModule or an exported program already is compared alone.
        example_inputs: arrays or tensors by input name, or a tuple of them in the order of forward's parameters; what
        is None is left out. probes: further inputs of the same kind.
        dims: the dynamic dimensions by name. shapes: of each input the sizes, with those names; without it a dimension
        is dynamic that differs between the example and a probe.
        tolerance: worst |difference| over the largest magnitude of an output.
        opset, symbolics: of the export that "auto" tries a route by, as `qntz.export.export` takes them.
        rewrites: of submodules, on a copy, and of functions; None: those that qntz ships, installed plugins provide,
        and the working directory holds in plugins/. require, forbid: names of rewrites that must fire, and must not.
        seconds, memory: what a route and the trial of its export may take in a process of their own; memory in bytes,
        beyond six times the model's weights. The model's own runs on what was given may take as long, where they are
        Python in the main thread: nothing else can be ended.

    Raises:
        CaptureError: torch refuses, or the capture's outputs are not the model's; with every route that was `tried`.
        ModelError: the eager model refuses the inputs, gives NaN, is not deterministic, or does not end.
        RewriteError: a required rewrite did not fire, or a rewrite computes something else. PluginError: one fails.
        ConfigError: there is no such method, opset or dimension, a limit is none, or what should be a list of names is
        a string.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", where="torchscript.method", do=did_you_mean(method, METHODS))
    require_limit(seconds, "torchscript.seconds")
    written = opset_of(opset)
    require_names(require, "torchscript.require")
    require_names(forbid, "torchscript.forbid")
    _require_dims(dims or {})
    if not isinstance(module, (torch.nn.Module, torch.export.ExportedProgram)):
        what = f"a {type(module).__name__} is no model"
        raise ModelError(what, do="Give a torch.nn.Module, of a function one whose forward calls it.")
    eager = ProgramModule(module) if isinstance(module, torch.export.ExportedProgram) else module
    given = [arrays_in(eager, one) for one in (example_inputs, *probes)]
    order = in_order(eager, list(given[0]))
    for number, one in enumerate(given[1:], 1):
        _require_alike(one, given[0], f"probe {number}")
    inputs = [{name: one[name] for name in order} for one in given]
    if shapes is None:
        shapes = shapes_of(inputs, dims or {})
        _require_dims(dims or {}, axes_of(shapes))
    with _in_time(seconds):
        _require_evaluation(eager, inputs[0], order)
    with evaluated(eager) as training:
        with _in_time(seconds):
            judge = Judge(eager, inputs, shapes, dims or {}, tolerance)
        judge.require_sane()
        if isinstance(eager, (torch.jit.ScriptModule, ProgramModule)):
            judge.require_repeatable()
            judge.require_no_memory(Rewritten(eager))
            return saved(judge)
        if rewrites is None or symbolics is None:
            installed = plugins.load(Path.cwd(), "torchscript")
            if rewrites is None:
                rewrites = [one for hook in REWRITES for one in installed.provided(hook)]
            if symbolics is None:
                symbolics = [one for hook in SYMBOLICS for one in installed.provided(hook, opset=written)]
        called = judge.require_repeatable(functions_of(rewrites, written, forbid))
        changed = rewritten(
            eager, rewrites, inputs, order, opset=written, require=require, forbid=forbid, called=called
        )
        judge.require_no_memory(changed)
        attempts, memory = Attempts(judge, changed), memory + COPIES * judge.weights
        if method != "auto":
            found = _because(attempts.route(method, seconds, memory), f"torchscript.method is {method}")
        else:
            trial = functools.partial(export, opset=written, tolerance=tolerance, symbolics=symbolics, passes=())
            found = _first(attempts, trial, seconds, memory)
    return replace(found, training=training, rewrites=changed.proofs)


def _require_alike(probe: Arrays, example: Arrays, what: str) -> None:
    """Raises ModelError where a probe has other inputs than the example, or of another rank or dtype."""
    do = "Give each probe the example's inputs; sizes and values may differ."
    if set(probe) != set(example):
        why = f"{', '.join(probe) or 'none'}, not {', '.join(example)}"
        raise ModelError(f"{what} has other inputs than the example", why=why, do=do)
    for name, array in probe.items():
        told = [f"{one.dtype} of {one.ndim} dimensions" for one in (array, example[name])]
        if told[0] != told[1]:
            raise ModelError(f"{what}: input {name!r} is {told[0]}, the example's is {told[1]}", do=do)


@contextlib.contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    """Raises ModelError in the model's own runs where they do not end."""
    try:
        with within(seconds):
            yield
    except TimeIsUp:
        raise ModelError(
            f"the model did not end within {seconds:g} s on what was given",
            do="Mend its forward, or raise torchscript.seconds where it needs that.",
        ) from None


def _require_dims(dims: Mapping[str, DimConfig], dynamic: Collection[str] | None = None) -> None:
    """Raises ConfigError for what is no dimension, or none of the dynamic ones, where these are told."""
    for name, dim in dims.items():
        if not isinstance(dim, DimConfig):
            told = f"{dim!r} is no DimConfig"
            raise ConfigError(told, where=f"dims[{name!r}]", do="Give qntz.config.DimConfig(min, opt, max).")
        if dynamic is not None and name not in dynamic:
            raise ConfigError(
                f"no size of {dim.min} to {dim.max} differs between the example and the probes",
                where=f"dims[{name!r}]",
                do="Add a probe of another size, or say by `shapes` which dimension it is.",
            )


def _because(found: Captured, why: str) -> Captured:
    return replace(found, why="; ".join(filter(None, (why, found.why))))


def _require_evaluation(eager: torch.nn.Module, inputs: Arrays, order: Sequence[str]) -> None:
    """Raises ModelError where a part of a model in evaluation mode is in training mode, and that changes its outputs:
    it is as likely meant as forgotten. A model that is in training mode as a whole is captured in evaluation mode."""
    awake = [path for path, part in eager.named_modules() if getattr(part, "training", False)]
    if not awake or "" in awake:
        return
    trained = Eager(eager, order).run(inputs)
    with evaluated(eager):
        if differences([Eager(eager, order).run(inputs)], [trained])[0].error > 0:
            raise ModelError(
                f"{awake[0]} is in training mode in a model in evaluation mode",
                why="the outputs depend on it",
                do="Call eval() on the model, or build it of what it does in training.",
            )


def _first(attempts: Attempts, trial: Callable[[Capture], Exported], seconds: float, memory: int) -> Captured:
    """By the first route that is right."""
    import onnx  # noqa: F401  here, and not again in each of the processes that are to come
    import onnxruntime  # noqa: F401

    judge = attempts.judge
    judge.add_further()
    tried: list[Tried] = []
    found = _first_right(attempts, trial, seconds, memory, tried)
    if found is None and judge.apart:  # sizes that are one in all that was given are taken to be one
        judge.let_apart_be_refused()
        tried.clear()
        found = _first_right(attempts, trial, seconds, memory, tried)
    if found is not None:
        return replace(found, tried=tuple(tried))
    raise CaptureError(
        "no route captures the model",
        where=next((one.where for one in tried if ".py:" in one.where), ""),
        why="; ".join(f"{one.method}: {one.why}" for one in tried),
        do="Run qntz check, which names the lines, and rewrite them or provide a rewrite.",
        tried=tuple(tried),
    )


def _first_right(
    attempts: Attempts, trial: Callable[[Capture], Exported], seconds: float, memory: int, tried: list[Tried]
) -> Captured | None:
    """By the first route that is right on all inputs; None where none is. Adds those that are not to `tried`."""
    for route in ORDER:
        try:
            found = attempts.route(route, seconds, memory, trial)
        except QntzError as error:
            tried.append(Tried(route, f"{error.what}: {error.why}" if error.why else error.what, error.where))
            continue
        return _because(found, f"the first of {', '.join(ORDER)} that is right")
    return None
