"""No file is unpickled or evaluated but where it is listed here, with the reason: over the syntax trees of all sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("qntz", "stages", "plugins", "examples", "benchmarks", "docs")
PICKLES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
RUNS = re.compile(
    r"(builtins\.)?(eval|exec|__import__)|pandas\.read_pickle|torch\.(jit|export|hub|distributed)\..*load"
    r"|torch\.package\.PackageImporter|torch\.utils\.cpp_extension\.load\w*"
    r"|yaml\.(unsafe|full)_load(_all)?|yaml\.C?(Unsafe|Full)?Loader"
)
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "_Loader", "_NoDuplicates"}
ALLOWED = {
    (
        "qntz/guard.py",
        "import pickle",
    ): "what a child gives to the process that it is a fork of, by a file without a name",
    ("qntz/guard.py", "pickle.load"): "the same",
    ("qntz/selftest.py", "exec"): "a function whose text is made here of numbers alone, x0, x1, ...",
    (
        "qntz/torchscript/program.py",
        "eval",
    ): "guards of a program that torch.export made in this process, or is trusted",
    ("qntz/model.py", "torch.jit.load"): "model.torchscript, once its digest is trusted; the pipeline's own captured/",
    ("qntz/model.py", "torch.export.load"): "model.program, once its digest is trusted; the pipeline's own captured/",
    ("qntz/symbolics.py", "torch.jit.load"): "what the line above it wrote",
    ("qntz/torchscript/archive.py", "torch.jit.load"): "what `write_archive` wrote of a module of this process",
    ("qntz/torchscript/archive.py", "torch.export.load"): "the same",
    ("qntz/torchscript/routes.py", "torch.jit.load"): "what the line above it wrote, in memory",
}


def told(node: ast.expr) -> str:
    """A dotted name, "" of anything else."""
    if isinstance(node, ast.Attribute):
        base = told(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    return next(
        (one.value.value for one in call.keywords if one.arg == name and isinstance(one.value, ast.Constant)), None
    )


def names(tree: ast.Module) -> dict[str, str]:
    """What the names of a file stand for: `np` for numpy, `load` for torch.load."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unsafe(source: str) -> Iterator[str]:
    """What a source loads, imports or evaluates that may run code which a file holds."""
    tree = ast.parse(source)
    known = names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.partition(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PICKLES:
            yield f"import {node.module}"
        elif isinstance(node, ast.Call):
            name = told(node.func)
            first, _, rest = name.partition(".")
            name = ".".join(filter(None, (known.get(first, first), rest)))
            top, last = name.partition(".")[0], name.rpartition(".")[2]
            if RUNS.fullmatch(name) or (top in PICKLES and last in ("load", "loads", "Unpickler", "open")):
                yield name
            elif name in ("torch.load", "torch.serialization.load"):
                if keyword(node, "weights_only") is not True:
                    yield name
            elif name == "numpy.load":
                if keyword(node, "allow_pickle") is not False:
                    yield name
            elif name in ("yaml.load", "yaml.load_all"):
                given = [one.value for one in node.keywords if one.arg == "Loader"] + node.args[1:2]
                if not given or not SAFE_LOADERS & {told(given[0]).rpartition(".")[2], *fallback(given[0])}:
                    yield name


def fallback(loader: ast.expr) -> set[str]:
    """The names of `getattr(yaml, "CSafeLoader", yaml.SafeLoader)`, where both are safe."""
    if isinstance(loader, ast.Call) and told(loader.func) == "getattr" and len(loader.args) == 3:
        _, name, other = loader.args
        found = {getattr(name, "value", ""), told(other).rpartition(".")[2]}
        return found if found <= SAFE_LOADERS else set()
    return set()


def test_nothing_is_unpickled_or_evaluated_but_what_is_listed() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 150
    found = {(path.relative_to(ROOT).as_posix(), what) for path in files for what in unsafe(path.read_text())}
    assert found - ALLOWED.keys() == set(), "load it safely, or list it with the reason"
    assert ALLOWED.keys() - found == set(), "is listed, and not there any more"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=flag)",
        "from torch import load\nload('x')",
        "import torch as t\nt.load('x')",
        "from torch import jit\njit.load('x')",
        "import torch\ntorch.hub.load('a/b', 'c')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "from numpy import load as read\nread('x')",
        "import yaml\nyaml.load('x', Loader=yaml.Loader)",
        "import yaml\nyaml.load('x', yaml.FullLoader)",
        "import yaml\nyaml.load('x')",
        "import yaml\nyaml.load('x', Loader=getattr(yaml, 'CLoader', yaml.Loader))",
        "import yaml\nyaml.unsafe_load('x')",
        "import yaml\nyaml.CLoader('x').get_single_data()",
        "import pickle",
        "import pickle as safe",
        "def f():\n    from marshal import loads",
        "import joblib",
        "import shelve",
        "from dill import load",
        "from cloudpickle import loads",
        "eval('1')",
        "exec('1')",
        "import builtins\nbuiltins.exec('1')",
    ],
)
def test_what_the_search_finds(source: str) -> None:
    assert list(unsafe(source)), source


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x', map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load('x', mmap_mode='r', allow_pickle=False)",
        "import yaml\nyaml.safe_load('x')",
        "import yaml\nyaml.load('x', Loader=yaml.SafeLoader)",
        "import yaml\nyaml.load('x', Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))",
        "import json\njson.load(file)",
        "model.eval()",
        "from qntz.plugins import load\nload(root)",
    ],
)
def test_what_is_safe(source: str) -> None:
    assert not list(unsafe(source))
