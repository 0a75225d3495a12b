"""The rules that hold for every route: one device, tensors only, torch functions only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from qntz.builtin._weigh import LIVE, RUN, SOURCE, method, origins, weigh
from qntz.hookspecs import hookimpl
from qntz.records import Finding, Rule, Severity

if TYPE_CHECKING:
    import torch

    from qntz.check import Leak, Subject

ROUTES = ("trace", "script", "dynamo")
INTO_NUMPY = ("numpy", "__array__", "__dlpack__")


@hookimpl
def qntz_rules() -> Iterable[Rule]:
    yield Rule(
        code="QZ000",
        slug="unexplained-ignore",
        severity="note",
        what="A comment drops a finding without a reason.",
        why="Nobody can tell later whether the finding is still harmless.",
        fix="Write the reason behind it: `# qntz: ignore[slug] reason`.",
        routes=ROUTES,
        link="",
        find=lambda subject: (),  # made by check_model, which knows the findings that a comment drops
    )
    yield Rule(
        code="QZ021",
        slug="unused-ignore",
        severity="note",
        what="A comment drops a finding that is not there.",
        why="It may hide the next one, and tells the reader of a hazard that is gone.",
        fix="Remove the comment, or mend the name of the rule in it.",
        routes=ROUTES,
        link="",
        find=lambda subject: (),  # made by check_model, as QZ000
    )
    yield Rule(
        code="QZ001",
        slug="multi-device",
        severity="error",
        what="The model does not live on one device.",
        why="Devices are captured as constants, and an engine runs on one; a tensor on `meta` has no values at all.",
        fix="Load every weight and move the whole model to one device; take new tensors' device from an input.",
        routes=ROUTES,
        link="",
        find=multi_device,
    )
    yield Rule(
        code="QZ002",
        slug="numpy-in-forward",
        severity="error",
        what="NumPy works on data inside the model.",
        why="NumPy is not recorded: tracing keeps the example's values as a constant, scripting refuses it.",
        fix="Use the torch function of the same name; register constant arrays as buffers.",
        routes=ROUTES,
        link="",
        find=numpy_in_forward,
    )
    yield Rule(
        code="QZ003",
        slug="non-torch-call",
        severity="error",
        what="A function outside torch is called on the model's data.",
        why="Its work is not recorded: tracing keeps its result on the example as a constant, scripting refuses it.",
        fix="Use torch's own functions, or move the step out of the model, before or after it.",
        routes=ROUTES,
        link="",
        find=non_torch_call,
    )


def multi_device(subject: Subject) -> Iterator[Finding]:
    """Parameters and buffers on several devices or on `meta`, parallel wrappers, results on a further device."""
    members: dict[str, list[str]] = {}
    for name, tensor in _tensors(subject):
        members.setdefault(str(tensor.device), []).append(name)
    main = max(members, key=lambda device: (device != "meta", len(members[device])), default="")
    for device, names in sorted(members.items()):
        if device != main or device == "meta":
            beside = f"; others are on {main}" if device != main else ""
            lost = " and have no values" if device == "meta" else ""
            message = f"{_listed(names)} on {device}{lost}{beside}"
            yield subject.finding("multi-device", "error", subject.index.place_of_member(names[0]), message, LIVE)
    yield from _parallel(subject)
    for seen in subject.observations.devices:
        message = f"{seen.operator} gives a tensor on {seen.what}, where neither the inputs nor the model's weights are"
        yield subject.finding("multi-device", "error", seen.place, message, RUN, seen.chain)


def _tensors(subject: Subject) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers and the tensors that modules hold besides, by their paths."""
    import torch

    yield from subject.module.named_parameters()
    yield from subject.module.named_buffers()
    yield from ((path, held) for path, held in subject.index.hidden() if isinstance(held, torch.Tensor))


def _parallel(subject: Subject) -> Iterator[Finding]:
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    for name, part in subject.module.named_modules():
        if isinstance(part, (DataParallel, DistributedDataParallel)):
            several = len(part.device_ids or ()) > 1
            place = subject.index.class_place(type(part.module)) if not name else subject.index.place_of_member(name)
            place = place or subject.index.place_of_member(name)
            message = f"{name or 'the model'} is wrapped in {type(part).__name__}; use its `.module`"
            yield subject.finding("multi-device", "error" if several else "warning", place, message, LIVE)


def numpy_in_forward(subject: Subject) -> Iterator[Finding]:
    """Tensors' values that NumPy reads, NumPy calls in reached source, arrays that it reads or that modules hold."""
    import torch

    from qntz.check.flow import FOREIGN

    slug, lines, called = "numpy-in-forward", set(), set()
    for leak in _of_data(subject):
        if leak.kind in INTO_NUMPY and (leak.root == "numpy" or leak.root not in FOREIGN):
            lines.add((leak.place.path, leak.place.line))
            how = f"{leak.callee} reads" if leak.root == "numpy" else f"{method(leak)} gives NumPy"
            yield _leaked(subject, slug, leak, f"{how} a tensor's values")
    for call in subject.foreign:
        line = (call.place.path, call.place.line)
        if call.root == "numpy" and not call.name.startswith("numpy.random.") and line not in lines:
            called.add(line)
            yield _called(subject, slug, call)
    lines |= called
    for seen in subject.observations.arrays:
        if (seen.place.path, seen.place.line) not in lines:
            lines.add((seen.place.path, seen.place.line))
            message = f"{seen.operator} takes a NumPy array, which is captured as a constant at best"
            yield subject.finding(slug, "warning", seen.place, message, RUN, seen.chain)
    for function in subject.index.functions.values():
        for call in subject.index.calls(function):
            place = function.file.place_of(call.node, function.name)
            if call.target is torch.from_numpy and (place.path, place.line) not in lines:
                lines.add((place.path, place.line))
                severity: Severity = "warning" if function.ran else "note"
                message = "torch.from_numpy takes a NumPy array, which is captured as a constant at best"
                yield subject.finding(slug, severity, place, message, SOURCE, (*function.chain, str(place)))
    yield from _arrays(subject, lines)


def _arrays(subject: Subject, lines: set[tuple[str, int]]) -> Iterator[Finding]:
    import numpy as np

    read: set[int] = set()
    for function in subject.index.functions.values():
        for node, value in subject.index.reads(function):
            if isinstance(value, np.ndarray):
                read.add(id(value))
                place = function.file.place_of(node, function.name)
                if (place.path, place.line) not in lines:
                    message = "a NumPy array is read here, which is captured as a constant at best"
                    severity: Severity = "warning" if function.ran else "note"
                    yield subject.finding("numpy-in-forward", severity, place, message, SOURCE, function.chain)
    for path, part in subject.module.named_modules():
        for name, value in vars(part).items():
            if any(isinstance(held, np.ndarray) and id(held) not in read for held in _held(value)):
                member = f"{path}.{name}" if path else name
                message = f"{member} holds a NumPy array; reached source was not seen to read it"
                yield subject.finding("numpy-in-forward", "note", subject.index.place_of_member(member), message, LIVE)


def _held(value: Any) -> Iterable[Any]:
    return value.values() if type(value) is dict else value if type(value) in (list, tuple) else (value,)


def non_torch_call(subject: Subject) -> Iterator[Finding]:
    """Functions of array libraries and of `math` and its like that are fed with tensors' values."""
    from qntz.check.flow import FOREIGN, NUMBER_MODULES, RANDOM_MODULES

    slug, lines, elsewhere = "non-torch-call", set(), FOREIGN - RANDOM_MODULES - {"numpy"}
    for leak in _of_data(subject):
        if leak.root in elsewhere:
            lines.add((leak.place.path, leak.place.line))
            yield _leaked(subject, slug, leak, f"{leak.callee} reads a tensor's values")
    for call in subject.foreign:
        known = (call.place.path, call.place.line) in lines
        if call.root in elsewhere and not known and (call.leaks or call.root not in NUMBER_MODULES):
            yield _called(subject, slug, call)


def _of_data(subject: Subject) -> list[Leak]:
    return [leak for leak in subject.observations.leaks if leak.of == "data"]


def _leaked(subject: Subject, slug: str, leak: Leak, message: str) -> Finding:
    severity, consequence = weigh(subject, (leak,))
    return subject.finding(slug, severity, leak.place, f"{message}; {consequence}", RUN, leak.chain)


def _called(subject: Subject, slug: str, call: Any) -> Finding:
    """A finding for a call of a function outside torch in reached source."""
    if not call.leaks:
        message = f"{call.name} is called here; it was not seen to be fed with a tensor's values"
        return subject.finding(slug, "note", call.place, message, SOURCE, call.chain)
    severity, consequence = weigh(subject, call.leaks)
    message = f"{call.name} is fed with a tensor's values ({origins(call.leaks)}); {consequence}"
    return subject.finding(slug, severity, call.place, message, f"{RUN} and {SOURCE}", call.chain)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
