"""The class or function of a model as its source tells of it: found and read, never imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qntz.errors import ConfigError, did_you_mean, one_line


@dataclass(frozen=True)
class Arguments:
    """What a function takes: names in their order, those without a default, and whether it takes any other as well."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    others: bool


@dataclass(frozen=True)
class Source:
    """A class or function: where it is, and what it is made with and called with; None where the source of that one
    definition does not tell."""

    place: str
    made_with: Arguments | None = None
    called_with: Arguments | None = None


def find(root: Path, module: str, name: str) -> Source:
    """The definition of `name` in a module that Python finds from `root`.

    Raises:
        ConfigError: there is no such module, it is no Python, or it does not define the name.
    """
    path = _file(root, module)
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    if path.suffix != ".py":  # an extension
        return Source(shown)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        place = f"{shown}:{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else shown
        raise ConfigError("is no Python", where=place, why=one_line(error)) from None
    defined = dict(_defined(tree.body))
    if name not in defined and "*" not in defined:
        classes = [known for known, node in defined.items() if isinstance(node, ast.ClassDef)]
        raise ConfigError(f"no {name!r}", where=shown, do=did_you_mean(name, classes or defined))
    node = defined.get(name)
    if isinstance(node, ast.FunctionDef):
        return Source(shown, made_with=_arguments(node, bound=False))
    if not isinstance(node, ast.ClassDef):
        return Source(shown)
    methods = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
    made, called = methods.get("__init__"), methods.get("forward")
    decorated = bool(node.decorator_list)  # a dataclass has an __init__ of its own
    return Source(
        shown,
        None if made is None or decorated else _arguments(made, bound=True),
        None if called is None or called.decorator_list else _arguments(called, bound=True),
    )


def _file(root: Path, module: str) -> Path:
    top, *rest = module.split(".")
    path = _child(root, top) or _outside(top)
    if path is None:
        why = "it lies in src/, where Python does not look" if _child(root / "src", top) else ""
        do = "Install the project: pip install -e ." if why else did_you_mean(top, _packages(root))
        raise ConfigError(f"no module {top!r}", where="--model", why=why, do=do)
    for depth, part in enumerate(rest):
        folder = path if path.is_dir() else path.parent if path.name == "__init__.py" else None
        below = _child(folder, part) if folder is not None else None
        if below is None:
            whole = ".".join([top, *rest[: depth + 1]])
            known = _packages(folder) if folder is not None else ()
            raise ConfigError(f"no module {whole!r}", where="--model", do=did_you_mean(part, known))
        path = below
    if path.is_dir():
        raise ConfigError(f"{module!r} is a folder", where="--model", do=did_you_mean("", _packages(path)))
    return path


def _child(folder: Path, name: str) -> Path | None:
    """A module in a folder: its file, or the folder of a package without `__init__.py`."""
    below = folder / name
    found = [below / "__init__.py", below.with_name(f"{name}.py"), *sorted(folder.glob(f"{name}.*.so")), below]
    return next((path for path in found if path.is_file() or (path is below and path.is_dir())), None)


def _outside(top: str) -> Path | None:
    """A package or module that is installed, or otherwise on Python's path."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.has_location and spec.origin:
        return Path(spec.origin)
    return next((Path(place) for place in spec.submodule_search_locations or ()), None)


def _packages(folder: Path) -> list[str]:
    """The modules in a folder that may be meant."""
    files = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/*.py")}
    return sorted(name for name in files | packages if name.isidentifier() and not name.startswith("__"))


def _defined(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that statements define, with the statement; "*" where an import brings others."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            inner = [*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
            yield from _defined([*inner, *(one for h in getattr(node, "handlers", ()) for one in h.body)])
        else:
            for one in ast.walk(node):
                if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                    yield one.id, node


def _arguments(function: ast.FunctionDef, bound: bool) -> Arguments:
    given = function.args
    positional = [one.arg for one in (*given.posonlyargs, *given.args)]
    required = positional[: len(positional) - len(given.defaults)]
    by_name = [(one.arg, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    skipped = 1 if bound else 0
    return Arguments(
        (*positional[skipped:], *(name for name, _ in by_name)),
        (*required[skipped:], *(name for name, default in by_name if default is None)),
        given.vararg is not None or given.kwarg is not None,
    )
