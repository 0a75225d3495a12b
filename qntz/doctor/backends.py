"""Which backends can build and run here, in their own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qntz.doctor.child import Failed, ask
from qntz.doctor.finding import Finding

SECTION = "backends"
_LOAD = """
from pathlib import Path
from qntz import plugins
from qntz.errors import PluginError
def loaded():
    try:
        return plugins.load(Path.cwd(), "engine"), ""
    except PluginError as error:  # the shipped ones are told all the same
        found = plugins.Plugins()
        for path in plugins.builtin_files():
            found.register(__import__("importlib").import_module(f"{plugins.BUILTIN}.{path.stem}"), path.name)
        return found, str(error)
found, failure = loaded()
backends = found.records("qntz_backends")
"""
_NAMES = _LOAD + "answer([list(backends), failure])"
_ASK = (
    _LOAD
    + """
from qntz import cuda
from qntz.config import EngineConfig
from qntz.errors import QntzError
backend = backends[sys.argv[1]]
# tensorrt wants the capability of its GPU to be declared
here = [cuda.capability()] if sys.argv[1] == "tensorrt" and cuda.no_gpu_reason() is None else []
config = EngineConfig(backend=sys.argv[1], compute_capabilities=here)
refused = backend.refusal(config, "fp32")
said = None if refused is None else {key: getattr(refused, key, "") for key in ("what", "why", "do")}
if refused is not None and not isinstance(refused, QntzError):
    said = {"what": str(refused), "why": "", "do": ""}
answer([said, None if refused else backend.why_not_run(config)])
"""
)


def findings(root: Path, default: str) -> Iterator[Finding]:
    """A finding for each backend that is installed, and one for plugins that do not load.

    Args:
        default: the backend of the project's engines that name none; it is broken where it cannot build.
    """
    try:
        names, failure = ask(_NAMES, root=root)
    except Failed as error:
        yield Finding(SECTION, "plugins", str(error), "broken", "See what is broken among the tools.")
        return
    if failure:
        yield Finding(SECTION, "plugins", failure, "broken")
    for name in [*(one for one in names if one == default), *sorted(one for one in names if one != default)]:
        yield _finding(name, root, name == default)
    if default not in names:
        do = f"Set `engine` in conf/config.yaml to one of {', '.join(sorted(names))}."
        yield Finding(SECTION, default, "no such backend", "broken", do)


def _finding(name: str, root: Path, is_default: bool) -> Finding:
    told = " (default)" if is_default else ""
    try:
        refused, why_not_run = ask(_ASK, [name], root)
    except Failed as error:
        refused, why_not_run = {"what": str(error), "why": "", "do": f"Install {name} anew."}, None
    if refused is not None:
        state = "broken" if is_default else "ok"
        return Finding(SECTION, name, f"cannot work here{told}: {_because(refused)}", state, refused["do"])
    if why_not_run is not None:
        return Finding(SECTION, name, f"builds{told}; engines cannot run here: {why_not_run}")
    return Finding(SECTION, name, f"builds and runs{told}")


def _because(refused: Mapping[str, Any]) -> str:
    return f"{refused['what']}: {refused['why']}" if refused["why"] else str(refused["what"])
