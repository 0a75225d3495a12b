"""Every path of the pipeline, and the writes: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.errors import ArtifactError, unreadable

if TYPE_CHECKING:
    import numpy as np

    from qntz.packed import Packed

BUILD = Path("build")
CAPTURED_SCRIPT = "model.ts"  # in the folder captured/, or
CAPTURED_PROGRAM = "model.pt2"
CAPTURED_JSON = "capture.json"  # beside it: the inputs in order, and the files that went into it, SHA-256 by path
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class ModelPaths:
    """Where the artifacts of one model lie, under the project's root."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        return self.root / BUILD / "models" / self.model

    def __getattr__(self, name: str) -> Path:
        if name in _MODEL_FILES:
            return self.folder / _MODEL_FILES[name]
        raise AttributeError(name)

    @property
    def report(self) -> Path:
        return self.root / BUILD / "reports" / f"{self.model}.html"

    @property
    def plots(self) -> Path:
        return self.root / BUILD / "reports" / f"{self.model}.csv"

    @property
    def timings(self) -> Path:
        return self.root / BUILD / "reports" / f"{self.model}.json"

    def engine(self, engine: str) -> EnginePaths:
        return EnginePaths(self, engine)


@dataclass(frozen=True)
class EnginePaths:
    """Where the artifacts of one engine lie; `of` are the paths of its model."""

    of: ModelPaths
    name: str

    @property
    def folder(self) -> Path:
        return self.of.folder / "engines" / self.name

    def __getattr__(self, name: str) -> Path:
        if name in _ENGINE_FILES:
            return self.folder / _ENGINE_FILES[name]
        raise AttributeError(name)


_MODEL_FILES = {
    "check_json": "check.json",
    "check_sarif": "check.sarif",
    "verdict": "verdict.json",
    "captured": "captured",
    "probes": "probes.npz",
    "golden": "golden.npz",
    "reference": "reference.npz",
    "torchscript_json": "torchscript.json",
    "onnx": "model.onnx",
    "export_json": "export.json",
    "sources": "sources.json",
    "simplified": "simplified.onnx",
    "simplify_json": "simplify.json",
    "histograms": "histograms.npz",
    "held_out": "held_out.npz",
}
_ENGINE_FILES = {
    "quantized": "quantized.onnx",
    "ranges": "ranges.json",
    "calibration_cache": "calibration.cache",
    "quantize_json": "quantize.json",
    "plan": "model.engine",
    "engine_json": "engine.json",
    "metrics": "metrics.json",
    "probe_figures": "probes.csv",
    "layer_figures": "layers.csv",
}


def composed_path(root: Path, kind: str, name: str) -> Path:
    """The composed configuration of an entry; kind is "models" or "engines"."""
    return root / BUILD / "config" / kind / f"{name}.yaml"


def require_inside(root: Path, *folders: Path) -> None:
    """Raises ArtifactError for a folder of artifacts that a link leads out of build/."""
    build = (root / BUILD).resolve()
    for folder in folders:
        if not folder.resolve().is_relative_to(build):
            why, do = f"to {folder.resolve()}", "Remove the link that it stands behind."
            raise ArtifactError(f"leads out of {BUILD}/", where=str(folder), why=why, do=do)


_UNWRITABLE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR")
}


def is_being_written(temporary: Path) -> bool:
    """Whether a temporary file of `replacing` belongs to a process that lives."""
    number = temporary.name.removesuffix(".tmp").rpartition(".")[2]
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process has such a number
        return len(number) < 10
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written under `telling`; when the block ends well it takes the place of
    `path`, else it is removed.

    Raises:
        ArtifactError: there is no space or no permission; what was at `path` before is untouched.
    """
    if path.is_dir():  # said before anything is written, so that of several files none is
        raise _unwritable(path, errno.EISDIR)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{path.name}.*.tmp"):
                if not is_being_written(left):  # of a process that was killed
                    left.unlink(missing_ok=True)
        yield temporary
        with telling(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Raises ArtifactError where there is no space or no permission to write a file in the block."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise _unwritable(path, error.errno) from error
        raise


def _unwritable(path: Path, number: int) -> ArtifactError:
    do = "Free space or give permission, and run again; nothing that was there is lost."
    inside = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return ArtifactError("cannot be written", where=str(inside), why=os.strerror(number), do=do)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file; raises ArtifactError as `replacing` does."""
    with replacing(path) as temporary, telling(path):
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing_together(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """`replacing` for several files, of which none is replaced before all are written."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(replacing(path)) for path in paths)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes several files, of which none is replaced before all are written; raises ArtifactError as `replacing`."""
    with replacing_together(*files) as temporaries:
        for temporary, (path, data) in zip(temporaries, files.items(), strict=True):
            with telling(path):
                temporary.write_bytes(data)


def write_copy(path: Path, source: Path) -> None:
    """Writes what another file holds; raises ArtifactError as `replacing` does."""
    with replacing(path) as temporary, telling(path):
        shutil.copyfile(source, temporary)


def write_model(path: Path, model: Packed, *, both: bool = False) -> None:
    """Writes an ONNX model, and its weights beside it where they do not fit; `both`: also a file that says so where
    they do. Neither is replaced before both are written. Raises ArtifactError as `replacing` does.
    """
    from qntz.packed import NONE, data_of

    model = model.named(path.name)
    pieces = {path: (model.data,)}
    if model.weights or both:
        pieces[data_of(path)] = model.weights or (NONE,)
    with replacing_together(*pieces) as temporaries:
        for temporary, (one, data) in zip(temporaries, pieces.items(), strict=True):
            with telling(one), temporary.open("wb") as file:
                file.writelines(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with "\\n" line ends."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Writes `json_bytes` of the data."""
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """JSON with sorted keys; raises ValueError for NaN and infinity, which JSON has not."""
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def read_json(path: Path) -> Any:
    """Reads JSON; raises ArtifactError where it is missing, damaged, or holds NaN, which JSON has not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise ArtifactError(
            "is damaged", where=str(path), why=str(error), do="Remove it and run `dvc repro`."
        ) from None


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz archive of the arrays in the order of their names, with no time in it."""
    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            info.create_system = 3
            archive.writestr(info, member.getvalue(), compresslevel=1)
    return buffer.getvalue()


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `npz_bytes` of the arrays."""
    write_bytes(path, npz_bytes(arrays))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads an .npz archive without pickles; raises ArtifactError where it is missing or damaged."""
    import numpy as np

    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ArtifactError("is missing", where=str(path), do="Run `dvc repro`.") from None
    except IsADirectoryError as error:
        raise unreadable(path, error) from None
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        do = "Where a stage wrote it, remove it and run `dvc repro`."
        raise ArtifactError("is no .npz archive of plain arrays", where=str(path), why=str(error), do=do) from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def write_runs(path: Path, runs: list[dict[str, np.ndarray]]) -> None:
    """Writes inputs or outputs of several probes, with keys "<probe>/<name>"; the order of names is kept."""
    write_npz(path, {f"{i:03}/{j:02}/{name}": run[name] for i, run in enumerate(runs) for j, name in enumerate(run)})


def read_runs(path: Path) -> list[dict[str, np.ndarray]]:
    """Reads what `write_runs` wrote; raises ArtifactError where it is missing, damaged, or something else."""
    runs: dict[str, dict[str, np.ndarray]] = {}
    for key, array in sorted(read_npz(path).items()):
        probe, _, name = [*key.split("/", 2), "", ""][:3]
        if not name:
            why, do = f"it holds an array {key!r}", "Remove it and run `dvc repro`."
            raise ArtifactError("does not hold runs of probes", where=str(path), why=why, do=do)
        runs.setdefault(probe, {})[name] = array
    return [runs[probe] for probe in sorted(runs)]


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; raises ArtifactError where it is missing or no file."""
    import hashlib

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise unreadable(path, error) from None


def bytes_of(path: Path) -> int:
    """The size of a file; raises ArtifactError where it is missing."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from None


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    import hashlib

    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
