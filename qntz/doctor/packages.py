"""Which distributions are here, in which versions, and whether each can be imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import qntz
from qntz.doctor.child import Failed, ask
from qntz.doctor.finding import Finding

SECTION = "tools"
NEEDED = {
    "dvc": "dvc",
    "hydra-core": "hydra",
    "torch": "torch",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "onnxsim": "onnxsim",
    "onnxslim": "onnxslim",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "jinja2": "jinja2",
    "rich": "rich",
    "pyyaml": "yaml",
    "pluggy": "pluggy",
    "psutil": "psutil",
    "ruamel.yaml.clib": "_ruamel_yaml",
    "packaging": "packaging",
    "configobj": "configobj",
}
OPTIONAL = {
    "tensorrt-rtx": "tensorrt_rtx",  # not for every machine; whether it is missed, the backends say
    "tensorrt": "tensorrt",
    "pycuda": "pycuda.driver",
    "cuda-python": "cuda.bindings.driver",
    "transformers": "transformers",
    "ray": "ray",
}
"""The distributions that qntz names, with the module that is tried of each."""
EXTRAS = {
    "tensorrt": "gpu",
    "pycuda": "gpu",
    "cuda-python": "gpu",
    "transformers": "hf",
    "ray": "ray",
}

_IMPORT = """
import importlib
module = importlib.import_module(sys.argv[1])
answer([str(getattr(module, "__version__", "")), getattr(module, "__file__", None) or "", sys.prefix])
"""


def findings(root: Path) -> Iterator[Finding]:
    """qntz itself, Python, and a finding for each distribution; each is imported in a process of its own, from `root`,
    as a stage would."""
    yield Finding(SECTION, "qntz", f"{qntz.__version__}{_kind()}")
    yield _python()
    wanted = _requirements()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        tried = {name: pool.submit(_import, module, root) for name, module in {**NEEDED, **OPTIONAL}.items()}
        for name in tried:
            yield _finding(name, tried[name].result(), wanted.get(name, ""), root)


def _kind() -> str:
    folder = Path(qntz.__file__).parent.parent
    return f", from {folder}" if (folder / "pyproject.toml").is_file() else ""


def _python() -> Finding:
    told = f"{platform.python_version()}, {platform.platform()}"
    lowest, beyond = (3, 10), (3, 14)  # as pyproject.toml has it
    if lowest <= sys.version_info[:2] < beyond:
        return Finding(SECTION, "python", told)
    return Finding(SECTION, "python", told, "broken", "qntz takes Python 3.10 to 3.13.")


def _requirements() -> dict[str, str]:
    """The versions that qntz asks for, by distribution, as its metadata tells; nothing where it is not installed."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("qntz") or []
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return {}
    found = [Requirement(line) for line in lines]
    return {one.name.lower(): str(one.specifier) for one in found}


def _import(module: str, root: Path) -> tuple[str, str, str]:
    """The version that the module tells of itself, the file that it came from, and why it cannot be imported."""
    try:
        version, file, _ = ask(_IMPORT, [module], root)
    except Failed as error:
        return "", "", str(error)
    return version, file, ""


def _finding(name: str, tried: tuple[str, str, str], wanted: str, root: Path) -> Finding:
    told, file, why = tried
    module = {**NEEDED, **OPTIONAL}[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = told  # of another distribution with the same module: onnxruntime-gpu
    severity = "broken" if name in NEEDED else "note"
    if not version and f"No module named '{module.partition('.')[0]}'" in why:
        return _absent(name, wanted)
    if why:
        do = f"Install it anew: pip install --force-reinstall '{name}{wanted}'."
        return Finding(SECTION, name, f"{version} does not load: {why}".strip(), severity, do)
    if _shadowed(module, file, root):
        what = Path(file).relative_to(root)
        do = f"Rename {what.parts[0]}: Python finds it before the installed {module}."
        return Finding(SECTION, name, f"{version} is hidden by {what}", "broken", do)
    if wanted and not _fits(version, wanted):
        return Finding(SECTION, name, f"{version}, and {wanted} is wanted", severity, f"pip install '{name}{wanted}'.")
    return Finding(SECTION, name, version)


def _absent(name: str, wanted: str) -> Finding:
    if name in NEEDED:
        return Finding(SECTION, name, "not installed", "broken", f"pip install '{name}{wanted}'.")
    extra = EXTRAS.get(name)
    command = f"pip install 'qntz[{extra}]'" if extra else f"pip install '{name}{wanted}'"
    return Finding(SECTION, name, f"not installed; optional: {command}")


def _shadowed(module: str, file: str, root: Path) -> bool:
    """Whether a module came from the top of the project, where Python looks first. An environment may lie below it, and
    so may what `pip install --user` installs, where the project is somebody's home."""
    top = module.partition(".")[0]
    path = Path(file)
    return bool(file) and path.is_relative_to(root) and path.relative_to(root).parts[0].partition(".")[0] == top


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidVersion:
        return True  # a build of its own, "git-1234"
