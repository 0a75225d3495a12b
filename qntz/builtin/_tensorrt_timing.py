"""The measured times of kernels, kept between builds: a file for each version of TensorRT and each GPU, which all
engines share. It changes how long a build takes, and which of equally right kernels it chooses: engine.json has the
digest of what a build began with."""

from __future__ import annotations

import fcntl
import hashlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from qntz.artifacts import BUILD, write_bytes
from qntz.errors import ArtifactError, one_line

FOLDER = Path(BUILD) / "timing-cache"  # below the project's root, from which stages run


class TimingCache:
    """What a builder starts from, and where its findings go.

    Attributes:
        path: of the file. digest: SHA-256 of what it held, "" where it was not there or not this version's.
    """

    def __init__(self, trt: ModuleType, options: Any, target: str) -> None:
        """options: the `IBuilderConfig`, which is given the cache. target: the GPU, in words."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{trt.__name__}-{trt.__version__}-{target}").strip("-")
        self.path = FOLDER / f"{name}.bin"
        self._options = options
        data = self._held()
        cache = options.create_timing_cache(data)
        self.digest = hashlib.sha256(data).hexdigest() if data else ""
        if cache is None or not options.set_timing_cache(cache, False):  # damaged, or of another build
            self.digest = ""
            options.set_timing_cache(options.create_timing_cache(b""), False)

    def _held(self) -> bytes:
        return self.path.read_bytes() if self.path.is_file() else b""

    def saved(self) -> list[str]:
        """Writes what is known now, with what another build may have written meanwhile; a sentence where that fails:
        the engine is built all the same."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self._options.get_timing_cache()
                other = self._options.create_timing_cache(self._held())
                if other is not None:
                    found.combine(other, False)
                write_bytes(self.path, bytes(found.serialize()))
        except (OSError, ArtifactError) as error:
            return [f"the timing cache is not kept: {one_line(error)}"]
        return []
