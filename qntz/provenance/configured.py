"""The files of conf/ that an entry of params.yaml is composed of, as Hydra tells them, as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qntz.artifacts import digest_file
from qntz.compose import CONF, PARAMS, read_params


def configuration(root: Path, engine: str) -> dict[str, Any]:
    """Of an engine: `files`, those of conf/ with their SHA-256, none where Hydra finds that one is missing; and
    `entries`, its own and its model's of params.yaml.

    Raises:
        ConfigError: params.yaml cannot be read.
    """
    params = read_params(root / PARAMS)
    entry = params["engines"].get(engine) or {}
    name = str(entry.get("model"))
    model = params["models"].get(name) or {}
    chosen = {"model": str(model.get("use", name))}
    for overrides in (model, entry):
        chosen |= {group: str(of["use"]) for group, of in overrides.items() if isinstance(of, Mapping) and "use" in of}
    return {
        "files": {str(path.relative_to(root)): digest_file(path) for path in _files(root / CONF, chosen)},
        "entries": {f"models.{name}": model, f"engines.{engine}": entry},
    }


def _files(conf: Path, chosen: Mapping[str, str]) -> list[Path]:
    """By the list of defaults that Hydra makes for these choices, the files: the schema is none."""
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode

    ConfigStore.instance().store("schema", {})  # it only has to be there
    overrides = [f"{group}={option}" for group, option in chosen.items()]
    with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
        try:
            listed = GlobalHydra.instance().config_loader().compute_defaults_list("config", overrides, RunMode.RUN)
        except HydraException:  # compose tells it
            return []
    named = {conf / f"{one.config_path}.yaml" for one in listed.defaults}
    return sorted(path for path in named if path.is_file())
