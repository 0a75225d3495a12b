"""`qntz doctor`: what is here, what works, and what to do about what does not.

Whatever is broken is reported: what may not load, crash or hang is asked in processes of its own (`child`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qntz.doctor import backends, hardware, packages, project
from qntz.doctor.finding import Finding

__all__ = ["Finding", "findings"]


def findings(root: Path) -> Iterator[Finding]:
    """Everything that is found of the project, or the folder, at `root`, by sections."""
    yield from packages.findings(root)
    yield from hardware.findings()
    yield from backends.findings(root, project.default_backend(root))
    yield from project.findings(root)
