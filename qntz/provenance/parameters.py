"""Parameters as DVC reads them from a file, in a fraction of the time: its parser makes every value in Python, and it
looks at all of a file for each key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
# What YAML 1.2, which DVC reads, may take for a number or a date, and the numbers of which 1.1 makes the same.
_NUMBER_LIKE = re.compile(
    r"(?=[-+.0-9])[-+]?[0-9_]*\.?[0-9_]*(?:e[-+]?[0-9]+)?|[-+]?0(?:b[01_]+|o[0-7_]+|x[0-9a-f_]+)|[-+]?\.(?:inf|nan)"
    r"|[0-9]{4}-[0-9].*",
    re.IGNORECASE,
)
_SAME = {
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)"),
    "float": re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
    "bool": re.compile("true|True|TRUE|false|False|FALSE"),
    "null": re.compile("~|null|Null|NULL|"),
}


class _Differs(Exception):
    """PyYAML, which reads YAML 1.1, might make something else of a value."""


class _Same(_Loader):  # type: ignore[misc, valid-type]
    """PyYAML's fast loader, as far as it agrees with DVC's."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if kind is yaml.ScalarNode and implicit[0]:  # without quotes
            name = tag.removeprefix(_TAG)
            same = (
                not _NUMBER_LIKE.fullmatch(value) if name == "str" else name in _SAME and _SAME[name].fullmatch(value)
            )
            if not same:
                raise _Differs(value)
        return tag


def parsed(data: bytes, path: str) -> Any:
    """A file that compose writes, as DVC reads it. Raises what DVC raises."""
    text = data.decode()
    try:
        loader = _Same(text)
        try:
            return loader.get_single_data() or {}
        finally:
            loader.dispose()
    except (_Differs, yaml.YAMLError):
        from dvc.utils.serialize import parse_yaml

        return parse_yaml(text, path)


def picked(values: Any, keys: Iterable[str]) -> dict[str, Any]:
    """The values of dotted keys, of those that are there."""
    found: dict[str, Any] = {}
    for key in keys:
        place = values
        for part in key.split("."):
            if not isinstance(place, Mapping) or part not in place:
                break
            place = place[part]
        else:
            found[key] = place
            continue
        import dpath  # as DVC does it: lists by number, patterns

        try:
            found[key] = dpath.get(values, key, separator=".")
        except KeyError:
            continue
    return found
