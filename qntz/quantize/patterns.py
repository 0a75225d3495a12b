"""Patterns of the configuration: which nodes they mean, by the nodes' names and by the modules that they come from."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from qntz.errors import QuantizeError, did_you_mean
from qntz.origins import Origin


def excluded_by(patterns: Sequence[str], names: Sequence[str], come_from: Mapping[str, Origin]) -> dict[str, str]:
    """The reason by node of those that a pattern matches; raises QuantizeError where a pattern matches none."""
    excluded: dict[str, str] = {}
    for pattern in patterns:
        for name in matching(pattern, names, come_from, "quantize.exclude"):
            excluded.setdefault(name, f"excluded by {pattern!r}")
    return excluded


def matching(pattern: str, names: Sequence[str], come_from: Mapping[str, Origin], where: str) -> list[str]:
    """The nodes that a pattern names, or whose module it names, or a module that this lies in."""
    modules = {name: come_from[name].module for name in names if name in come_from}
    matches = [
        name
        for name in names
        if fnmatch.fnmatchcase(name, pattern)
        or fnmatch.fnmatchcase(modules.get(name, ""), pattern)
        or fnmatch.fnmatchcase(modules.get(name, ""), f"{pattern}.*")
    ]
    if not matches:
        known = [*names, *dict.fromkeys(module for module in modules.values() if module)]
        what = f"pattern {pattern!r} matches no node that would be quantized, and no module of one"
        raise QuantizeError(what, where=where, do=did_you_mean(pattern, known))
    return matches
