"""What each key of the configuration and each module must rerun, told without the code that decides it.

The stages of a key are written down by hand, from what the stages do; those of a module come from grimp's import graph
and from the hooks that pluggy finds in the loaded plugins. qntz decides by its own tables and its own reading of the
sources.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from pathlib import Path

import grimp

from qntz import hookspecs
from qntz.plugins import BUILTIN

BY_KEY = {
    # the capture and its check run the model itself
    "model.factory": ("check", "torchscript"),
    "model.torchscript": ("check", "torchscript"),
    "model.program": ("check", "torchscript"),
    "model.trusted": ("check", "torchscript"),
    "model.weights": ("check", "torchscript"),
    "model.probes": ("check", "torchscript"),
    # names, dtypes and sizes of inputs: of the graph's inputs, of batches, of profiles
    "model.inputs": ("check", "torchscript", "export", "calibrate", "quantize", "engine", "verify"),
    "model.dims": ("check", "torchscript", "calibrate", "quantize", "engine", "verify"),
    "model.data.calibrate": ("calibrate",),
    "model.data.test": ("torchscript", "quantize", "verify"),
    "model.metric": ("quantize", "verify"),
    # read by the model's and the data's code, whichever stage runs that, and by the plugins of plugins/
    "model.extra_inputs": ("check", "torchscript", "export", "simplify", "calibrate", "quantize", "verify"),
    "check": ("check",),
    # findings are those of the route that is asked for, after the rewrites that may apply
    "torchscript.method": ("check", "torchscript"),
    "torchscript.forbid": ("check", "torchscript"),
    "torchscript": ("torchscript",),
    # what can be exported decides the route
    "export.opset": ("check", "torchscript", "export"),
    "export": ("export",),
    "simplify": ("simplify",),
    "calibrate": ("calibrate",),
    # tolerances follow the precision
    "quantize.precision": ("quantize", "engine", "verify"),
    "quantize": ("quantize",),
    "engine": ("engine", "verify"),
    "verify": ("verify",),
    "report": ("report",),
}
"""The stages that read a key, or else those of the nearest key above it."""


def stages_of_key(key: str) -> tuple[str, ...]:
    parts = key.split(".")
    for depth in range(len(parts), 0, -1):
        found = BY_KEY.get(".".join(parts[:depth]))
        if found is not None:
            return found
    raise KeyError(f"{key}: write into tests/mutation/keys.py which stages read it")


@functools.cache
def _graph() -> grimp.ImportGraph:
    packages = ("qntz", "stages", "plugins", "examples")
    return grimp.build_graph(*packages, include_external_packages=True, exclude_type_checking_imports=True)


@functools.cache
def imported(*modules: str) -> frozenset[str]:
    """Everything that importing these modules loads, themselves and the packages around included; of what lies outside
    the top-level names."""
    graph = _graph()
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found or name not in graph.modules:
            continue
        found.add(name)
        parents = name.rsplit(".", 1)[0]
        pending += [parents] if parents != name and not graph.is_module_squashed(parents) else []
        pending += graph.find_modules_directly_imported_by(name)
    return frozenset(found)


def hooks_of(module: str) -> set[str]:
    """The hooks that a loaded plugin's functions are marked as."""
    marked = inspect.getmembers(importlib.import_module(module), inspect.isfunction)
    return {name for name, function in marked if hasattr(function, f"{hookspecs.PROJECT}_impl")}


@functools.cache
def plugins_of(stage: str, backend: str | None) -> tuple[str, ...]:
    """The modules of plugins with a hook that the stage calls; of the shipped backends the engine's own."""
    root = Path(sys.modules["qntz"].__file__).parent.parent
    shipped = [f"{BUILTIN}.{path.stem}" for path in sorted((root / "qntz/builtin").glob("[!_]*.py"))]
    local = [f"plugins.{path.stem}" for path in sorted((root / "plugins").glob("[!_]*.py"))]
    found = []
    for name in (*shipped, *local):
        hooks = hooks_of(name)
        own = hooks != {"qntz_backends"} or name.rpartition(".")[2] == backend
        if own and any(stage in hookspecs.CALLED_BY[hook] for hook in hooks):
            found.append(name)
    return tuple(found)


def modules_of(stage: str, backend: str | None = None, model: str | None = None) -> frozenset[str]:
    """All modules, and top-level names from outside, whose change can change what a stage makes."""
    runs_model = model is not None and stage in ("check", "torchscript")
    return imported(f"stages.{stage}", *plugins_of(stage, backend), *([model] if runs_model else []))
