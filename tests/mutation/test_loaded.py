"""What stages really load: no module that their key does not hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qntz.config import ENGINE_STAGES, STAGES
from qntz.fingerprint import Fingerprints, Memo
from qntz.plugins import BUILTIN
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow
LOADED = re.compile(r"^import time:.*\|\s*(?P<name>\S+)$", re.MULTILINE)
OURS = ("qntz", "stages", "examples", "qntz_local_plugins")
# Loaded by every stage beside its own: all shipped plugins are registered, those of other stages and backends too.
REGISTERED = f"{BUILTIN}."


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_loads_is_in_its_key(small: Project, stage: str) -> None:
    name = "digits-int8" if stage in ENGINE_STAGES else "digits"
    done = small.run("python", "-m", f"stages.{stage}", name, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {found["name"] for found in LOADED.finditer(done.stderr)}
    ours = {name for name in loaded if name.partition(".")[0] in OURS}
    assert {"qntz.config", "qntz.artifacts"} <= ours
    root = small.path
    fingerprints = Fingerprints(root, Memo(Path("none")))
    held = set(fingerprints.closure([f"stages.{stage}"]).files)
    for closure in fingerprints._plugins(stage, "tensorrt_rtx" if stage in ENGINE_STAGES else None).values():
        held |= set(closure.files)
    if stage in ("check", "torchscript"):
        held |= set(fingerprints.closure(["examples.digits.model"]).files)
    registered = {
        module
        for path in sorted((root / "qntz/builtin").glob("[!_]*.py"))
        for module in fingerprints.closure([f"{BUILTIN}.{path.stem}"]).files
    }
    assert (
        ours
        - held
        - registered
        - {"qntz_local_plugins"}
        - {f"qntz_local_plugins.{p.stem}" for p in (root / "plugins").glob("*.py")}
        == set()
    )
