"""`make reproduce`: the default set built in two clones that differ in all that must not matter, compared file by file.

The second clone lies in another directory and belongs to another user, with another home, time zone, locale, umask, hash
seed, number of threads and of cores. Every artifact up to quantized.onnx, and what is verified of it, must have the same
bytes; engines the same inputs. A difference is told by file and field, and the exit code is 1.

`--cpu avx2` builds the second clone as a CPU without AVX-512 would, which shows what depends on the instruction set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qntz.artifacts import read_npz
from tests.pipeline.conftest import Project, new_project

OTHER = {"PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "LANG": "C"}
UMASK = 0o077
NOBODY = "nobody"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
}
"""What the libraries take for a CPU without AVX-512. ONNX Runtime has no such switch, and takes the CPU as it is."""
UNSTABLE = ("model.engine",)  # TensorRT writes other bytes each time
RUNS = ("seconds", "plan_sha256", "bytes")  # of engine.json: what a build took and came to, not what it was made of


@dataclass
class Compared:
    """What became of the files of two builds.

    Attributes:
        digests: SHA-256 by path, of those with the same bytes. by_inputs: engines whose inputs are the same.
        differences: by path, the fields that differ, in words.
    """

    digests: dict[str, str] = field(default_factory=dict)
    by_inputs: list[str] = field(default_factory=list)
    differences: dict[str, list[str]] = field(default_factory=dict)


def compared(one: Path, other: Path) -> Compared:
    """The artifacts under build/models of two projects, file by file."""
    found = Compared()
    folders = [root / "build/models" for root in (one, other)]
    names = {str(p.relative_to(folder)) for folder in folders for p in folder.rglob("*") if p.is_file()}
    for name in sorted(names):
        files = [folder / name for folder in folders]
        missing = [root for root, file in zip(("the first", "the second"), files, strict=True) if not file.is_file()]
        if missing:
            found.differences[name] = [f"is not in {' and '.join(missing)} build"]
        elif name.endswith(UNSTABLE):
            continue
        elif name.endswith("engine.json"):
            left, right = (_made_from(file) for file in files)
            if left == right:
                found.by_inputs.append(name)
            else:
                found.differences[name] = list(_of_values(left, right))
        elif (data := files[0].read_bytes()) == files[1].read_bytes():
            found.digests[name] = hashlib.sha256(data).hexdigest()
        else:
            found.differences[name] = list(_fields(*files))
    return found


def _made_from(engine_json: Path) -> Any:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in RUNS}
        return value

    return without(json.loads(engine_json.read_text()))


def _fields(one: Path, other: Path) -> Iterator[str]:
    if one.suffix in (".json", ".sarif"):
        yield from _of_values(json.loads(one.read_text()), json.loads(other.read_text()))
    elif one.suffix == ".npz":
        yield from _of_arrays(read_npz(one), read_npz(other))
    elif one.suffix == ".onnx":
        yield from _of_graphs(onnx.load(one, load_external_data=False), onnx.load(other, load_external_data=False))
    else:
        left, right = one.read_bytes(), other.read_bytes()
        at = next((i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None)
        yield f"{len(left)} and {len(right)} bytes" + (f", apart from byte {at}" if at is not None else "")


def _of_values(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from _of_values(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _of_values(*pair, f"{key}[{index}]")
    elif one != other:
        yield f"{key}: {one!r} and {other!r}"


def _of_arrays(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> Iterator[str]:
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            yield f"{name}: {_kind(a)} and {_kind(b)}"
        elif a.tobytes() != b.tobytes():
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
            yield f"{name}: {int((a != b).sum())} of {a.size} elements, by {apart:.3g} at most"


def _kind(array: np.ndarray | None) -> str:
    return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"


def _of_graphs(one: onnx.ModelProto, other: onnx.ModelProto) -> Iterator[str]:
    for kind in ("node", "initializer", "input", "output", "value_info"):
        left, right = (
            {item.name: item.SerializeToString(True) for item in getattr(m.graph, kind)} for m in (one, other)
        )
        for name in sorted({*left, *right}):
            if left.get(name) != right.get(name):
                yield f"{kind} {name}"
    for model in (one, other):
        model.ClearField("graph")
    if one != other:
        yield "what stands around the graph"


def elsewhere(path: Path, cpu: str) -> Project:
    """A clone whose `dvc repro` runs as another user where this one may become that, on one core, with all else that
    should not matter different."""
    environment = {**OTHER, **(AVX2 if cpu == "avx2" else {})}
    before = os.umask(UMASK)
    try:
        project = new_project(path, **environment)
    finally:
        os.umask(before)
    return project


def _build(project: Project, prefix: list[str], **keywords: Any) -> None:
    done = subprocess.run(
        [*prefix, "dvc", "repro"],
        cwd=project.path,
        env=project.env(keywords.pop("environment", {})),
        capture_output=True,
        text=True,
        check=False,
        **keywords,
    )
    if done.returncode:
        sys.exit(f"{project.path} is not built:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def another_user(project: Project, home: Path) -> dict[str, Any]:
    """Arguments of subprocess.run that make it another user's: truly where root asks and that one may run this Python,
    else by name and home alone."""
    environment = {"USER": NOBODY, "LOGNAME": NOBODY, "HOME": str(home)}
    home.mkdir(exist_ok=True)
    user = pwd.getpwnam(NOBODY)
    if os.geteuid() != 0 or not _may_run(user.pw_uid):
        return {"umask": UMASK, "environment": environment}
    for folder in (project.path, home):
        for place in (folder, *folder.rglob("*")):
            os.chown(place, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return {"umask": UMASK, "environment": environment, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _may_run(user: int) -> bool:
    try:
        return subprocess.run([sys.executable, "-c", ""], user=user, check=False).returncode == 0
    except PermissionError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", choices=("same", "avx2"), default="same", help="of the second build")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        here = new_project(Path(temporary) / "one")
        there = elsewhere(Path(temporary) / "and an other" / "place" / "two", arguments.cpu)
        as_other = another_user(there, Path(temporary) / "and an other" / "home")
        for part in there.path.relative_to(temporary).parents:
            (Path(temporary) / part).chmod(0o755)
        _build(here, [])
        _build(there, ["taskset", "--cpu-list", "0"] if shutil.which("taskset") else [], **as_other)
        found = compared(here.path, there.path)
    user = NOBODY if "user" in as_other else "of another name alone: this Python cannot be run by another"
    print(
        f"the second build: user {user}, umask {UMASK:o}, one core, {' '.join(f'{k}={v}' for k, v in there.environment.items())}"
    )
    for name, digest in found.digests.items():
        print(f"{digest}  {name}")
    for name in found.by_inputs:
        print(f"{'the same inputs':64}  {name}")
    for name, fields in found.differences.items():
        print(f"DIFFERS  {name}")
        print(
            "".join(f"  {told}\n" for told in fields[:20]) + (f"  and {len(fields) - 20} more\n" if fields[20:] else "")
        )
    print(
        f"{len(found.digests)} files byte for byte, {len(found.by_inputs)} engines by their inputs, "
        f"{len(found.differences)} files differ"
    )
    return 1 if found.differences or not found.digests else 0


if __name__ == "__main__":
    sys.exit(main())
