"""The one place where a `_target_` of the configuration becomes something to call: that of a model's factory or of a
data source, and no other."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qntz.errors import ConfigError, QntzError, one_line

TARGET = "_target_"
PLACES = ("model.factory", "model.data.calibrate", "model.data.test")  # whose own `_target_` is called
NOT_HERE = f"{TARGET} is not called here"
WHY = "it is called in model.factory, model.data.calibrate and model.data.test alone"
STANDARD = "what comes with Python makes neither models nor samples"
OF_YOUR_OWN = "Name a class or a function of your project, or of a library."
HOLDS = "it may run code that a file holds"
AS_A_FILE = "Give the file as model.weights, model.torchscript or model.program, or as data."
# They pass by what is asked of model.weights and model.trusted, or fetch code. A list, no proof: there are others.
LOADERS = {
    "cloudpickle": ("load", "loads"),
    "dill": ("load", "loads"),
    "joblib": ("load",),
    "numpy": ("load",),
    "pandas": ("read_pickle",),
    "torch": ("load", "load_inline", "load_state_dict_from_url", "PackageImporter"),  # of torch.hub, jit and export too
}


def require_places(composed: Mapping[str, Any], root: Path) -> None:
    """Raises ConfigError, with the key, for a `_target_` anywhere but in `PLACES`, and for one there that `resolved`
    refuses, as far as its name tells. root: the project's, whose own packages may be called as Python's are.
    """
    for where, target in _targets(composed):
        if where.rpartition(".")[0] not in PLACES:
            raise ConfigError(NOT_HERE, where=where, why=WHY, do="Make the object in that function, or in a plugin.")
        top, _, rest = str(target).partition(".")
        if _is_standard(top, root):
            raise ConfigError(f"{target} is refused", where=where, why=STANDARD, do=OF_YOUR_OWN)
        if rest.rpartition(".")[2] in LOADERS.get(top, ()):
            raise ConfigError(f"{target} is refused", where=where, why=HOLDS, do=AS_A_FILE)


def _targets(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every `_target_` with its key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{where}.{key}".lstrip(".")
            if key == TARGET:
                yield place, inner
            yield from _targets(inner, place)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _targets(inner, f"{where}.{index}")


def _is_standard(top: str, root: Path) -> bool:
    own = (root / top / "__init__.py").is_file() or (root / f"{top}.py").is_file()
    return top in sys.stdlib_module_names and not own


def resolved(
    target: str, kind: type[QntzError], where: str = "", what: str = "class or function"
) -> Callable[..., Any]:
    """What "package.module.name" stands for; it is not called.

    Args:
        kind: of the error. where: the key that holds the target; "": the target stands for the place. what: is wanted,
            in words.

    Raises:
        QntzError: of this kind: it cannot be imported or called, comes with Python, or reads files that may hold code.
    """

    def refusal(told: str, why: str = "", do: str = "") -> QntzError:
        return kind(f"{target} {told}" if where else told, where=where or target, why=why, do=do)

    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever a module of the user's does when it is imported
        do = f"Name a {what} that `python -c 'import ...'` finds from the project's root."
        raise refusal("cannot be imported", one_line(error), do) from error
    if not callable(found):
        raise refusal(f"is a {type(found).__name__}, no {what}")
    if inspect.isclass(found) or inspect.isroutine(found):  # by where it is from, whatever module names it
        top = (found.__module__ or "").partition(".")[0]
        if _comes_with_python(top):
            raise refusal("is refused", STANDARD, OF_YOUR_OWN)
        if found.__name__ in LOADERS.get(top, ()):
            raise refusal("is refused", HOLDS, AS_A_FILE)
    return found


def _comes_with_python(top: str) -> bool:
    """Whether a module, which has been imported, is Python's; a project may have one of the same name."""
    file = getattr(sys.modules.get(top), "__file__", None)
    own = file is not None and not Path(file).is_relative_to(sysconfig.get_paths()["stdlib"])
    return top in sys.stdlib_module_names and not own
