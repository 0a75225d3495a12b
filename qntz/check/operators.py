"""The operators of a traced model that torch's ONNX exporter has no translation for, and the graph that it writes.

The exporter is asked twice: for the names that it has no translation for, which takes milliseconds, and, where a model
holds an operator that is not among the everyday ones, for the whole graph, since some are refused by their arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import logging
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qntz.check.index import SourceIndex
from qntz.check.places import Place, owner_of
from qntz.errors import one_line
from qntz.records import Provided
from qntz.symbolics import lowered, nodes, put_in_place, registered

_STEP = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): (?P<function>\S+)$")

# What nearly every model consists of: the exporter translates these whatever their arguments, and TensorRT takes them.
_NAMES = """
    Int ScalarImplicit __and__ __or__ abs add add_ addmm arange avg_pool2d batch_norm bmm bitwise_not cat chunk
    clamp clone contiguous cos detach div dropout embedding eq erf exp expand expand_as flatten floor_divide full
    gather ge gelu gt index layer_norm le leaky_relu linear log log_softmax lt masked_fill masked_fill_ matmul mean mul
    mul_ ne neg new_ones new_zeros ones ones_like permute pow reciprocal relu relu_ repeat reshape rsqrt rsub
    scaled_dot_product_attention select sigmoid silu sin size slice softmax split sqrt squeeze stack sub sub_ sum t
    tanh to transpose type_as unsqueeze view where zeros zeros_like _convolution
"""
EVERYDAY = frozenset(f"aten::{name}" for name in _NAMES.split())


_OF_TRUTHS = ("aten::__and__", "aten::__or__", "aten::bitwise_not")  # of integers they are rare
_GONE = frozenset(["aten::lift_fresh", "aten::lift_fresh_copy", "aten::__or__", "aten::__xor__"])
"""Listed as untranslated although the exporter rewrites them before it translates."""
_TYPES = ("Byte", "Char", "Short", "Double", "ComplexFloat", "ComplexDouble")


@dataclass(frozen=True)
class Operator:
    """An operator that does not come through. name: as the exporter or the parser knows it ("aten::linalg_svd")."""

    name: str
    why: str
    place: Place
    chain: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """What the exporter makes of the trace. refused: the operators that it does not translate. unusual: those that are
    not among the everyday ones, refused or not. data: the ONNX file's bytes, where it was asked for the graph and wrote
    it; its nodes' doc strings hold the stack that made them. rewritten: the operators that it would refuse, and that
    rewrites take away."""

    refused: tuple[Operator, ...] = ()
    unusual: tuple[Operator, ...] = ()
    data: bytes | None = None
    rewritten: tuple[Operator, ...] = ()


def exported(
    function: Any,
    retraced: Callable[[], torch.jit.ScriptModule],
    arguments: Sequence[Any],
    opset: int,
    index: SourceIndex,
    thorough: bool,
    symbolics: Sequence[Provided] = (),
) -> Exported:
    """Asks torch's TorchScript exporter for a traced function's graph at an opset.

    Args:
        function: as torch.jit.trace gives it. retraced: traces it again as a module, whose weights are no constants
        that the exporter could compute with. arguments: the tensors that it was traced with. thorough: asks for the
        whole graph whatever it consists of. symbolics: translations that plugins provide.
    """
    with registered(symbolics, opset):
        return _exported(function, retraced, arguments, opset, index, thorough, symbolics)


def _exported(
    function: Any,
    retraced: Callable[[], torch.jit.ScriptModule],
    arguments: Sequence[Any],
    opset: int,
    index: SourceIndex,
    thorough: bool,
    symbolics: Sequence[Provided],
) -> Exported:
    inside = list(nodes(function.inlined_graph))
    missing = _untranslated(function, arguments, opset) - put_in_place(function, symbolics)
    rare = [node for node in inside if _is_rare(node)]
    if not (missing or rare or thorough):
        return Exported()
    unusual = tuple(_operators(rare, {node.kind() for node in rare}, "", index))
    buffer = io.BytesIO()
    with _quiet():
        module, _ = lowered(retraced(), symbolics)
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(arguments),
                buffer,
                dynamo=False,
                opset_version=opset,
                do_constant_folding=False,
                verbose=True,  # the doc strings
            )
    except Exception as error:  # the exporter raises its own kinds, RuntimeError and more
        kinds = set(re.findall(r"aten::\w+", str(error))) or _named({node.kind() for node in rare}, str(error))
        why = f"torch's exporter refuses it at opset {opset}: {_reason(error)}"
        known = tuple(
            _operators(inside, missing - kinds, f"torch's exporter has no translation at opset {opset}", index)
        )
        found = tuple(_operators(inside, {*kinds, *(f"{kind}_" for kind in kinds)}, why, index))
        whole = Operator(", ".join(sorted(kinds)) or "the graph", why, index.place_of_forward(), ())
        return Exported((*(found or (whole,)), *known), unusual)
    return Exported(unusual=unusual, data=buffer.getvalue())


def place_of_stack(stack: str, index: SourceIndex) -> tuple[Place, tuple[str, ...]] | None:
    """The user's line in a stack as torch writes it ("file(line): function", innermost first), and the calls that lead
    to it."""
    steps = [match for match in map(_STEP.match, stack.splitlines()) if match]
    known = {function.file.filename for function in index.functions.values()}  # what stands above is the caller's
    own: list[Place] = []
    for owner in ("user", "package"):
        own = [_place(step, index) for step in steps if owner_of(step["file"]) == owner and step["file"] in known]
        if own:
            break
    return (own[0], tuple(str(place) for place in reversed(own))) if own else None


def _place(step: re.Match[str], index: SourceIndex) -> Place:
    file = index.sources.file(step["file"], "")
    line = int(step["line"])
    return Place(step["file"], line) if file is None else file.place(line, None, step["function"])


def _untranslated(function: Any, arguments: Sequence[Any], opset: int) -> set[str]:
    """The kinds that the exporter's table lacks."""
    from torch.onnx import utils

    home = importlib.import_module(utils.unconvertible_ops.__module__).__name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(home).__path__):
        if module.name.startswith("symbolic_opset"):
            importlib.import_module(f"{home}.{module.name}")  # each fills the table when it is imported
    with _quiet(), torch.no_grad():
        return set(utils.unconvertible_ops(function, tuple(arguments), opset_version=opset)[1]) - _GONE - EVERYDAY


def _is_rare(node: Any) -> bool:
    """Whether an operator may be refused: none of the everyday ones, or one with a form or a type that is none."""
    if not node.kind().startswith("aten::") or node.kind() in _GONE:
        return False
    if _is_plain_pool(node):
        return False
    if node.kind() not in EVERYDAY or ".out(" in (node.schema() if node.schema() != "(no schema)" else ""):
        return True
    types = [value.type() for value in node.outputs()]
    if node.kind() in _OF_TRUTHS:
        return any(isinstance(kind, torch.TensorType) and kind.scalarType() != "Bool" for kind in types)
    return any(isinstance(kind, torch.TensorType) and kind.scalarType() in _TYPES for kind in types)


def _is_plain_pool(node: Any) -> bool:
    """Whether it is a pooling of the kind that comes through: max without dilation, adaptive down to one element."""
    position = {"aten::max_pool2d": 4, "aten::adaptive_avg_pool2d": 1}.get(node.kind())
    if position is None:
        return False
    sizes = list(node.inputs())[position].node()
    return sizes.kind() == "prim::ListConstruct" and all(size.toIValue() == 1 for size in sizes.inputs())


def _named(kinds: set[str], text: str) -> set[str]:
    """The operators that an error without their kinds speaks of ("LSTMs with projections"); all where there is one."""
    if len(kinds) == 1:
        return kinds
    words = [word for word in re.findall(r"[a-z]+", text.lower().replace("_", "")) if len(word) > 3]
    plain = {kind: kind.removeprefix("aten::").replace("_", "") for kind in kinds}
    return {k for k, name in plain.items() if any(w.startswith(name) or name.startswith(w) for w in words)}


def _operators(inside: Sequence[Any], kinds: set[str], why: str, index: SourceIndex) -> Iterator[Operator]:
    seen = set()
    for node in inside:
        if node.kind() in kinds:
            place, chain = place_of_stack(node.sourceRange(), index) or (index.place_of_forward(), ())
            if (node.kind(), place) not in seen:
                seen.add((node.kind(), place))
                yield Operator(node.kind(), why, place, chain)


def _reason(error: Exception) -> str:
    text = one_line(error)
    return text.partition("  [Caused by")[0][:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops warnings, logs, and what Python and C++ write to standard output: the exporter prints whole graphs."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    disabled = logging.root.manager.disable
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        logging.disable(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
