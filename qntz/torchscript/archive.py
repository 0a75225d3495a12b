"""TorchScript archives and exported programs with the same bytes for the same module, wherever and whenever they are
written.

torch records source paths (`*.debug_pkl`, an exported program's stack traces), the archive's file stem and an id of the
serialisation; none of them is part of the program. They are left out, but for the statements in place of the stacks,
and torch's own writer then derives the id from the records.
"""

from __future__ import annotations

import json
import mmap
import re
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from qntz.model import quiet
from qntz.torchscript.places import Places, places_in, statement_of_stack

_WRITTEN_BY_TORCH = ("version", "byteorder", ".format_version", ".storage_alignment", ".data/version")
_CONSTANT = re.compile(rb"  \w+ : Final\[")
_LARGE = 1 << 16  # bytes of a record that is not read, but mapped
_SERIALIZATION_ID = ".data/serialization_id"


Module = torch.jit.ScriptModule | torch.export.ExportedProgram


def archive_bytes(module: Module) -> bytes:
    """An archive that torch.jit.load or torch.export.load reads, without what differs between machines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name_of(module)
        write_archive(module, path)
        return path.read_bytes()


def name_of(module: Module) -> str:
    """The name of an archive's file."""
    return "model.ts" if isinstance(module, torch.jit.ScriptModule) else "model.pt2"


def write_archive(module: Module, path: Path) -> Places:
    """Writes what `archive_bytes` gives to a new file, with one record at a time in memory. Returns of a ScriptModule
    the statements that its code comes from; an exported program holds them as the stack traces of its nodes."""
    saved = path.with_name(f"saved-{path.name}")
    try:
        script = isinstance(module, torch.jit.ScriptModule)
        (torch.jit.save if script else torch.export.save)(module, str(saved))
        with zipfile.ZipFile(saved) as archive, path.open("wb") as target:
            writer = torch._C.PyTorchFileWriter(target)
            writer.set_min_version(_version(archive))  # by which torch reads the operators' arguments
            for name, record in _records(archive, saved):
                writer.write_record(name, record, len(record) if isinstance(record, bytes) else record.nbytes())
            writer.write_end_of_file()
            return places_in(archive) if script else {}
    finally:
        saved.unlink(missing_ok=True)


def loaded(path: Path) -> Module:
    """The module of an archive."""
    if path.suffix == ".ts":
        return torch.jit.load(str(path))
    with quiet():
        return torch.export.load(path)


def _version(archive: zipfile.ZipFile) -> int:
    names = [name for name in archive.namelist() if name.partition("/")[2] in ("version", ".data/version")]
    return int(archive.read(names[0]))


def _records(archive: zipfile.ZipFile, path: Path) -> Iterator[tuple[str, bytes | torch.UntypedStorage]]:
    """The records to be written; the weights are mapped into memory, since reading them takes longer than all else."""
    reader = torch._C.PyTorchFileReader(str(path))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if name.endswith(".debug_pkl") or name in _WRITTEN_BY_TORCH or name == _SERIALIZATION_ID:
            continue
        if info.file_size > _LARGE and not name.endswith((".py", ".json", ".pkl")):
            at = reader.get_record_offset(name)
            yield name, torch.frombuffer(mapped, dtype=torch.uint8, count=info.file_size, offset=at).untyped_storage()
            continue
        record = reader.get_record(name)
        if name.startswith("models/") and name.endswith(".json"):
            record = json.dumps(_placeless(json.loads(record)), sort_keys=True).encode()
        elif name.startswith("code/") and name.endswith(".py"):
            record = b"".join(_in_order(record.splitlines(keepends=True)))
        yield name, record


def _in_order(code: list[bytes]) -> Iterator[bytes]:
    """The code with the constants of each class sorted: torch writes them as a set has them, by the hash seed."""
    for constants, group in groupby(code, lambda line: _CONSTANT.match(line) is not None):
        lines = list(group)
        yield from sorted(lines) if constants else lines


def _placeless(value: Any) -> Any:
    """A program's description with the statements that its nodes come from in place of their stacks."""
    if isinstance(value, dict):
        return {
            key: statement_of_stack(part) if key == "stack_trace" and isinstance(part, str) else _placeless(part)
            for key, part in value.items()
        }
    return [_placeless(part) for part in value] if isinstance(value, list) else value
