"""The backend `tensorrt`, versions 10 and 11: engines for the GPU of the machine that builds them."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from qntz.builtin._tensorrt import FULL, TensorRTBackend
from qntz.hookspecs import hookimpl
from qntz.records import Backend


def _module() -> ModuleType:
    import tensorrt  # spelled out, so that the stages' fingerprints count its version

    return tensorrt


@hookimpl
def qntz_backends() -> Iterable[Backend]:
    yield TensorRTBackend(FULL, _module, "Install the extra: pip install 'qntz[gpu]'.")
