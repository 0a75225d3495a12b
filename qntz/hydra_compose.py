"""One entry composed by Hydra onto the dataclasses of `qntz.config`, with errors that name file, key and value.

Apart from `qntz.compose`, so that a run in which nothing changed does not import Hydra.
"""

from __future__ import annotations

import dataclasses
import functools
import re
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

from qntz.callables import NOT_HERE, TARGET, WHY, require_places
from qntz.config import ENGINE_STAGES, VARIABLE, Config, build
from qntz.errors import ConfigError, did_you_mean, one_line
from qntz.redact import credentials_in, is_secret, secret_in

_UNSTABLE = re.compile(r"\$\{\s*(now|hydra)\s*:")
Layers = Sequence[tuple[str, Mapping[str, Any]]]
"""The mappings that are merged over the groups, each with the place it comes from: a model's, then an engine's."""


def compose_entry(
    conf: Path, choices: Mapping[str, str], layers: Layers, bases: dict[Any, DictConfig]
) -> dict[str, Any]:
    """The composed, resolved and checked configuration, as plain containers.

    Args:
        conf: the folder with config.yaml and the groups. choices: the option of each group that is not the default.
        bases: what was composed of conf alone, by choices, for entries that share them; filled here.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an interpolation that fails, a
            `_target_` where none is called, or a secret.
    """
    place = functools.partial(_place, conf, choices, layers)
    try:
        key = tuple(sorted(choices.items()))
        if key not in bases:
            bases[key] = _base(conf, key)
        composed = bases[key]
        for _, values in layers:
            composed = OmegaConf.merge(composed, values)  # type: ignore[assignment]
        written = OmegaConf.to_container(composed, resolve=False)
        _require_stable(written)
        _require_no_secrets(written)
        plain = OmegaConf.to_container(composed, resolve=True)
        _require_no_secrets(plain)
        require_places(plain, conf.parent)  # type: ignore[arg-type]
        _require_valid(plain, is_engine=len(layers) > 1)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(error.what, where=place(error.where), why=error.why, do=error.do) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, place) from error
    except UnicodeDecodeError as error:
        chosen = [conf / "config.yaml", *(conf / group / f"{option}.yaml" for group, option in choices.items())]
        bad = next((path for path in [*chosen, *sorted(conf.rglob("*.yaml"))] if not _is_text(path)), conf)
        raise ConfigError("is no UTF-8 text", where=str(bad.relative_to(conf.parent)), why=one_line(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "is no YAML", where=f"{mark.name}:{mark.line + 1}" if mark else "conf", why=getattr(error, "problem", "")
        ) from error
    return plain  # type: ignore[return-value]


def _is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    except OSError:
        pass  # what cannot be read at all, Hydra names
    return True


def _require_valid(plain: Mapping[str, Any], is_engine: bool) -> None:
    """Raises ConfigError as `build` does. What a model gives its engines need not be whole: each completes it, and is
    held against its backend."""
    apart = () if is_engine else ENGINE_STAGES
    for group in apart:
        build(typing.get_type_hints(Config)[group], plain[group], group)
    build(Config, {group: values for group, values in plain.items() if group not in apart})


def _require_stable(written: Any) -> None:
    """Raises ConfigError for an interpolation that gives something else at each run: nothing would ever be cached."""
    for where, text in _texts(written):
        if found := _UNSTABLE.search(text):
            why = "it is another at each run, and all that follows would be built anew"
            raise ConfigError(f"interpolates {found[1]}", where=where, why=why, do="Write the value itself.")


def _require_no_secrets(composed: Any) -> None:
    """Raises ConfigError for a secret, before interpolations by the name of its variable, after them by its value: what
    is composed stands in build/config and in dvc.lock, for all to read."""
    texts = dict(_texts(composed))
    any_leaks = secret_in("\n".join(texts.values()))
    for where, text in texts.items():
        name = next(filter(is_secret, VARIABLE.findall(text)), "")
        what = f"{name} is a secret by its name" if name else ""
        if not what and (held := credentials_in(text)):
            what = f"the URL holds a {held[0][0]}"
        if not what and any_leaks and (name := secret_in(text)):
            what = f"it holds the value of {name}, a secret by its name"
        if what:
            why = "what is configured stands in build/config and dvc.lock, for all to read"
            do = f"Read {f'{name} from ' if name else ''}the environment in the code that needs it."
            raise ConfigError(what, where=where, why=why, do=do)


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text, by its key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{where}.{index}")
    elif isinstance(value, (str, int, float)):
        yield where, str(value)


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
            if last == TARGET:
                return ConfigError(NOT_HERE, where=place(str(key)), why=WHY, do="Remove it.")
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
