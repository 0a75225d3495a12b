"""The shell that DVC starts stages with where it is to restore them: it runs those that it may, and refuses the others.

DVC runs a stage whose results it could not fetch, as if they had never been made: on a machine that lacks its GPU, or
with other bytes. It takes its shell from `SHELL`; this one knows the stages of models and engines by their commands,
and lets everything else pass.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

REFUSED = re.compile(r"^qntz: (\S+) is not run here$", re.MULTILINE)
OTHERWISE = re.compile(r"^qntz: (\S+) is composed otherwise here$", re.MULTILINE)
_SHELL = '#!/bin/sh\nexec {python} -IS {script} "$@"\n'  # the system reads no interpreter's path with a space in it
_SCRIPT = r"""import hashlib, json, os, re, subprocess, sys
may, composed = json.loads({told!r})
command = sys.argv[-1]
stage = re.fullmatch(r"python -m stages\.(\w+) (\S+)", command)
if stage and "@".join(stage.groups()) not in may:
    sys.exit("qntz: %s@%s is not run here" % stage.groups())
if command != "python -m stages.compose" or not composed:
    os.execv("/bin/sh", ["/bin/sh", *sys.argv[1:]])
code = subprocess.call(["/bin/sh", *sys.argv[1:]])
for path, digest in composed.items():
    found = hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.isfile(path) else ""
    if found != digest:
        sys.exit("qntz: %s is composed otherwise here" % path)
sys.exit(code)
"""


def write_shell(path: Path, may: Collection[str], composed: Mapping[str, str] | None = None) -> None:
    """Writes the shell, and its script beside it.

    Args:
        may: stages of models and engines that it runs ("export@digits"). composed: what compose has to come to, as
            SHA-256 by path.
    """
    told = json.dumps([sorted(may), dict(composed or {})])
    path.parent.mkdir(parents=True, exist_ok=True)
    script = path.with_name(f"{path.name}.py")
    script.write_text(_SCRIPT.format(told=told), encoding="utf-8")
    python, itself = shlex.quote(sys.executable), shlex.quote(str(script.absolute()))
    path.write_text(_SHELL.format(python=python, script=itself), encoding="utf-8")
    path.chmod(0o755)
