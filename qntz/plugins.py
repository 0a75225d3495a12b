"""Finds plugins, loads them, and hands out their records: by name, in an explicit order, conflicts refused.

Three kinds share one path: the modules of `qntz.builtin`, the files of the project's `plugins/` (sorted by name; a
leading underscore marks a file that is no plugin), and installed distributions with an entry point in group `qntz`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from qntz import __version__ as qntz_version
from qntz import hookspecs
from qntz.errors import PluginError, QntzError, did_you_mean, one_line
from qntz.records import Provided

BUILTIN = "qntz.builtin"
FOLDER = "plugins"
ENTRY_POINTS = "qntz"


def builtin_files() -> list[Path]:
    """The files of the shipped plugins, sorted."""
    folder = Path(__file__).parent / "builtin"
    return sorted(path for path in folder.glob("*.py") if path.is_file() and not path.name.startswith("_"))


def local_files(root: Path) -> list[Path]:
    """The files of the project's own plugins, sorted."""
    return sorted(path for path in (root / FOLDER).glob("*.py") if path.is_file() and not path.name.startswith("_"))


def hooks_in(path: Path) -> list[str] | None:
    """The names of hooks that a plugin's file may define, import or assign. None counts as all: where they cannot be
    told, or where one stands there without its mark, which every stage refuses."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None  # importing it gives the error
    names: set[str] = set()
    for node in tree.body:
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.decorator_list
        if function and node.name.startswith("qntz_"):
            return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return sorted(name for name in names if name.startswith("qntz_"))


def concerns(hooks: Sequence[str] | None, stage: str) -> bool:
    """Whether a plugin with these hooks (None: they cannot be told) can change what a stage makes. One with no hook or
    an unknown one does: every stage refuses it."""
    if not hooks or not set(hooks) <= set(hookspecs.CALLED_BY):
        return True
    return any(stage in hookspecs.CALLED_BY[hook] for hook in hooks)


def load(root: Path, stage: str | None = None) -> Plugins:
    """Loads the plugins of the project at `root`; of its local ones only those that concern the
    stage, where one is named: the others are no part of what it depends on.

    Raises:
        PluginError: one does not load, holds no hook, or implements an unknown one; with its file and line.
    """
    plugins = Plugins()
    for path in builtin_files():
        plugins.register(importlib.import_module(f"{BUILTIN}.{path.stem}"), f"builtin/{path.name}")
    for path in local_files(root):
        if stage is None or concerns(hooks_in(path), stage):
            plugins.register(_import_file(path, root), f"{FOLDER}/{path.name}")
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda e: e.name):
        try:
            module = entry.load()
        except Exception as error:
            raise PluginError(f"plugin {entry.name!r} does not load", where=entry.value, why=one_line(error)) from error
        plugins.register(module, entry.name)
    return plugins


def _import_file(path: Path, root: Path) -> ModuleType:
    name = f"qntz_local_plugins.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("is no Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(
            "the plugin does not load",
            where=_place(error, path, root),
            why=one_line(error),
            do="Repair it, or move it out of plugins/.",
        ) from error
    return module


def _place(error: BaseException, path: Path, root: Path) -> str:
    """The last line of the plugin's own file that the error passed through."""
    shown = path.relative_to(root)
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{shown}:{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{shown}:{lines[-1]}" if lines else str(shown)


class Plugins:
    """The loaded plugins of one project."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def register(self, plugin: ModuleType, provider: str) -> None:
        """Adds a module under its provider's name; raises PluginError for what is no hook of qntz."""
        found = False
        for name, function in inspect.getmembers(plugin, inspect.isfunction):
            marked = hasattr(function, f"{hookspecs.PROJECT}_impl")
            if not marked and not (name.startswith("qntz_") and function.__module__ == plugin.__name__):
                continue
            where = f"{provider}:{function.__code__.co_firstlineno}"
            if name not in hookspecs.CALLED_BY:
                raise PluginError(f"unknown hook {name!r}", where=where, do=did_you_mean(name, hookspecs.CALLED_BY))
            found = True
            if not marked:
                raise PluginError(f"{name} is not marked as a hook", where=where, do="Put @qntz.hookimpl above it.")
        if not found:
            raise PluginError(
                "the plugin holds no hook",
                where=provider,
                do="Mark a function with @qntz.hookimpl, or let the file's name begin with an underscore.",
            )
        try:
            self._manager.register(plugin, name=provider)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError("the plugin does not fit its hook", where=provider, why=str(error)) from error

    def implementing(self, hook: str) -> list[str]:
        """The providers that implement a hook, sorted."""
        return sorted(i.plugin_name for i in getattr(self._manager.hook, hook).get_hookimpls())

    def provided(self, hook: str, **arguments: Any) -> list[Provided]:
        """The records that all plugins give for a hook, ordered by `after` and then by name.

        Raises:
            PluginError: a plugin raises, gives no records, two give one name, or `after` goes in a circle.
        """
        found: list[Provided] = []
        for implementation in sorted(getattr(self._manager.hook, hook).get_hookimpls(), key=lambda i: i.plugin_name):
            given = {name: arguments[name] for name in implementation.argnames}
            try:
                records = list(implementation.function(**given) or ())
            except QntzError:
                raise
            except Exception as error:
                raise PluginError(f"{hook} fails", where=implementation.plugin_name, why=one_line(error)) from error
            found += [Provided(record, implementation.plugin_name) for record in records]
        return _ordered(found, hook)

    def records(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """The records of a hook by their names, in order; raises as `provided`."""
        return {p.record.name: p.record for p in self.provided(hook, **arguments)}

    def by_provider(self, opset: int) -> dict[str, dict[str, Any]]:
        """Of each provider where it comes from (under ""), and the names of its records by hook, sorted; none of a hook
        whose answers have no names."""
        found: dict[str, dict[str, Any]] = {}
        for plugin in self._manager.get_plugins():
            provider = str(self._manager.get_name(plugin))
            found[provider] = {"": _origin(plugin, provider)}
            for caller in sorted(self._manager.get_hookcallers(plugin) or (), key=lambda one: one.name):
                found[provider][caller.name] = self._names(caller.name, provider, opset)
        return found

    def _names(self, hook: str, provider: str, opset: int) -> list[str]:
        if hook in ("qntz_report", "qntz_explain"):
            return []
        phases = hookspecs.PHASES
        asked = [{"opset": opset, "phase": phase} for phase in phases]
        names = {p.record.name for one in asked for p in self.provided(hook, **one) if p.provider == provider}
        return sorted(names)

    def rows(self, run: dict[str, Any]) -> list[Provided]:
        """What plugins add to a report (rows have no names, so none can clash)."""
        rows = []
        for implementation in sorted(self._manager.hook.qntz_report.get_hookimpls(), key=lambda i: i.plugin_name):
            given = {"run": run} if "run" in implementation.argnames else {}
            try:
                rows += [Provided(row, implementation.plugin_name) for row in implementation.function(**given) or ()]
            except Exception as error:
                raise PluginError("qntz_report fails", where=implementation.plugin_name, why=one_line(error)) from error
        return rows

    def explanations(self, error: Exception) -> list[tuple[str, str]]:
        """Every plugin's hint for an error, as (provider, text)."""
        hints = []
        for implementation in sorted(self._manager.hook.qntz_explain.get_hookimpls(), key=lambda i: i.plugin_name):
            text = implementation.function(*([error] if implementation.argnames else []))
            if text:
                hints.append((implementation.plugin_name, str(text)))
        return hints


def _origin(plugin: ModuleType, provider: str) -> str:
    """The distribution and version of an installed plugin; the file of another, as its provider names it."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == provider and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return f"qntz {qntz_version}" if provider.startswith("builtin/") else "this project"


def _ordered(found: Sequence[Provided], hook: str) -> list[Provided]:
    by_name: dict[str, Provided] = {}
    for provided in found:
        name = getattr(provided.record, "name", None)
        if not isinstance(name, str):
            raise PluginError(f"{hook} gives {provided.record!r}, which has no name", where=provided.provider)
        if name in by_name and hook == "qntz_symbolics" and (by_name[name].is_builtin or provided.is_builtin):
            by_name[name] = provided if by_name[name].is_builtin else by_name[name]
            continue  # a project's own goes before what qntz ships
        if name in by_name:
            raise PluginError(
                f"{name!r} is provided twice for {hook}",
                where=f"{by_name[name].provider} and {provided.provider}",
                do="Rename one of them.",
            )
        by_name[name] = provided
    ordered: list[Provided] = []
    pending = dict(sorted(by_name.items()))
    while pending:
        ready = next((n for n, p in pending.items() if not (set(_after(p)) & set(pending)) - {n}), None)
        if ready is None:
            raise PluginError(f"`after` goes in a circle for {hook}", where=", ".join(pending))
        ordered.append(pending.pop(ready))
    return ordered


def _after(provided: Provided) -> Iterable[str]:
    return getattr(provided.record, "after", ())
