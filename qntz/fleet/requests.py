"""What a worker has to have for a stage, as conf/fleet.yaml states it: nothing of it determines what is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from qntz.compose import CONF, Composition, read_yaml
from qntz.config import COMPUTE_CAPABILITIES, build
from qntz.errors import ConfigError, did_you_mean
from qntz.plugins import load
from qntz.targets import FULL

FILE = "fleet.yaml"
DEFAULT = "default"
ON_TARGET = ("engine", "verify")  # the stages that the target is for; all others are anybody's
_RAY = ("num_cpus", "num_gpus", "memory", "resources")
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")
_OURS = ("array", "chdir", "job_name", "output", "parsable", "requeue", "no_requeue", "test_only", "wait", "wrap")


@dataclass
class Request:
    """What is asked of a worker. ray: options of a task of Ray (`num_gpus`, `resources`, ...). slurm: options of
    `sbatch`, by their long names (`constraint`, `gres`, `partition`, `time`, ...)."""

    ray: dict[str, Any] = field(default_factory=dict)
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in self.ray.items():
            if key not in _RAY:
                raise ConfigError(f"{key} is not asked of Ray", where="ray", do=f"It takes {', '.join(_RAY)}.")
            if key == "resources" and not isinstance(value, Mapping):
                raise ConfigError(f"{value!r} is not a mapping", where="ray.resources", do="Give a number by its name.")
            if own := sorted({*_RAYS_OWN} & {*value} if isinstance(value, Mapping) else ()):
                do = "Take num_cpus, num_gpus or memory."
                raise ConfigError(f"{own[0]} is no resource of one's own", where="ray.resources", do=do)
            for at, one in value.items() if isinstance(value, Mapping) else [("", value)]:
                if (
                    isinstance(one, bool)
                    or not isinstance(one, int | float)
                    or not (one == 0 or 1e-4 <= one < float("inf"))
                ):
                    where = f"ray.{key}.{at}".rstrip(".")
                    raise ConfigError(f"{one!r} is no amount", where=where, do="Give 0, or 0.0001 and more.")
        for key, value in self.slurm.items():
            if str(key).replace("-", "_") in _OURS:
                raise ConfigError(f"{key} is not asked of Slurm", where="slurm", why="qntz sets it", do="Leave it out.")
            if value is not None and not isinstance(value, bool | int | float | str):
                raise ConfigError(
                    f"{value!r} is no option of sbatch", where=f"slurm.{key}", do="Give a text or a number."
                )


@dataclass
class Target(Request):
    """Engines, and what is asked of the worker that builds and verifies them.

    Attributes:
        backend: its name, or a pattern. compute_capabilities: all that the engine names, and no others; None for any.
    """

    backend: str = "*"
    compute_capabilities: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self.compute_capabilities or ():
            if one not in COMPUTE_CAPABILITIES:
                do = did_you_mean(one, COMPUTE_CAPABILITIES)
                raise ConfigError(f"unknown value {one!r}", where="compute_capabilities", do=do)

    def fits(self, engine: Mapping[str, Any]) -> bool:
        """Whether this is for an engine of this configuration."""
        wanted = self.compute_capabilities
        return fnmatchcase(engine["backend"], self.backend) and (
            wanted is None or sorted(wanted) == sorted(engine["compute_capabilities"])
        )


@dataclass
class FleetConfig:
    """conf/fleet.yaml.

    Attributes:
        targets: the first that fits an engine holds. default: for all other stages, and engines that need no GPU.
        repository: where a worker clones the project from; "": git's remote `origin`. folder: where it keeps its
            checkouts; "": qntz in the folder of caches. retries: of what was lost with its worker. backoff_seconds:
            before the first of them, twice as long before each further one.
    """

    targets: list[Target] = field(default_factory=list)
    default: Request = field(default_factory=Request)
    repository: str = ""
    folder: str = ""
    retries: int = 3
    backoff_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"{self.retries} is less than 0", where="retries")
        if not 0 <= self.backoff_seconds < float("inf"):
            raise ConfigError(f"{self.backoff_seconds} is no number of seconds", where="backoff_seconds")

    def request(self, name: str) -> Request:
        """By the name that `named` gives it."""
        return self.default if name == DEFAULT else self.targets[int(name.partition(" ")[0])]

    def named(self, engine: Mapping[str, Any]) -> str:
        """The name of what is asked for an engine: "default", or the number of a target with what it is for; "" where
        an engine needs a GPU of its own, and no target is for that."""
        for number, one in enumerate(self.targets):
            if one.fits(engine):
                return f"{number} ({', '.join([one.backend, *(one.compute_capabilities or ())])})"
        return "" if engine["backend"] == FULL else DEFAULT


def read_fleet(root: Path) -> FleetConfig:
    """conf/fleet.yaml, or the defaults where there is none.

    Raises:
        ConfigError: it holds something else, or a target that is for no backend that there is. PluginError: a plugin
            cannot be loaded.
    """
    path, shown = root / CONF / FILE, f"{CONF}/{FILE}"
    told = read_yaml(path, shown) if path.is_file() else None
    try:
        found: FleetConfig = build(FleetConfig, {} if told is None else told)
    except ConfigError as error:
        where = f"{shown}: {error.where}" if error.where else shown
        raise ConfigError(error.what, where=where, why=error.why, do=error.do) from None
    backends = load(root, "engine").records("qntz_backends") if found.targets else {}
    for number, one in enumerate(found.targets):
        if not any(fnmatchcase(name, one.backend) for name in backends):
            where, do = f"{shown}: targets.{number}.backend", did_you_mean(one.backend, backends)
            raise ConfigError(f"no backend {one.backend!r}", where=where, do=do)
    return found


def requests_of(stages: Sequence[str], composition: Composition, config: FleetConfig) -> dict[str, str]:
    """Of each stage the name of what its worker has to have; those that time engines go where these run.

    Raises:
        ConfigError: an engine is built on its own GPU, and no target says what that is asked by.
    """
    found: dict[str, str] = {}
    for stage in stages:
        kind, _, name = stage.partition("@")
        if kind in ON_TARGET and name in composition.engines:
            found[stage] = _of_engine(name, composition, config)
        elif kind == "report" and name in composition.models:
            report = composition.models[name]["report"]
            timed = [_of_engine(one, composition, config) for one in report["engines"]]
            found[stage] = next((one for one in timed if one != DEFAULT and report["latency_seconds"]), DEFAULT)
        else:
            found[stage] = DEFAULT
    return found


def _of_engine(name: str, composition: Composition, config: FleetConfig) -> str:
    if name not in composition.engines:
        return DEFAULT
    engine = composition.engines[name]["engine"]
    asked = config.named(engine)
    if not asked:
        backend, capabilities = engine["backend"], ", ".join(engine["compute_capabilities"])
        raise ConfigError(
            f"{name} is built by {backend} for {capabilities}",
            where=f"{CONF}/{FILE}: targets",
            why="none of them is for that, so that no worker could be asked for",
            do=f"Add {{backend: {backend}, compute_capabilities: [{capabilities}], ray: ..., slurm: ...}}.",
        )
    return asked
