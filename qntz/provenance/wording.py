"""A forecast in words, for the terminal and for logs: stages with the same reasons are told together."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from qntz.provenance.forecast import BLOCKED, COMMITS, FAILS, MAY, RESTORED, RUNS, UNCHANGED, Planned

HEADS = {
    FAILS: "will fail",
    BLOCKED: "will not run",
    RUNS: "will run",
    RESTORED: "will be restored from the cache",
    COMMITS: "will be taken as it is",
    MAY: "may run",
}


def rendered(planned: Sequence[Planned], models: Mapping[str, str], remote: bool, width: int) -> list[str]:
    """The lines of a forecast.

    Args:
        models: by engine the model that it is built from. remote: whether DVC has one to pull from. width: of a line.
    """
    lines: list[str] = []
    for action, head in HEADS.items():
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for one in planned:
            if one.action == action:
                after = one.after if action in (MAY, BLOCKED) else ()
                groups.setdefault((tuple(told_changes(one)), after), []).append(one.stage)
        for (reasons, after), stages in groups.items():
            told = head
            if action == BLOCKED:
                told, reasons = f"will not run, since {_listed(after)} {'fails' if len(after) == 1 else 'fail'}", ()
            elif after:
                told = f"{'may run, or be restored,' if reasons else 'may run'} after {_listed(after)}"
            lines += _wrapped(f"{_listed(stages)} {told}{':' if reasons else ''}", "", width)
            for reason in reasons:
                lines += _wrapped(reason, "  ", width)
    lines += [line for note in _notes(planned, models, remote) for line in textwrap.wrap(note, width)]
    return lines


def told_changes(one: Planned) -> Iterable[str]:
    """Its changes; a module that has been named is not named again for each plugin that imports it."""
    named: set[str] = set()
    for change in one.changes:
        if not change.names or not named.issuperset(change.names):
            yield change.text
        named.update(change.names)


def _notes(planned: Sequence[Planned], models: Mapping[str, str], remote: bool) -> Iterable[str]:
    actions = {one.stage: one.action for one in planned}
    unchanged = [stage for stage, action in actions.items() if action == UNCHANGED]
    quantized = [
        stage.partition("@")[2]
        for stage, action in actions.items()
        if action in (RUNS, MAY) and stage.startswith("quantize@")
    ]
    again = {models.get(engine) for engine in quantized}
    spared = [stage for stage in unchanged if stage.startswith("calibrate@") and stage.partition("@")[2] in again]
    if spared:
        yield f"{_listed(spared)} {'is' if len(spared) == 1 else 'are'} unchanged, so the data are not run again."
    pulled = sum(one.pull for one in planned)
    if pulled and remote:
        yield f"dvc.lock has the results of {pulled}: `qntz repro --pull` fetches those that the remote has."
    count = len(unchanged)
    if len(unchanged) == len(planned):
        yield f"Nothing to do: {count} {'stage is' if count == 1 else 'stages are'} unchanged."
    elif unchanged:
        yield f"{count} {'stage is' if count == 1 else 'stages are'} unchanged."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
