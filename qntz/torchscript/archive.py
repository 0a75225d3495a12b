"""TorchScript archives with the same bytes for the same module, wherever and whenever they are written.

torch.jit.save records source paths (`*.debug_pkl`), the archive's file stem and an id of the serialisation; none of
them is part of the program. They are left out, and torch's own writer then derives the id from the records.
"""

from __future__ import annotations

import io
import zipfile

import torch

STEM = "model"
_WRITTEN_BY_TORCH = ("version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


def archive_bytes(module: torch.jit.ScriptModule) -> bytes:
    """A TorchScript archive that torch.jit.load reads, without what differs between machines and processes."""
    saved = io.BytesIO()
    torch.jit.save(module, saved)
    target = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(target)
    with zipfile.ZipFile(saved) as archive:
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if name.endswith(".debug_pkl") or name in _WRITTEN_BY_TORCH:
                continue
            record = archive.read(info)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return target.getvalue()
