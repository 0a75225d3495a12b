"""The lineage of an engine as a tree, for the terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qntz.provenance.lineage import Step

SHORT = 12  # characters of a digest; --json has all of it


@dataclass
class Branch:
    """A line of the tree and what hangs below it."""

    text: str
    below: list[Branch] = field(default_factory=list)


class Tree:
    """The tree of an engine; what has been told of an earlier stage is not told again.

    Args:
        steps: the engine's lineage. now: by stage what to say of its state now.
    """

    def __init__(self, steps: Mapping[str, Step], now: Mapping[str, Sequence[str]]):
        self.steps, self.now = steps, now
        self._told: set[tuple[str, str]] = set()

    def of(self, stage: str) -> Branch:
        """The branch of a stage, with those that it reads from below it."""
        if not self._new("stage", stage):
            return Branch(f"{stage}, as above")
        step = self.steps[stage]
        below = [Branch(f"now: {text}") for text in self.now.get(stage, ())]
        below += self._configured(step) + self._inputs(step)
        reads: dict[str | None, list[str]] = {}
        for one in step.reads:
            note = ", which has been written anew since" if one.earlier else ""
            shown = f"{one.path.rpartition('/')[2]} {one.md5[:SHORT]}{note}"
            reads.setdefault(one.stage if one.stage in self.steps else None, []).append(shown)
        for writer, files in reads.items():
            if writer is None:
                below.append(Branch(f"reads {', '.join(files)}"))
            else:
                branch = self.of(writer)
                below.append(Branch(f"reads {', '.join(files)} of {branch.text}", branch.below))
        return Branch(stage, below)

    def _new(self, kind: str, text: str) -> bool:
        if (kind, text) in self._told:
            return False
        self._told.add((kind, text))
        return True

    def _configured(self, step: Step) -> list[Branch]:
        shown = [f"{key} {_json(set_)}" for key, value in step.params.items() if (set_ := _set(value)) not in _UNSET]
        new = [Branch(text) for text in shown if self._new("configured", text)]
        return [Branch("configured", new)] if new else []

    def _inputs(self, step: Step) -> list[Branch]:
        inputs, found = step.inputs, []
        if inputs.get("code"):
            found.append(self._parted(step, "code", inputs["code"]))
        if inputs.get("model"):
            found.append(self._parted(step, "the model's source", inputs["model"], named=True))
        files = {path: ("weights", digest) for path, digest in step.files().items() if path == step.weights}
        for kind, what in (("data", "data"), ("extra", "extra input"), ("model_files", "the model's file")):
            files |= {path: (what, digest) for path, digest in (inputs.get(kind) or {}).items()}
        found += [Branch(f"{what} {path} {digest[:SHORT]}") for path, (what, digest) in files.items()]
        if inputs.get("data_code"):
            found.append(self._parted(step, "the code of the data", inputs["data_code"], named=True))
        plugins = [f"{name} {digest[:SHORT]}" for name, digest in (inputs.get("plugins") or {}).items()]
        tools = [f"{name} {version}" for name, version in (inputs.get("tools") or {}).items()]
        for what, all_of_them in (("plugins", plugins), ("tools", tools)):
            new = [text for text in all_of_them if self._new(what, text)]
            known = len(all_of_them) - len(new)
            above = [f"{'and ' if new else ''}{known} named above"] if known else []
            found += [Branch(f"{what} {', '.join([*new, *above])}")] if all_of_them else []
        return found

    def _parted(self, step: Step, what: str, digest: str, named: bool = False) -> Branch:
        """A digest with the number of its modules, or with each of them."""
        modules = step.made_of.get(digest)
        if modules is None:
            return Branch(f"{what} {digest[:SHORT]} (its modules are not known here)")
        if not named:
            return Branch(f"{what} {digest[:SHORT]}, {len(modules)} modules")
        return Branch(f"{what} {digest[:SHORT]}", [Branch(f"{name} {one[:SHORT]}") for name, one in modules.items()])


def composed_from(configured: Mapping[str, Any]) -> Branch:
    """The branch of what `configuration` tells."""
    files = [Branch(f"{path} {digest[:SHORT]}") for path, digest in configured["files"].items()]
    entries = [Branch(f"params.yaml: {key} {_json(entry)}") for key, entry in configured["entries"].items()]
    return Branch("composed, as conf/ and params.yaml are now, of", [*files, *entries])


def lines(branch: Branch, width: int) -> list[str]:
    """The tree as text."""
    found = textwrap.wrap(branch.text, width) or [""]

    def hang(branches: Sequence[Branch], guide: str) -> None:
        for index, one in enumerate(branches):
            ends = index == len(branches) - 1
            inner = guide + ("   " if ends else "│  ")
            more = "│  " if one.below else "   "
            room = max(width, len(inner) + 30)
            found.extend(
                textwrap.wrap(
                    one.text,
                    room,
                    initial_indent=guide + ("└─ " if ends else "├─ "),
                    subsequent_indent=inner + more,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
            hang(one.below, inner)

    hang(branch.below, "")
    return found


_UNSET: tuple[Any, ...] = (None, [], {}, "")


def _set(value: Any) -> Any:
    """Without what is empty or null, below it too."""
    if isinstance(value, Mapping):
        return {key: inner for key, one in value.items() if (inner := _set(one)) not in _UNSET}
    return value


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
