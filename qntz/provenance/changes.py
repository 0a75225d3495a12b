"""What differs between what a stage ran on and what there is now, in words that name the key, file, module or tool."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz import parts
from qntz.fingerprint import MISSING

_DIGEST = re.compile("[0-9a-f]{64}")
_ABSENT: Any = object()
SHOWN = 60  # characters of a value
NAMED = 3  # modules or files that are named; of more, how many
UNKNOWN = "which part of it is not known here"


@dataclass(frozen=True)
class Change:
    """One difference. `key` is that of the parameter, or "stage", "cmd", "dep", "out", "error"; `text` says it in
    words; `old` and `new` are of JSON's types, None where there is nothing; `names` are the modules or files in it that
    differ, where they are known."""

    key: str
    text: str
    old: Any = None
    new: Any = None
    names: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "text": self.text, "old": self.old, "new": self.new, "names": list(self.names)}


def leaf_changes(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The differences below one key of two mappings, each leaf that differs under its dotted key."""
    found = []
    for leaf, before, after in _leaves(key, old.get(key, _ABSENT), new.get(key, _ABSENT)):
        text = f"{leaf} {_shown(before)} → {_shown(after)}"
        if before is _ABSENT:
            text = f"{leaf} is new: {_shown(after)}"
        elif after is _ABSENT:
            text = f"{leaf} is gone; it was {_shown(before)}"
        found.append(Change(leaf, text, None if before is _ABSENT else before, None if after is _ABSENT else after))
    return found


def _leaves(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _leaves(f"{key}.{name}", old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _leaves(f"{key}[{index}]", before, after)
    elif type(old) is not type(new) or old != new:
        yield key, old, new


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
    text = text[:8] if _DIGEST.fullmatch(text) else text
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def input_changes(
    root: Path, key: str, old: Mapping[str, Any], new: Mapping[str, Any], weights: str = ""
) -> list[Change]:
    """The differences between two `inputs.<stage>` sections, with the modules and files that changed where the digests
    of both are known here.

    Args:
        root: of the project, under which `qntz.parts` keeps what digests are made of. weights: the model's file.
    """
    found: list[Change] = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before == after:
            continue
        place = f"{key}.{name}"
        if name in _WHOLES and all(isinstance(one, (str, type(None))) for one in (before, after)):
            what = f"{_WHOLES[name]} {weights}".rstrip() if name == "weights" else _WHOLES[name]
            found.append(_change(root, place, what, before, after, parted=name != "weights"))
        elif name in _EACH and isinstance(before, Mapping) and isinstance(after, Mapping):
            for one in dict.fromkeys([*before, *after]):
                if before.get(one) != after.get(one):
                    found.append(_EACH[name](root, place, one, before.get(one), after.get(one)))
        elif name == "order":
            found.append(Change(place, f"the order of {_ordered(before, after)} changed", before, after))
        else:
            found += leaf_changes(name, {name: before}, {name: after})
    return found


def _change(root: Path, key: str, what: str, old: str | None, new: str | None, parted: bool = False) -> Change:
    """What became of a digest. `parted`: it is always one of many, so that it is told where they are not known."""
    if old is None or new is None:
        return Change(key, f"{what} is {'read now' if old is None else 'read no more'}", old, new)
    if MISSING in (old, new):
        return Change(key, f"{what} {'is missing' if new == MISSING else 'was missing, and is there now'}", old, new)
    before, after = parts.kept(root, old) or {}, parts.kept(root, new) or {}
    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if not (before and after and names):
        return Change(key, f"{what} changed" + (f" ({UNKNOWN})" if parted else ""), old, new)
    told = [f"{n} (new)" if n not in before else f"{n} (gone)" if n not in after else n for n in names]
    shown = ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")
    return Change(key, f"{what} changed: {shown}", old, new, tuple(names))


def _file(what: str) -> Callable[[Path, str, str, Any, Any], Change]:
    return lambda root, key, path, old, new: _change(root, f"{key}.{path}", f"{what} {path}", old, new)


def _plugin(root: Path, key: str, name: str, old: Any, new: Any) -> Change:
    what = "what lies beside the plugins" if name.endswith("/") else f"plugin {name}"
    return _change(root, f"{key}.{name}", what, old, new, parted=True)


def _tool(root: Path, key: str, name: str, old: Any, new: Any) -> Change:
    shown = "Python" if name == "python" else name
    text = f"{shown} {_shown(old)} → {_shown(new)}"
    if old is None or new is None:
        text = f"{shown} {_shown(new or old)} is {'used now' if old is None else 'used no more'}"
    return Change(f"{key}.{name}", text, old, new)


def _variable(root: Path, key: str, name: str, old: Any, new: Any) -> Change:
    how = "has a value now" if old is None else "has no value any more" if new is None else "changed"
    return Change(f"{key}.{name}", f"the environment variable {name} {how}", old, new)


def _ordered(old: Any, new: Any) -> str:
    """What stands in another order: the names of the inputs and dimensions, or mappings as [place, name, ...]."""
    lists = [one for side in (old, new) if isinstance(side, list) for one in side if isinstance(one, list) and one]
    moved = sorted({one[0].lstrip(".") for one in lists if not (one in (old or []) and one in (new or []))})
    return ", ".join(moved) if moved else "the inputs or of the dimensions"


_WHOLES = {
    "code": "the stage's code",
    "model": "the model's source",
    "weights": "the weights",
    "data_code": "the code of the data",
}
_EACH: dict[str, Callable[[Path, str, str, Any, Any], Change]] = {
    "plugins": _plugin,
    "tools": _tool,
    "data": _file("the data"),
    "environment": _variable,
    "extra": _file("the extra input"),
    "model_files": _file("the model's file"),
}
