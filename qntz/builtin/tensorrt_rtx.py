"""The backend `tensorrt_rtx`: engines for GeForce and RTX GPUs, built with or without one."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from qntz.builtin._tensorrt import RTX, TensorRTBackend
from qntz.hookspecs import hookimpl
from qntz.records import Backend

INSTALL = "Install it: pip install tensorrt-rtx; or set engine.backend: onnxruntime."


def _module() -> ModuleType:
    import tensorrt_rtx  # spelled out, so that the stages' fingerprints count its version

    return tensorrt_rtx


@hookimpl
def qntz_backends() -> Iterable[Backend]:
    yield TensorRTBackend(RTX, _module, INSTALL)
