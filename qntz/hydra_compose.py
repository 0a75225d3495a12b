"""One entry composed by Hydra onto the dataclasses of `qntz.config`, with errors that name file, key and value.

Apart from `qntz.compose`, so that a run in which nothing changed does not import Hydra.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qntz.config import Config, build
from qntz.errors import ConfigError, did_you_mean, one_line

Layers = Sequence[tuple[str, Mapping[str, Any]]]
"""The mappings that are merged over the groups, each with the place it comes from."""


def compose_entry(
    conf: Path, choices: Mapping[str, str], layers: Layers, bases: dict[Any, DictConfig]
) -> dict[str, Any]:
    """The composed, resolved and checked configuration, as plain containers.

    Args:
        conf: the folder with config.yaml and the groups. choices: the option of each group that is not the default.
        bases: what was composed of conf alone, by choices, for entries that share them; filled here.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or an interpolation that fails.
    """
    place = functools.partial(_place, conf, choices, layers)
    try:
        key = tuple(sorted(choices.items()))
        if key not in bases:
            bases[key] = _base(conf, key)
        composed = bases[key]
        for _, values in layers:
            composed = OmegaConf.merge(composed, values)  # type: ignore[assignment]
        plain = OmegaConf.to_container(composed, resolve=True)
        build(Config, plain)
    except ConfigError as error:
        raise ConfigError(error.what, where=place(error.where), why=error.why, do=error.do) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, place) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "is no YAML", where=f"{mark.name}:{mark.line + 1}" if mark else "conf", why=getattr(error, "problem", "")
        ) from error
    return plain  # type: ignore[return-value]


def _base(conf: Path, choices: tuple[tuple[str, str], ...]) -> DictConfig:
    ConfigStore.instance().store("schema", _schema())
    with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
        composed = compose("config", overrides=[f"{group}={option}" for group, option in choices])
    OmegaConf.set_struct(composed, False)  # the dataclasses refuse unknown keys; free mappings take new ones
    return composed


@functools.cache
def _schema(kind: Any = Config) -> Any:
    """A type as OmegaConf can merge onto it: dataclasses without `frozen`, which is read-only there, and without their
    validation, which `build` does with better messages."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = []
        for item in dataclasses.fields(kind):
            given = hints[item.name]
            if dataclasses.is_dataclass(given):
                made = dataclasses.field(default_factory=_schema(given))
            else:
                made = dataclasses.field(default=item.default, default_factory=item.default_factory)
            fields.append((item.name, _schema(given), made))
        return dataclasses.make_dataclass(kind.__name__, fields)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return dict[args[0], _schema(args[1])]  # type: ignore[misc]
    return kind


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explained(error: Exception, place: Any) -> ConfigError:
    for cause in _causes(error):
        key = getattr(cause, "full_key", None)
        if key:
            last = str(key).rpartition(".")[2]
            kind = getattr(cause, "object_type", None)
            known = list(getattr(kind, "__dataclass_fields__", ()))
            if known and last not in known:
                return ConfigError(f"unknown key {last!r}", where=place(str(key)), do=did_you_mean(last, known))
            told = one_line(cause).split(": ", 1)[-1]
            if "is not a ListConfig" in told:
                return ConfigError("a list is expected", where=place(str(key)), do="Give one, [a, b].")
            return ConfigError(told, where=place(str(key)))
    return ConfigError("cannot be composed", where="conf", why=one_line(error))


def _place(conf: Path, choices: Mapping[str, str], layers: Layers, key: str) -> str:
    """Where a key was set last: an entry of params.yaml, or the file of a group."""
    parts = key.split(".")
    for depth in range(len(parts), 0, -1):
        for where, values in reversed(layers):
            if _holds(values, parts[:depth]):
                return f"{where}.{key}"
        option = choices.get(parts[0])
        files = [conf / parts[0] / f"{option}.yaml"] if option else sorted((conf / parts[0]).glob("*.yaml"))
        for file in files:
            if (
                depth > 1
                and file.is_file()
                and _holds(yaml.safe_load(file.read_text(encoding="utf-8")), parts[1:depth])
            ):
                return f"{conf.name}/{parts[0]}/{file.name}: {'.'.join(parts[1:])}"
    if parts[0] in choices:
        return f"{conf.name}/{parts[0]}/{choices[parts[0]]}.yaml: {'.'.join(parts[1:]) or key}"
    return f"{conf.name}: {key}"


def _holds(values: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
