"""The backend `onnxruntime`: the engine is the ONNX graph itself. It runs anywhere, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qntz import ort
from qntz.config import EngineConfig
from qntz.errors import BackendError, ExportError, one_line
from qntz.hookspecs import hookimpl
from qntz.records import Arrays, Backend, Built, Progress, Runner, TensorSpec, described

if TYPE_CHECKING:
    import onnxruntime

PHASE = "open a session"
DTYPES = {"float": "float32", "double": "float64"}  # ONNX Runtime's other names are NumPy's


class SessionRunner:
    """An ONNX Runtime session as a `qntz.records.Runner`."""

    def __init__(self, model: Path):
        """Opens the session; raises BackendError where ONNX Runtime refuses the graph."""
        try:
            self.session = ort.session(model)
        except ExportError as error:
            raise BackendError(error.what, where=error.where, why=error.why, do=error.do) from error

    def run(self, inputs: Arrays) -> Arrays:
        """One run, as `qntz.ort.run`."""
        return ort.run(self.session, inputs)

    def bind(self, inputs: Arrays) -> BoundSession:
        """The session with its inputs in place; raises BackendError where it refuses them."""
        return BoundSession(self.session, inputs)


class BoundSession:
    """A session with its inputs in place, as `qntz.records.Bound`."""

    def __init__(self, session: onnxruntime.InferenceSession, inputs: Arrays):
        import onnxruntime

        self._session, self._binding = session, session.io_binding()
        self._names = [argument.name for argument in session.get_outputs()]
        device = "cuda" if session.get_providers()[0].startswith("CUDA") else "cpu"
        try:
            for argument in session.get_inputs():
                if argument.name not in inputs:
                    raise BackendError("ONNX Runtime does not take the inputs", why=f"no input {argument.name!r}")
                value = onnxruntime.OrtValue.ortvalue_from_numpy(inputs[argument.name], device, 0)
                self._binding.bind_ortvalue_input(argument.name, value)
            for name in self._names:
                self._binding.bind_output(name, device)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(
                "ONNX Runtime does not take the inputs", where=described(inputs), why=one_line(error)
            ) from error

    def start(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise BackendError("ONNX Runtime cannot run the graph", why=one_line(error)) from error

    def wait(self) -> None:
        self._binding.synchronize_outputs()

    def outputs(self) -> Arrays:
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()


class OnnxRuntimeBackend:
    """A `qntz.records.Backend` whose plan is the ONNX file's bytes."""

    name = "onnxruntime"

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def refusal(self, config: EngineConfig, precision: str) -> BackendError | None:
        """Refuses the options and the precision that only the TensorRT backends have."""
        if precision == "bf16":
            return BackendError(
                "onnxruntime has no bf16",
                where="quantize.precision",
                why="its CPU kernels do not take bfloat16",
                do="Choose fp16 or fp32, or another engine.backend.",
            )
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
