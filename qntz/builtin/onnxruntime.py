"""The backend `onnxruntime`: the engine is the ONNX graph itself. It runs anywhere, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from qntz.config import EngineConfig
from qntz.errors import BackendError
from qntz.hookspecs import hookimpl
from qntz.ort import SessionRunner
from qntz.records import Backend, Built, Progress, Runner, TensorSpec

PHASE = "open a session"
DTYPES = {"float": "float32", "double": "float64"}  # ONNX Runtime's other names are NumPy's


class OnnxRuntimeBackend:
    """A `qntz.records.Backend` whose plan is the ONNX file's bytes."""

    name = "onnxruntime"

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def refusal(self, config: EngineConfig, precision: str) -> BackendError | None:
        """Refuses the options and the precisions that only the TensorRT backends have."""
        return config.refusal(precision)

    def why_not_run(self, config: EngineConfig) -> str | None:
        return None

    def build(self, onnx_path: Path, inputs: Sequence[TensorSpec], config: EngineConfig, progress: Progress) -> Built:
        """The graph, once a session has opened on it; raises BackendError where none does."""
        started = time.perf_counter()
        if not progress.step(PHASE, 0, 1):
            raise BackendError("the build was stopped", why="its progress asked for it")
        session = SessionRunner(onnx_path).session
        progress.step(PHASE, 1, 1)
        taken = {argument.name for argument in session.get_inputs()}
        return Built(
            plan=onnx_path.read_bytes(),
            version=self.version(),
            target="any CPU",
            seconds=time.perf_counter() - started,
            inputs=tuple(spec for spec in inputs if spec.name in taken),
            outputs=tuple(_spec(argument.name, argument.type, argument.shape) for argument in session.get_outputs()),
        )

    def load(self, plan: Path, config: EngineConfig) -> Runner:
        return SessionRunner(plan)


def _spec(name: str, kind: str, sizes: Sequence[int | str | None]) -> TensorSpec:
    """kind: "tensor(float)"; a size that is no number is dynamic."""
    element = kind.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else -1 for size in sizes)
    return TensorSpec(name, DTYPES.get(element, element), shape, shape, shape)


@hookimpl
def qntz_backends() -> Iterable[Backend]:
    yield OnnxRuntimeBackend()
