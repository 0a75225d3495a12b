"""Whether dvc.yaml and stages/ of a project fit this qntz: the keys that a stage may read, and the shipped files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qntz.config import READS
from qntz.doctor.finding import Finding
from qntz.errors import QntzError
from qntz.scaffold.shipped import shipped, shipped_files

SECTION = "project"
UPDATE = "`qntz init --update` writes the shipped ones."
FREE = ("compose.deps",)  # a project's own
COMPARED_OTHERWISE = ("desc", "do", "params")  # no difference, what the others stand in, and by the keys of a stage


def findings(root: Path) -> Iterator[Finding]:
    """Findings of dvc.yaml and of stages/; nothing is imported of either."""
    import yaml

    from qntz.pipelines import as_one

    try:
        wanted = yaml.safe_load(shipped("dvc.yaml"))
        files = shipped_files(("stages/*.py",))
    except QntzError as error:
        yield Finding("tools", "qntz", error.what, "broken", error.do)
        return
    try:
        told = yaml.safe_load(as_one((root / "dvc.yaml").read_text(encoding="utf-8")))
        yield from _dvc_yaml(told, wanted)
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        why = str(error).splitlines()[0] if isinstance(error, yaml.YAMLError) else "it holds no stages as DVC has them"
        yield Finding(SECTION, "dvc.yaml", f"cannot be read: {why}", "broken", UPDATE)
    missing = sorted(name for name in files if not (root / name).is_file())
    changed = sorted(name for name, data in files.items() if name not in missing and _differs(root / name, data))
    if missing:
        yield Finding(SECTION, "stages/", f"{', '.join(missing)} missing", "broken", UPDATE)
    if changed:
        yield Finding(SECTION, "stages/", f"not as this qntz ships them: {', '.join(changed)}", "note", UPDATE)
    if not missing and not changed:
        yield Finding(SECTION, "stages/", "as this qntz ships them")


def _differs(path: Path, data: bytes) -> bool:
    return path.read_bytes().replace(b"\r\n", b"\n") != data.replace(b"\r\n", b"\n")


def _dvc_yaml(told: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Finding]:
    found = [*_vars(told, wanted)]
    for stage, asked in wanted["stages"].items():
        if stage in told["stages"]:
            found += _stage(stage, told["stages"][stage], asked)
        else:
            found.append(Finding(SECTION, "dvc.yaml", f"no stage {stage}", "broken", UPDATE))
    yield from found or [Finding(SECTION, "dvc.yaml", "names every key that a stage may read")]


def _vars(told: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """Those of a project's own stages may stand beside."""
    if missing := [str(one) for one in wanted["vars"] if one not in (told.get("vars") or ())]:
        yield Finding(SECTION, "dvc.yaml", f"vars lack {', '.join(missing)}", "broken", UPDATE)


def _stage(stage: str, told: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[Finding]:
    """The gravest difference of a stage."""
    unseen = [key for key in _keys(stage) if not _covered(key, _named(told))]
    different = _unlike(stage, told, asked)
    if unseen:
        value = f"{stage} may read {', '.join(unseen)}, and does not name it"
        do = f"Add it to the params of {stage}: else a change of it is not seen."
        yield Finding(SECTION, "dvc.yaml", value, "broken", do)
    elif "always_changed" in different and asked.get("always_changed"):
        do = f"Give {stage} `always_changed: true`: else a change of conf/ is not seen."
        yield Finding(SECTION, "dvc.yaml", f"{stage} is not always_changed", "broken", do)
    elif different:
        value = f"{stage}: {', '.join(different)} not as this qntz ships them"
        yield Finding(SECTION, "dvc.yaml", value, "note", UPDATE)


def _keys(stage: str) -> tuple[str, ...]:
    """The keys of a composed file that a stage depends on; none of compose, which writes them."""
    return (*READS[stage], f"inputs.{stage}") if stage in READS else ()


def _inner(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = stage.get("do", stage)
    return inner


def _named(stage: Mapping[str, Any]) -> set[str]:
    """The keys of its own composed file that a stage names."""
    named: set[str] = set()
    for one in _inner(stage).get("params") or ():
        if isinstance(one, Mapping):
            named |= {str(key) for file, keys in one.items() if "build/config/" in file for key in keys or ()}
    return named


def _covered(key: str, named: set[str]) -> bool:
    """Whether a key, or a mapping that it lies in, is named."""
    parts = key.split(".")
    return any(".".join(parts[:depth]) in named for depth in range(1, len(parts) + 1))


def _unlike(stage: str, told: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The keys that differ, of the stage and of what is done for each."""
    one, other = ({**whole, **_inner(whole)} for whole in (told, asked))
    kept = (key for key in {**other, **one} if key not in COMPARED_OTHERWISE and f"{stage}.{key}" not in FREE)
    return [key for key in kept if one.get(key) != other.get(key)]
