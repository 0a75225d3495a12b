"""Whether a record applies to what is installed, by requirements as in a requirements file, and to an opset."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement

from qntz.errors import PluginError
from qntz.records import Provided

OPSET = "opset"


def unmet(provided: Provided, opset: int) -> str:
    """Why a record does not apply: "it is for opset<16"; "" where it does.

    Raises:
        PluginError: one of its `requires` is no requirement.
    """
    for text in _requirements(provided):
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PluginError(
                f"{provided.record.name!r} requires {text!r}",
                where=provided.provider,
                why="that is no requirement",
                do='Write it as "torch>=2.5" or "opset<16".',
            ) from error
        found = str(opset) if requirement.name == OPSET else _installed(requirement.name)
        if found is None or not requirement.specifier.contains(found.partition("+")[0], prereleases=True):
            return f"it is for {text}"
    return ""


def applicable(provided: Iterable[Provided], opset: int) -> tuple[list[Provided], dict[str, str]]:
    """Those that apply, in order, and of the others why not, by name; raises as `unmet`."""
    fit, reasons = [], {}
    for one in provided:
        if reason := unmet(one, opset):
            reasons[one.record.name] = reason
        else:
            fit.append(one)
    return fit, reasons


def _requirements(provided: Provided) -> Iterable[str]:
    given = provided.record.requires
    return (given,) if isinstance(given, str) else given


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
