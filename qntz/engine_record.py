"""engine.json as all who read it take it: a damaged one is told in one line, before anything is made of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qntz.artifacts import read_json
from qntz.config import build
from qntz.errors import ArtifactError, ConfigError, one_line

AGAIN = "Remove it and run `dvc repro`."
_KINDS: dict[str, Any] = {
    "backend": str,
    "version": str,
    "target": str,
    "precision": str,
    "options": dict[str, Any],
    "inputs": list[dict[str, Any]],
    "outputs": list[dict[str, Any]],
    "bytes": int,
    "plan_sha256": str,
    "made_from": dict[str, Any],
    "made_from.files": dict[str, str],
    "made_from.tools": dict[str, str],
    "details": dict[str, Any],
    "details.layers_by_precision": dict[str, int],
    "details.network_layers_by_precision": dict[str, int],
    "licences": dict[str, str],
}
_TENSOR: dict[str, Any] = {"name": str, "dtype": str, "min": list[int], "opt": list[int], "max": list[int]}


def read_engine_record(path: Path, needed: Collection[str] = (), do: str = AGAIN) -> dict[str, Any]:
    """An engine.json, in which what is there is of its kind; other keys are left as they are.

    Args:
        needed: keys that must be there. do: the advice where it is damaged.

    Raises:
        ArtifactError: it is missing or damaged, or lacks a key.
    """
    record = read_record(path, _KINDS, needed, do)
    try:
        for way in ("inputs", "outputs"):
            for index, tensor in enumerate(record.get(way, ())):
                _require_tensor(tensor, f"{way}.{index}")
    except ConfigError as error:
        raise _damaged(path, error, do) from error
    return record


def read_record(path: Path, kinds: Mapping[str, Any], needed: Collection[str] = (), do: str = AGAIN) -> dict[str, Any]:
    """A JSON record as `read_engine_record` reads one. kinds: types by key, as `qntz.config.build` knows them; a key
    below another stands after it, with a dot."""
    record = read_json(path)
    try:
        build(dict[str, Any], record)
        for key, kind in kinds.items():
            above, _, name = key.rpartition(".")
            place = record.get(above, {}) if above else record
            if name in place:
                build(kind, place[name], key)
    except ConfigError as error:
        raise _damaged(path, error, do) from error
    if missing := [key for key in needed if key not in record]:
        raise ArtifactError("is damaged, or of an older qntz", where=str(path), why=f"no {missing[0]}", do=do)
    return dict(record)


def _require_tensor(tensor: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for what is no input or output with its shape range."""
    for name, kind in _TENSOR.items():
        build(kind, tensor.get(name), f"{where}.{name}")
    if len({len(tensor[name]) for name in ("min", "opt", "max")}) > 1:
        raise ConfigError("min, opt and max differ in rank", where=where)


def _damaged(path: Path, error: ConfigError, do: str) -> ArtifactError:
    return ArtifactError("is damaged", where=str(path), why=one_line(error), do=do)
