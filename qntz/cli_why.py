"""`qntz why ENGINE`: what an engine was made from, back to every input, and whether that still holds."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from dvc.stage import Stage

NARROWEST, WIDEST = 60, 160  # columns


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser(
        "why",
        help="what an engine was made from, back to every input, with digests",
        epilog="exit codes: 0, also where the engine is out of date; 1 where a file was changed by hand, where "
        "engine.json does not agree with dvc.lock, or where there is nothing to tell, since it was never built or "
        "something is damaged; 2 wrong usage, an unknown engine",
    )
    parser.add_argument("engine", metavar="ENGINE", help="an engine of params.yaml, after `dvc repro engine@ENGINE`")
    parser.add_argument("--json", action="store_true", help="as JSON, with whole digests and all modules")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints; returns the exit code, 1 where records and files disagree."""
    from qntz.compose import composed_entries, composed_files
    from qntz.provenance.configured import configuration
    from qntz.provenance.forecast import UNCHANGED, Forecast
    from qntz.provenance.lineage import changed_by_hand, disagreements, lineage
    from qntz.provenance.tree import Branch, Tree, composed_from, lines
    from qntz.provenance.wording import HEADS, told_changes
    from qntz.provenance.workspace import name_of, opened, steps
    from qntz.remotes import require_sound
    from qntz.repro.turns import running_stage

    root, name = Path.cwd(), options.engine
    require_sound(root)  # or compose refuses
    composition = composed_entries(root)
    known = [*composition.engines, *(one for kind, one in composition.errors if kind == "engines")]
    if name not in known:
        raise UsageError(f"no engine {name!r}", where="params.yaml", do=did_you_mean(name, known))
    last = f"engine@{name}"
    with opened(root) as repo:
        other = running_stage(root)
        stages = steps(repo, (last,))
        made = lineage(root, stages, last)
        by_hand = changed_by_hand(stages)
        files = _files({name_of(stage): stage for stage in stages}, last)
        differing = disagreements(files, made, last) if "engine.json" in files else []
        planned = Forecast(repo, root, composed_files(root, composition), composition.errors).plan(stages)
    stale = [one for one in planned if one.action != UNCHANGED]
    configured = configuration(root, name)
    artifacts = {artifact.path: artifact.md5 for step in made.values() for artifact in step.writes}
    if options.json:
        told = {
            "engine": name,
            "stages": {key: step.as_dict() for key, step in made.items()},
            "configuration": configured,
            "stale": [one.as_dict() for one in stale],
            "changed_by_hand": by_hand,
            "disagreements": [one.as_dict() for one in differing],
            "compared_with_engine_json": "engine.json" in files,
        }
        print(json.dumps(told, indent=2, ensure_ascii=False, default=str))
        return 1 if by_hand or differing else 0
    if other:
        print(f"note: {other} is at work: what it is writing may not be what dvc.lock says.", file=sys.stderr)
    plan = next(path for path in artifacts if path.endswith("/model.engine"))
    now = {one.stage: [f"{HEADS[one.action]}: {text}" for text in told_changes(one)] for one in stale}
    head = Branch(f"{name}: {plan} {artifacts[plan]}", [Tree(made, now).of(last), composed_from(configured)])
    for line in lines(head, min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)):
        print(line)
    print("(MD5 of artifacts, as DVC has them; SHA-256 of everything else)\n")
    for path in by_hand:
        print(f"{path} was changed by hand: its bytes are not those of dvc.lock.")
    for one in differing:
        print(f"engine.json does not agree: {one.what} is {one.recorded} there, but {one.found}.")
    if "engine.json" not in files:
        print("engine.json is not here: what it says was not compared.")
    if stale:
        print(f"Out of date: {', '.join(one.stage for one in stale)}.\nRun `qntz repro {last}`.")
    elif not (by_hand or differing):
        print("All of it is as it was when the engine was built.")
    return 1 if by_hand or differing else 0


def _files(stages: dict[str, Stage], last: str) -> dict[str, Path]:
    """engine.json and what it has digests of, by name: as they lie in the workspace, else as the cache has them."""
    wanted = [*stages[last].outs, *(dep for dep in stages[last].deps if dep not in stages[last].params)]
    found = {}
    for out in wanted:
        name = out.fs_path.rpartition("/")[2]
        if out.exists:
            found[name] = Path(out.fs_path)
        elif out.hash_info and out.local_cache.exists(out.hash_info.value):
            found[name] = Path(out.local_cache.oid_to_path(out.hash_info.value))
    return found
