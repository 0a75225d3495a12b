"""A pipeline of its own for each model: DVC's cost of a stage grows with the number of those in one dvc.lock.

Split, each model has a dvc.yaml and a dvc.lock in pipelines/<model>/. They hold the stages that the root's dvc.yaml has
under `foreach`, which stay there as they are, over pipelines/here.yaml in place of params.yaml: of no entry, but the
engines that have no model. A further stage at the root, fleet, depends on what the pipelines write, so that a
`dvc repro` there runs them all.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from qntz.artifacts import telling, write_text
from qntz.config import STAGES
from qntz.errors import ArtifactError, UsageError, one_line

DVC_YAML, DVC_LOCK = "dvc.yaml", "dvc.lock"
FOLDER = Path("pipelines")
HERE = FOLDER / "here.yaml"
UP = "../.."  # from the folder of a pipeline to the root
NOTE = "# Written by qntz from the root's dvc.yaml and params.yaml: edit those.\n"
FLEET = """
  # over all models: their pipelines, pipelines/*/dvc.yaml, run as what this depends on

  fleet:
    desc: the engines of all models in one table
    cmd: python -m stages.fleet
    params:
      - build/config/fleet.yaml: [models, inputs.fleet]
    deps:
      - build/reports
    outs:
      - build/fleet.csv
"""
ALONE = "Leave the stages in one pipeline: qntz pipelines --join."
_VARS = "  - params.yaml\n"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_READ = re.compile(r"(?<!\\)\$\{\s*([^}]*?)\s*\}")
_DRAWN = ("build/models/", "build/reports/")  # what the reports, and so the stage fleet, depend on
_ADDRESS = re.compile(rf"{FOLDER}/[^/:]+/{re.escape(DVC_YAML)}:(.+)")
_KNOWN = ("${key}", "${item.model}")

Params = Mapping[str, Mapping[str, Any]]


def is_split(root: Path) -> bool:
    """Whether the models of a project have pipelines of their own."""
    return _is_ours(root / HERE)


def _is_ours(path: Path) -> bool:
    """Whether a file was written here: there may be pipelines of the user's own beside."""
    try:
        with path.open("rb") as file:
            return file.read(len(NOTE.encode())) == NOTE.encode()
    except OSError:
        return False


def _folders(root: Path) -> list[Path]:
    """Those of the models' pipelines, relative to the root."""
    return sorted(path.parent.relative_to(root) for path in (root / FOLDER).glob(f"*/{DVC_YAML}") if _is_ours(path))


def shown(address: str) -> str:
    """DVC's name of a stage without the file of the model's pipeline that it stands in."""
    found = _ADDRESS.fullmatch(address)
    return found[1] if found else address


def lock_of(address: str) -> Path:
    """The dvc.lock, relative to the root, of a stage by DVC's name of it."""
    return Path(address.rpartition(":")[0]).parent / DVC_LOCK


def kinds(root: Path) -> dict[str, str]:
    """What the stages of dvc.yaml under `foreach` are of, "models" or "engines", by name; raises as `wanted`."""
    return {name: str(stage["foreach"])[7:-1] for name, stage in _template(root / DVC_YAML)[0].items()}


def model_of(stage: str, params: Params, of: Mapping[str, str]) -> str | None:
    """The model in whose pipeline a stage ("quantize@digits-int8") stands; None for one of the root's own.

    Args:
        of: as `kinds` tells.
    """
    kind, _, name = stage.partition("@")
    if of.get(kind) == "engines":
        entry = params["engines"].get(name)
        name = entry.get("model", "") if isinstance(entry, Mapping) else ""
    return name if kind in of and isinstance(name, str) and name in params["models"] else None


def locks(root: Path) -> list[Path]:
    """The dvc.lock of the root, and those of the models' pipelines, relative to it, whether or not they are there."""
    return [Path(DVC_LOCK), *(folder / DVC_LOCK for folder in _folders(root))]


# what stands in them


def wanted(root: Path, params: Params) -> dict[Path, str]:
    """The files under pipelines/ that the root's dvc.yaml and these entries come to, by path relative to the root.

    Raises:
        ArtifactError: dvc.yaml cannot be read, or has a stage that one model's pipeline cannot hold.
    """
    stages, variables = _template(root / DVC_YAML)
    shared = _dump({"stages": stages})
    engines: dict[str, dict[str, Any]] = {name: {} for name in params["models"]}
    orphans: dict[str, Any] = {}
    for name, entry in params["engines"].items():
        told = {"model": entry["model"]} if isinstance(entry, Mapping) and "model" in entry else {}
        model = told.get("model")
        (engines[model] if isinstance(model, str) and model in engines else orphans)[name] = told
    files = {HERE: NOTE + _dump({"here": {"models": {}, "engines": orphans}})}
    for name, own in engines.items():
        here = {"here": {"models": {name: {}}, "engines": own}}
        files[FOLDER / name / DVC_YAML] = NOTE + _dump({"vars": [*variables, here]}) + shared
    return files


def _template(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """The stages under `foreach` as they stand in a model's pipeline, and what else they may read of `vars`."""
    try:
        told = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        variables = [one for one in told.get("vars") or () if one not in ("params.yaml", HERE.as_posix())]
        known = {str(key) for one in variables for key in _keys(path.parent, one)}
        found = {name: _moved(name, stage, known) for name, stage in told["stages"].items() if "foreach" in stage}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        do = "Repair it, or take it back: git checkout dvc.yaml."
        raise ArtifactError("is no pipeline of DVC", where=DVC_YAML, why=one_line(error), do=do) from error
    return found, [f"{UP}/{one}" if isinstance(one, str) else one for one in variables]


def _keys(root: Path, variable: Any) -> Iterable[Any]:
    """The variables that an entry of `vars` brings: a mapping, or a file, "file.yaml" or "file.yaml:key,key"."""
    if isinstance(variable, Mapping):
        return variable
    file, _, keys = str(variable).partition(":")
    return keys.split(",") if keys else yaml.load((root / file).read_text(encoding="utf-8"), Loader=_Loader) or ()


def variable_files(root: Path) -> list[Path]:
    """The files of variables that the models' stages read beside params.yaml; raises as `wanted`."""
    _, variables = _template(root / DVC_YAML)
    return [root / one.partition(":")[0].removeprefix(f"{UP}/") for one in variables if isinstance(one, str)]


def _moved(name: str, stage: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    over = str(stage["foreach"]).replace("${here.", "${")
    body = dict(stage["do"])
    place = str(body.pop("wdir", "."))
    if over not in ("${models}", "${engines}"):
        raise _unfit(name, "its `foreach` is over something else than the models or the engines")
    if "vars" in body:
        raise _unfit(name, "it has variables of its own")
    for one in _READ.findall(_dump(body)):
        if f"${{{one}}}" not in _KNOWN and re.split(r"[.\[]", one)[0] not in known:
            raise _unfit(name, f"it reads ${{{one}}}, and a model's pipeline knows {' and '.join(_KNOWN)} alone")
    if name not in STAGES and not any(
        posixpath.normpath(posixpath.join(place, one)).startswith(_DRAWN) for one in _written(body)
    ):
        raise _unfit(name, f"it writes nothing below {' or '.join(_DRAWN)}, by which a run at the root would find it")
    return {
        "foreach": over.replace("${", "${here."),
        "do": {"wdir": UP if place == "." else f"{UP}/{place}", **body},
    }


def _unfit(name: str, why: str) -> ArtifactError:
    return ArtifactError(f"{name} fits into no model's pipeline", where=DVC_YAML, why=why, do=ALONE)


def _written(body: Mapping[str, Any]) -> Iterable[str]:
    for kind in ("outs", "metrics", "plots"):
        for one in body.get(kind) or ():
            yield from one if isinstance(one, Mapping) else (str(one),)


def _dump(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))


# in step with params.yaml


def out_of_step(root: Path, params: Params) -> dict[Path, str | None]:
    """The files under pipelines/ that are not as they should be, by path relative to the root, with the text that they
    should have: None for those of models that are gone. None at all where the project is not split. Raises as `wanted`.
    """
    if not is_split(root):
        return {}
    files = wanted(root, params)
    _require_free(root, files)
    found: dict[Path, str | None] = {p: text for p, text in files.items() if not _is(root / p, text)}
    gone = [folder for folder in _folders(root) if folder / DVC_YAML not in files]
    there = [folder / name for folder in gone for name in (DVC_LOCK, DVC_YAML) if (root / folder / name).is_file()]
    return {**found, **dict.fromkeys(there)}


def _require_free(root: Path, files: Iterable[Path]) -> None:
    """Raises ArtifactError where a file that is to be written is there, and was not written here."""
    for path in files:
        if (root / path).exists() and not _is_ours(root / path):
            do = "Move it elsewhere, or rename the entry of params.yaml."
            raise ArtifactError("is in the way", where=path.as_posix(), why="it was not written by qntz", do=do)


def _is(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def bring_into_step(root: Path, params: Params) -> list[str]:
    """Writes what is out of step; returns the models whose pipelines are others now, new or gone.

    Raises:
        ArtifactError: as `wanted`, or a file cannot be written.
    """
    changed = out_of_step(root, params)
    for path, text in changed.items():
        if text is None:
            _remove(root / path)
        else:
            write_text(root / path, text)
    return sorted({path.parent.name for path in changed if path != HERE})


def _remove(path: Path) -> None:
    with telling(path):
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


# from one form to the other


def as_split(text: str) -> str:
    """The root's dvc.yaml with its stages over pipelines/here.yaml, and the stage that runs the others.

    Raises:
        ArtifactError: it does not name params.yaml among its variables, by which it could be told.
    """
    if _VARS not in text:
        raise ArtifactError("its vars do not name params.yaml", where=DVC_YAML, do="Write them as qntz ships them.")
    text = re.sub(r"\$\{(models|engines)\}", r"${here.\1}", text)
    return text.replace(_VARS, f"{_VARS}  - {HERE.as_posix()}\n", 1).rstrip("\n") + "\n" + FLEET


def as_one(text: str) -> str:
    """What `as_split` was given, but for the end of its last line."""
    text = text.replace(f"  - {HERE.as_posix()}\n", "").replace(FLEET, "")
    return re.sub(r"\$\{here\.(models|engines)\}", r"${\1}", text)


def split(root: Path, params: Params) -> int:
    """Gives each model a pipeline of its own, with its part of dvc.lock, so that nothing runs again; returns how many.

    Raises:
        UsageError: they have them already. ArtifactError: as `wanted`, dvc.lock is damaged, or a file cannot be
            written.
    """
    if is_split(root):
        raise UsageError("the models have pipelines of their own already", where=HERE.as_posix())
    files = wanted(root, params)
    _require_free(root, files)
    root_text = as_split(as_one(_text(root / DVC_YAML)))  # a kill may have left it split
    recorded: dict[Path, dict[str, Any]] = {Path(DVC_LOCK): {}}
    of = kinds(root)
    for stage, entry in _stages(root / DVC_LOCK).items():
        model = model_of(stage, params, of)
        lock = Path(DVC_LOCK) if model is None else FOLDER / model / DVC_LOCK
        recorded.setdefault(lock, {})[stage] = entry
    # in such an order that nothing is lost by a kill, and that it can be taken up again: until HERE is there
    own = recorded.pop(Path(DVC_LOCK))
    _record(root, recorded)
    for path, text in files.items():
        if path != HERE:
            write_text(root / path, text)
    write_text(root / DVC_YAML, root_text)
    _record(root, {Path(DVC_LOCK): own})
    write_text(root / HERE, files[HERE])
    return len(params["models"])


def join(root: Path) -> int:
    """Puts all stages into the root's dvc.yaml and dvc.lock again; returns how many pipelines there were.

    Raises:
        UsageError: they are there already. ArtifactError: a dvc.lock is damaged, or a file cannot be written.
    """
    if not is_split(root):
        raise UsageError("all models are in one pipeline already", where=DVC_YAML)
    root_text = as_one(_text(root / DVC_YAML))
    found = locks(root)
    entries = {stage: entry for lock in found for stage, entry in _stages(root / lock).items() if stage != "fleet"}
    _record(root, {Path(DVC_LOCK): entries})
    write_text(root / DVC_YAML, root_text)
    for lock in found[1:]:
        _remove(root / lock)
        _remove((root / lock).with_name(DVC_YAML))
    _remove(root / HERE)  # the last: until then it can be taken up again
    return len(found) - 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError("cannot be read", where=path.name, why=one_line(error)) from error


def _stages(lock: Path) -> dict[str, Any]:
    """What a dvc.lock records, by stage; nothing where there is none."""
    if not lock.is_file():
        return {}
    try:
        return dict(yaml.load(_text(lock), Loader=_Loader)["stages"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        do = "`qntz repro` mends what a kill left."
        raise ArtifactError("is damaged", where=str(lock), why=one_line(error), do=do) from error


def _record(root: Path, recorded: Mapping[Path, Mapping[str, Any]]) -> None:
    from dvc.utils.serialize import dumps_yaml

    for lock, stages in recorded.items():
        if stages or (root / lock).is_file():
            write_text(root / lock, dumps_yaml({"schema": "2.0", "stages": dict(stages)}))
