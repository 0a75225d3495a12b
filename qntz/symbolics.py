"""Plugins' translations of torch operators to ONNX: known to torch's exporter for as long as one export takes, or,
where they are written in torch's operators, put in the operators' place before it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qntz.errors import PluginError, one_line
from qntz.records import Provided


@contextlib.contextmanager
def registered(symbolics: Sequence[Provided], opset: int) -> Iterator[dict[str, list[str]]]:
    """Registers the symbolics, without those that are written in torch's operators, with torch for one export; yields
    of each the paths of the modules that used it."""
    import torch

    fired: dict[str, list[str]] = {}

    def counting(provided: Provided) -> Any:
        def call(g: Any, *args: Any, **kwargs: Any) -> Any:
            fired[provided.record.name].append(_module_of(g.original_node.scopeName()))
            try:
                return provided.record.function(g, *args, **kwargs)
            except Exception as error:
                raise _failed(provided, error) from error

        return call

    try:
        for provided in symbolics:
            if not provided.record.of_torch:
                try:
                    torch.onnx.register_custom_op_symbolic(provided.record.name, counting(provided), opset)
                except Exception as error:  # torch raises kinds of its own for a name that is none
                    raise _failed(provided, error) from error
                fired[provided.record.name] = []
        yield fired
    finally:
        for name in fired:
            torch.onnx.unregister_custom_op_symbolic(name, opset)
            _forget(name)


def lowered(module: Any, symbolics: Sequence[Provided]) -> tuple[Any, dict[str, list[str]]]:
    """A torch.jit.ScriptModule with the code of those symbolics that are written in torch's operators in the place of
    theirs, and of each the paths of the modules that used it. The module itself where it has none of them, else a copy.

    Raises:
        PluginError: torch.jit.script refuses a symbolic, or its outputs are not as many as the operator's.
    """
    known = _of_torch(symbolics)
    fired: dict[str, list[str]] = {name: [] for overloads in known.values() for name in overloads}
    if not any(_taken(node, known) for graph in _graphs(module) for node in nodes(graph)):
        return module, fired
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.ts"
        torch.jit.save(module, str(path))
        module = torch.jit.load(str(path))
    code: dict[str, Any] = {}
    methods = list(_methods(module))  # parts of one type share a graph
    for part, graph in methods:
        _note(graph, known, fired, part)
    for _, graph in methods:  # each in its own graph, by which the exporter names what it becomes
        _put(graph, known, code)
    torch._C._jit_pass_inline(module.graph)  # what is left stands in functions, or in what was put
    _note(module.graph, known, fired, "")
    _put(module.graph, known, code)
    _put(module.graph, known, code)
    return module, fired


def put_in_place(module: Any, symbolics: Sequence[Provided]) -> set[str]:
    """The kinds of the operators of a module or function, "aten::trapezoid", whose place code of torch takes, all of
    them."""
    known = _of_torch(symbolics)
    found = [(node.kind(), _taken(node, known) is not None) for graph in _graphs(module) for node in nodes(graph)]
    return {kind for kind, is_known in found if is_known} - {kind for kind, is_known in found if not is_known}


def _require_overload(provided: Provided) -> None:
    import torch

    name = provided.record.name
    overloads = [str(one).partition("(")[0] for one in torch._C._jit_get_schemas_for_operator(name.partition(".")[0])]
    if name not in overloads:
        raise _failed(provided, ValueError(f"torch has no such overload, but {', '.join(overloads) or 'none'}"))


def _graphs(module: Any) -> list[Any]:
    """The graphs in which all is seen that a module or function does: the one of all that it calls, where it is seen
    what a method is given, and beside it those of all methods where something cannot be inlined."""
    import torch

    graph, before = module.inlined_graph.copy(), None
    # once it has run, torch inlines one step at a time; a call of an interface or of C++ stays
    while (calls := _calls(graph)) and calls != before:
        torch._C._jit_pass_inline(graph)
        before = calls
    is_whole = not calls and all(node.kind() != "prim::fork" for node in nodes(graph))
    return [graph] if is_whole else [graph, *(one for _, one in _methods(module))]


def _calls(graph: Any) -> list[str]:
    """What a graph calls, told apart."""
    calls = [node for node in nodes(graph) if node.kind() in ("prim::CallMethod", "prim::CallFunction")]
    return sorted(f"{one.inputsAt(0).type()} {one.s('name') if one.hasAttribute('name') else ''}" for one in calls)


def _methods(module: Any) -> Iterator[tuple[str, Any]]:
    """The graphs of the methods of a module and its parts, with the paths of these; none of a function."""
    for path, part in module.named_modules() if hasattr(module, "named_modules") else ():
        for method in part._c._method_names():
            yield path, part._c._get_method(method).graph


def nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph of TorchScript, with those of its blocks."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from nodes(block)


def _overload(node: Any) -> str:
    """The operator's name with its overload, "aten::trapezoid.dx"; "" of what has no schema."""
    return str(node.schema()).partition("(")[0] if node.kind().startswith("aten::") else ""


Known = Mapping[str, Mapping[str, Provided]]
"""The symbolics that are written in torch's operators, by the kind of node and, since a node's schema takes much longer
to tell than its kind, by the overload's name then."""


def _of_torch(symbolics: Sequence[Provided]) -> Known:
    known: dict[str, dict[str, Provided]] = {}
    for provided in symbolics:
        if provided.record.of_torch:
            _require_overload(provided)
            known.setdefault(provided.record.name.partition(".")[0], {})[provided.record.name] = provided
    return known


def _taken(node: Any, known: Known) -> Provided | None:
    """That of the known symbolics which takes the place of a node."""
    overloads = known.get(node.kind())
    found = overloads.get(_overload(node)) if overloads else None
    if found is None or found.record.match is None:
        return found
    try:
        return found if found.record.match(node) else None
    except Exception as error:
        raise _failed(found, error) from error


def _note(graph: Any, known: Known, fired: dict[str, list[str]], path: str) -> None:
    for node in nodes(graph):
        if (found := _taken(node, known)) is not None:
            fired[found.record.name].append(path)


def _put(graph: Any, known: Known, code: dict[str, Any]) -> None:
    for node in list(nodes(graph)):
        found = _taken(node, known)
        if found is None:
            continue
        name = found.record.name
        if name not in code:
            code[name] = _compiled(found)
        with graph.insert_point_guard(node):
            made = list(graph.insertGraph(code[name], list(node.inputs())))
        wanted = list(node.outputs())
        if made[0].node().kind() == "prim::TupleConstruct":
            made = list(made[0].node().inputs())
        if len(made) != len(wanted):
            raise _failed(found, ValueError(f"{len(made)} outputs, the operator has {len(wanted)}"))
        for old, new in zip(wanted, made, strict=True):
            old.replaceAllUsesWith(new)
        node.destroy()


def _compiled(provided: Provided) -> Any:
    """The graph of a function."""
    import torch

    try:
        graph = torch.jit.script(provided.record.function).graph.copy()
    except Exception as error:  # the compiler raises RuntimeError, OSError, TypeError, its own kinds and more
        raise _failed(provided, error) from error
    torch._C._jit_pass_inline(graph)
    return graph


def _failed(provided: Provided, error: Exception) -> PluginError:
    return PluginError(f"symbolic {provided.record.name!r} fails", where=provided.provider, why=one_line(error))


def _module_of(scope: str) -> str:
    """The path of the module of a scope, "Net::/Block::body.0/Linear::body.0.linear"."""
    return ".".join(filter(None, (part.partition("::")[2] for part in scope.split("/"))))


def _forget(name: str) -> None:
    """Takes an operator out of torch's registry that torch has no translation of: unregistering leaves it there without
    any, and the next export fails over the empty table, where it should say that the operator is not supported."""
    import torch

    # the registry's module has moved between torch's versions; the one that registers knows it
    registry = sys.modules[torch.onnx.register_custom_op_symbolic.__module__].registration.registry  # type: ignore[attr-defined]
    group = registry.get_function_group(name)
    if group is not None and not group._functions:
        del registry._registry[name]
