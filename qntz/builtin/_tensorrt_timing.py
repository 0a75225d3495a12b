"""The measured times of kernels, kept between builds: a file for each version of TensorRT and each GPU, which all
engines share. It changes how long a build takes, and which of equally right kernels it chooses."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

from qntz.artifacts import BUILD, write_bytes

FOLDER = Path(BUILD) / "timing-cache"


class TimingCache:
    """What a builder starts from, and where its findings go."""

    def __init__(self, trt: ModuleType, options: Any, target: str) -> None:
        """options: the `IBuilderConfig`, which is given the cache. target: the GPU, in words."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{trt.__name__}-{trt.__version__}-{target}").strip("-")
        self.path = FOLDER / f"{name}.bin"
        self._options = options
        if not options.set_timing_cache(self._read(), False):  # of another build of this version: begin anew
            options.set_timing_cache(options.create_timing_cache(b""), False)

    def _read(self) -> Any:
        data = self.path.read_bytes() if self.path.is_file() else b""
        return self._options.create_timing_cache(data)

    def save(self) -> None:
        """Writes what is known now, with what another build may have written meanwhile."""
        found = self._options.get_timing_cache()
        found.combine(self._read(), False)
        write_bytes(self.path, bytes(found.serialize()))
