"""Rules on what a run does besides computing its outputs: training mode, random numbers, doubles, writes on inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qntz.builtin._weigh import LIVE, RUN, SOURCE
from qntz.hookspecs import hookimpl
from qntz.records import Finding, Rule, Severity

if TYPE_CHECKING:
    import torch

    from qntz.check import Subject
    from qntz.check.places import Place

ROUTES = ("trace", "script", "dynamo")


@hookimpl
def qntz_rules() -> Iterable[Rule]:
    yield Rule(
        code="QZ004",
        slug="training-mode",
        severity="error",
        what="A module is left in training mode.",
        why="Dropout is random then, and batch norm takes the batch's statistics in place of the learned ones.",
        fix="Call `model.eval()` where the model is made.",
        routes=ROUTES,
        link="",
        find=training_mode,
    )
    yield Rule(
        code="QZ005",
        slug="randomness",
        severity="error",
        what="Forward draws random numbers.",
        why="No artifact can be compared with the model, and tracing keeps what Python and NumPy drew as a constant.",
        fix="Make the noise an input, or leave it out in evaluation mode.",
        routes=ROUTES,
        link="",
        find=randomness,
    )
    yield Rule(
        code="QZ006",
        slug="float64",
        severity="warning",
        what="The model computes in float64.",
        why="TensorRT turns double into float without a word.",
        fix="Give dtype=torch.float32, or convert the weights with `.float()`.",
        routes=ROUTES,
        link="",
        find=float64,
    )
    yield Rule(
        code="QZ007",
        slug="inplace-on-input",
        severity="warning",
        what="Forward writes into one of its inputs.",
        why="An engine leaves its inputs as they are: a caller that relies on the write gets something else.",
        fix="Clone the input first, or use the operator without the trailing underscore.",
        routes=ROUTES,
        link="",
        find=inplace_on_input,
    )


def training_mode(subject: Subject) -> Iterator[Finding]:
    """Modules in training mode, with dropout or batch statistics, whose forward ran, or that are held out of reach."""
    import torch

    modules = dict(subject.module.named_modules())
    ran = [path for path in subject.observations.ran if path in modules]
    active = [path for path in ran if getattr(modules[path], "training", False) and _differs(modules[path])]
    for path, held in subject.index.hidden():
        if not isinstance(held, torch.Tensor) and any(part.training and _differs(part) for part in held.modules()):
            message = f"{path} holds a module in training mode where eval() does not reach it"
            place = subject.index.place_of_member(path)
            yield subject.finding("training-mode", "error", place, message, LIVE)
    for seen in subject.observations.trained:
        message = f"{seen.operator} is told to do as in training, in evaluation mode"
        yield subject.finding("training-mode", "error", seen.place, message, RUN, seen.chain)
    whole = getattr(subject.module, "training", False)
    places: dict[Place, list[str]] = {}
    for path in active:
        places.setdefault(subject.index.place_of_member("" if whole else path), []).append(path)
        if not whole and (cause := subject.index.place_of_training(path)) is not None:
            yield subject.finding("training-mode", "note", cause, f"{path} is put in training mode here", SOURCE)
    for seen in subject.observations.awake:
        if seen.module in active and not whole:
            message = f"{seen.module} runs here, in training mode"
            yield subject.finding("training-mode", "note", seen.place, message, RUN, seen.chain)
    for place, paths in places.items():
        names = ", ".join(path or "the model" for path in paths[:3])
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        message = f"{names}{more} ran in training mode" + ("; so is the whole model" if whole else "")
        yield subject.finding("training-mode", "error", place, message, RUN)
    draws = [draw for draw in subject.observations.training_draws if draw.module not in active]
    for draw in draws:
        message = f"{draw.operator} draws random numbers in training mode, which {draw.module or 'the model'} is in"
        yield subject.finding("training-mode", "error", draw.place, message, RUN, draw.chain)
    if subject.observations.mode_matters and not (active or draws):
        place = subject.index.place_of_forward()
        message = "the model, or a part of it, is in training mode; in evaluation mode it gives other outputs"
        yield subject.finding("training-mode", "error", place, message, RUN)


def _differs(module: torch.nn.Module) -> bool:
    """Whether a module does something else in training mode."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd
    from torch.nn.modules.instancenorm import _InstanceNorm

    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _InstanceNorm):
        return bool(module.track_running_stats)
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    return isinstance(module, _BatchNorm)


def randomness(subject: Subject) -> Iterator[Finding]:
    """Draws from torch's generator in evaluation mode, and calls of `random` and `numpy.random`."""
    seen = subject.observations
    calls = [c for c in subject.foreign if c.root in ("random", "secrets") or c.name.startswith("numpy.random.")]
    if not seen.draws and not calls:
        return
    matters = subject.seed_matters()
    severity: Severity = "error" if matters else "warning"
    effect = "another seed gives other outputs" if matters else "the outputs were the same under another seed"
    for draw in seen.draws:
        message = f"{draw.operator} draws random numbers; {effect}"
        yield subject.finding("randomness", severity, draw.place, message, RUN, draw.chain)
    for call in calls:
        stream = "random" if call.root == "random" else "numpy.random"
        own_state = matters and not seen.draws and not seen.streams  # a generator that no seed reaches
        drawn = call.ran and (stream in seen.streams or own_state)
        message = f"{call.name} draws random numbers" + (f"; {effect}" if drawn else "; no draw was seen")
        evidence = "observed run and static source" if drawn else "static source"
        yield subject.finding("randomness", severity if drawn else "note", call.place, message, evidence, call.chain)


def float64(subject: Subject) -> Iterator[Finding]:
    """Weights in float64, and operators that make float64 of other types."""
    import torch

    places: dict[Place, list[str]] = {}
    hidden = ((path, held) for path, held in subject.index.hidden() if isinstance(held, torch.Tensor))
    for name, tensor in (*subject.module.named_parameters(), *subject.module.named_buffers(), *hidden):
        if tensor.dtype == torch.float64:
            places.setdefault(subject.index.place_of_member(name), []).append(name)
    for place, names in places.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield subject.finding("float64", "warning", place, f"{', '.join(names[:3])}{more} in float64", LIVE)
    for double in subject.observations.doubles:
        severity: Severity = "warning" if double.what == "tensor" else "note"
        message = f"{double.operator} makes a float64 {double.what} of other types"
        yield subject.finding("float64", severity, double.place, message, RUN, double.chain)


def inplace_on_input(subject: Subject) -> Iterator[Finding]:
    """Inputs that differ after the run, and in-place operators on them."""
    seen = subject.observations
    for write in seen.writes:
        changed = write.what in seen.changed
        effect = "it differs after the run" if changed else "its values were the same afterwards"
        message = f"{write.operator} writes into the input {write.what!r}; {effect}"
        severity: Severity = "warning" if changed else "note"
        yield subject.finding("inplace-on-input", severity, write.place, message, RUN, write.chain)
    for name in sorted(set(seen.changed) - {write.what for write in seen.writes}):
        place = subject.index.place_of_member("")
        message = f"the input {name!r} differs after the run; the write was not seen"
        yield subject.finding("inplace-on-input", "warning", place, message, RUN)
