"""The rules of tracing: it records one execution, and keeps what Python decided and computed in it as constants."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qntz.builtin._weigh import RUN, SOURCE, method, origins, weigh
from qntz.hookspecs import hookimpl
from qntz.records import Finding, Rule, Severity

if TYPE_CHECKING:
    from qntz.check import DeviceUse, Leak, StateChange, Subject, Test
    from qntz.check.places import Place
    from qntz.check.resolve import Function

ROUTES = ("trace", "dynamo")
DECIDING = ("__bool__", "is_nonzero", "__contains__", "equal", "allclose")


@hookimpl
def qntz_rules() -> Iterable[Rule]:
    yield Rule(
        code="QZ008",
        slug="data-dependent-control-flow",
        severity="error",
        what="Python decides by a tensor's values what runs next.",
        why="Tracing keeps the branch, or the number of turns, that the example took; other inputs get the same.",
        fix="Use torch.where or a mask, or capture by script, which keeps the `if` and the loop.",
        routes=ROUTES,
        link="",
        find=lambda subject: control_flow(subject, "data"),
    )
    yield Rule(
        code="QZ009",
        slug="shape-dependent-control-flow",
        severity="error",
        what="Python decides by a tensor's size what runs next.",
        why="Tracing keeps the branch, or the number of turns, that the example's size took; other sizes get the same.",
        fix="Write it without a loop over the size, fix the dimension, or capture by script.",
        routes=ROUTES,
        link="",
        find=lambda subject: control_flow(subject, "shape"),
    )
    yield Rule(
        code="QZ010",
        slug="captured-constant",
        severity="error",
        what="A Python value that came from a tensor, or that a run changes, goes back into the computation.",
        why="Tracing keeps the value that the example gave; other inputs are computed with it.",
        fix="Keep it a tensor: no .item(), int() or float(), sizes as x.shape gives them, state in buffers or inputs.",
        routes=ROUTES,
        link="",
        find=captured_constant,
    )
    yield Rule(
        code="QZ012",
        slug="captured-device",
        severity="warning",
        what="A device is written into the model's code, or decides what runs.",
        why="Tracing keeps the device, and the branch that it took, of the machine that it ran on.",
        fix="Take the device from an input or a weight (`x.device`), and let none decide what runs.",
        routes=("trace", "script", "dynamo"),
        link="",
        find=captured_device,
    )
    yield Rule(
        code="QZ011",
        slug="trace-differs",
        severity="error",
        what="A trace of the model is refused, or is another model.",
        why="What tracing records of the example is not what the model computes from other inputs.",
        fix="Compare the two on the input that is named, or capture by script.",
        routes=("trace",),
        link="",
        find=lambda subject: (),  # made by check_model, which knows whether another finding tells why
    )


def control_flow(subject: Subject, of: str) -> Iterator[Finding]:
    """Tests, loops and choices that leaks of this kind decide, and truth values taken of tensors anywhere else."""
    from qntz.check.subject import COUNTING

    slug = f"{of}-dependent-control-flow"
    known: set[Leak] = set()
    for test in subject.tests:
        if leaks := [leak for leak in test.leaks if leak.decides == of and leak.varied]:
            known.update(test.own)
            severity, consequence = _weighed(subject, leaks)
            what = "values" if of == "data" else "sizes"
            what = "sizes, which values decide" if leaks[0].by_values else what
            message = f"{_said(test)} depends on a tensor's {what} ({origins(leaks)}); {consequence}"
            yield subject.finding(slug, severity, test.place, message, f"{RUN} and {SOURCE}", test.chain)
    for leak in subject.observations.leaks:
        if leak.decides == of and leak.varied and leak.kind in (*DECIDING, *COUNTING) and leak not in known:
            severity, consequence = _weighed(subject, [leak])
            what = f"takes a truth value of {'a tensor' if of == 'data' else 'a size'}"
            if leak.kind in COUNTING:
                what = "gives Python as many tensors as a size says"
            message = f"{method(leak)} {what}; {consequence}"
            yield subject.finding(slug, severity, leak.place, message, RUN, leak.chain)


def captured_constant(subject: Subject) -> Iterator[Finding]:
    """Numbers and lists that Python gets from tensors and their sizes, and decides nothing by; where they go back into
    torch; and state that a run changes."""
    from qntz.check.flow import FOREIGN
    from qntz.check.subject import COUNTING

    slug = "captured-constant"
    decided = {leak for test in subject.tests for leak in test.own}
    told = {leak for call in subject.foreign for leak in call.leaks}
    elsewhere = ("numpy", "__array__", "__dlpack__", "data_ptr", *DECIDING, *COUNTING)
    given: set[Leak] = set()
    for leak in subject.observations.leaks:
        if leak.kind in elsewhere or leak in decided or not leak.varied:
            continue
        if leak in told or (leak.of == "data" and leak.root in FOREIGN):
            continue  # by the rules on functions outside torch
        severity, consequence = _weighed(subject, [leak])
        message = f"{_given(leak)}; {consequence}"
        given.add(leak)
        yield subject.finding(slug, severity, leak.place, message, RUN, leak.chain)
    yield from _reentries(subject, given)
    yield from _state(subject)


def _reentries(subject: Subject, given: set[Leak]) -> Iterator[Finding]:
    """Where values that left torch go back into it on another line than they left on."""
    told = {(call.place.path, call.place.line) for call in subject.foreign if call.leaks}
    seen = (*subject.observations.leaks, *subject.observations.arrays)
    told |= {(one.place.path, one.place.line) for one in seen}
    for reentry in subject.reentries:
        if (reentry.place.path, reentry.place.line) in told:
            continue  # what stands there is found already
        leaks = [leak for leak in reentry.leaks if reentry.kind == "call" or leak not in given]
        if leaks:
            severity, consequence = _weighed(subject, leaks)
            what = "a tensor is made of" if reentry.kind == "call" else "a tensor is indexed with"
            message = f"{what} Python values that came from tensors ({origins(leaks)}); {consequence}"
            evidence = f"{RUN} and {SOURCE}"
            yield subject.finding("captured-constant", severity, reentry.place, message, evidence, reentry.chain)


def _state(subject: Subject) -> Iterator[Finding]:
    from qntz.check.flow import RANDOM_MODULES

    places: dict[tuple[Place, bool], list[StateChange]] = {}
    for change in subject.observations.state:
        places.setdefault((change.place, change.matters), []).append(change)
    for (place, matters), changes in places.items():
        names = ", ".join(dict.fromkeys(change.name for change in changes))
        if changes[0].what == "hidden":
            if any(call.root in RANDOM_MODULES or call.name.startswith("numpy.random.") for call in subject.foreign):
                continue  # QZ005 tells it
            message = "the same input gave other outputs the second time; what the model keeps was not found"
        else:
            effect = "outputs depend on what ran before" if matters else "the outputs did not depend on it"
            message = f"a run changes {names}, which outlives it; {effect}"
        severity: Severity = "error" if matters else "note"
        yield subject.finding("captured-constant", severity, place, message, RUN, changes[0].chain)


def captured_device(subject: Subject) -> Iterator[Finding]:
    """Tensors placed on a device that is a constant of the code, or on that of another tensor, which a trace makes
    one; and decisions by a tensor's device."""
    for use in subject.observations.device_uses:
        severity: Severity = "warning"
        if use.kind == "places":
            found = _constant_device(use)
            message = f"a tensor is placed on {found}, which stays so wherever the model goes"
            if not found and (found := _taken_device(use)):
                severity, message = "note", f"a trace keeps the device that {found} had where it was recorded"
        else:
            found = _decision(use)
            message = f"{found} is decided by a tensor's device"
        if found:
            yield subject.finding("captured-device", severity, use.place, message, RUN, use.chain)
    for function in subject.index.functions.values():
        for node in _device_contexts(function):
            place = function.file.place_of(node, function.name)
            message = f"tensors are made under `{ast.unparse(node)}`, a constant of the code"
            severity = "warning" if function.ran else "note"
            yield subject.finding("captured-device", severity, place, message, SOURCE, function.chain)


def _device_contexts(function: Function) -> Iterator[ast.expr]:
    """`with torch.device("cpu")`, and torch.set_default_device."""
    import torch

    from qntz.check.resolve import body_nodes, resolve

    for node in body_nodes(function.node):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            yield from (call for call in calls if resolve(call.func, function) is torch.device)
        elif isinstance(node, ast.Call) and resolve(node.func, function) is torch.set_default_device:
            yield node


def _given_devices(use: DeviceUse) -> list[ast.expr]:
    """The expressions that say on which device a call places its result."""
    import torch

    from qntz.check.resolve import resolve

    if not isinstance(use.node, ast.Call):
        return []
    method = use.node.func.attr if isinstance(use.node.func, ast.Attribute) else ""
    pending = [keyword.value for keyword in use.node.keywords if keyword.arg == "device"]
    pending += use.node.args[:1] if method == "to" else []
    given = []
    while pending:
        expression = pending.pop(0)
        if isinstance(expression, ast.IfExp):
            pending += [expression.body, expression.orelse]
        elif isinstance(expression, ast.BoolOp):
            pending += expression.values
        elif isinstance(expression, ast.Call) and resolve(expression.func, use.function) is torch.device:
            given.append(next(iter(expression.args), expression))
        else:
            given.append(expression)
    return given


def _taken_device(use: DeviceUse) -> str:
    """What the device is taken from, in the user's own code, where it is no constant; "" where it is none at all."""
    from qntz.check.places import owner_of

    if owner_of(use.function.file.filename) != "user":
        return ""
    for expression in _given_devices(use):
        text = ast.unparse(expression)
        if isinstance(expression, ast.Attribute) or use.function.given.get(text) == "device":
            return text
    return ""


def _constant_device(use: DeviceUse) -> str:
    """The device that a call names although no tensor gives it, as the source has it; "" where there is none."""
    import torch

    from qntz.check.resolve import resolve

    if not isinstance(use.node, ast.Call):
        return ""
    method = use.node.func.attr if isinstance(use.node.func, ast.Attribute) else ""
    if method in ("cpu", "cuda") and not use.node.args:
        return f"the {method} by .{method}()"
    if method == "type" and any("Tensor" in ast.unparse(argument) for argument in use.node.args):
        return f"the device of {ast.unparse(use.node.args[0])}"
    for keyword in use.node.keywords:  # **options
        options = resolve(keyword.value, use.function) if keyword.arg is None else None
        if isinstance(options, dict) and isinstance(options.get("device"), (str, torch.device)):
            return f"the constant device of {ast.unparse(keyword.value)}"
    for expression in _given_devices(use):
        value = expression.value if isinstance(expression, ast.Constant) else resolve(expression, use.function)
        if isinstance(expression, ast.Name):
            value = use.function.defaults.get(expression.id, value)
            value = expression.id if use.function.given.get(expression.id) == "str" else value
        if isinstance(value, (str, torch.device)):
            return f"the constant device {ast.unparse(expression)}"
    return ""


def _decision(use: DeviceUse) -> str:
    """What a device that is read decides; "" where it only says where a tensor goes."""
    for node in ast.walk(use.function.node):
        if isinstance(node, (ast.If, ast.IfExp, ast.While, ast.Assert)):
            inside = list(ast.walk(node.test))
            if use.node in inside and (_is_flag(use.node) or any(_names_device(n, use) for n in inside)):
                return f"`{ast.unparse(node.test)}`"
    return f"`{ast.unparse(use.node)}`" if _is_flag(use.node) else ""


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) or (isinstance(node, ast.Attribute) and node.attr != "device")


def _names_device(node: ast.AST, use: DeviceUse) -> bool:
    """Whether a test compares with a device's name or kind."""
    import torch

    from qntz.check.resolve import resolve

    if isinstance(node, (ast.Constant, ast.Name)):
        value = node.value if isinstance(node, ast.Constant) else resolve(node, use.function)
        return isinstance(value, (str, torch.device))
    return isinstance(node, ast.Attribute) and node.attr == "type"


def _given(leak: Leak) -> str:
    return f"{method(leak)} gives Python {'a value of a tensor' if leak.of == 'data' else 'the size of a tensor'}"


def _weighed(subject: Subject, leaks: Iterable[Leak]) -> tuple[Severity, str]:
    if subject.route == "script":
        return "note", "scripting keeps it, tracing would freeze it"
    return weigh(subject, leaks)


def _said(test: Test) -> str:
    return f"this `{test.kind}`"
