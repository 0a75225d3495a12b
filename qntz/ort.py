"""ONNX Runtime on the CPU: the reference that every ONNX artifact is run under."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qntz.errors import MAKE_ROOM, ArtifactError, BackendError, ExportError, one_line
from qntz.packed import SUFFIX, Packed
from qntz.records import Arrays, described

if TYPE_CHECKING:
    import onnxruntime

# Level 2 and up drop a Relu or Clip before a QuantizeLinear of fp8, whose zero point they take for int8's least number
# (found with ONNX Runtime 1.32).
WRONG = ["ReluQuantRewrite", "ClipQuantRewrite"]
# Level 2 and up make of int4 weights and a MatMul a product whose input is int8 too, unless float32 is asked for.
FLOAT_INPUTS = ("session.qdq_matmulnbits_accuracy_level", "1")
# Of what it says: "[ONNXRuntimeError] : 1 : FAIL : ", "Load model from FILE failed:", "/src/graph.cc:12 void f(int) ".
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOADING = re.compile(r"^Load model from .*? failed:|^Exception during initialization: ")
_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\(.*?\)( const)? (?=[A-Z(])")
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
DISABLE, BASIC, EXTENDED, ALL = "disable", "basic", "extended", "all"


def session(
    model: Path | bytes | Packed,
    *,
    threads: int = 0,
    optimize: str = ALL,
    written: Path | None = None,
    device: str = "cpu",
) -> onnxruntime.InferenceSession:
    """A session without the optimizers that change results (`WRONG`).

    Args:
        threads: within an operator, 0 for one a core. written: a file for the optimised graph, which is this machine's
            own; its weights go beside it. device: "cpu", or "cuda" with the CPU for what has no kernel there.

    Raises:
        ExportError: the model is refused. ArtifactError: the temp folder does not take a model beyond 2 GB.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle workers must not burn the CPU
    options.add_session_config_entry(*FLOAT_INPUTS)
    level = {
        DISABLE: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        BASIC: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        EXTENDED: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        ALL: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    options.graph_optimization_level = level[optimize]
    if written is not None:
        options.optimized_model_filepath = str(written)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", written.name + SUFFIX
        )
    where = str(model) if isinstance(model, Path) else "the model"
    with contextlib.ExitStack() as stack:
        if isinstance(model, Packed) and model.weights:
            model = stack.enter_context(_written(model))
        source = str(model) if isinstance(model, Path) else model if isinstance(model, bytes) else model.data
        try:
            return ort.InferenceSession(source, options, providers=PROVIDERS[device], disabled_optimizers=WRONG)
        except Exception as error:
            do = "Change the model, or mend what wrote the file."
            raise ExportError("ONNX Runtime refuses the graph", where=where, why=_why(error), do=do) from error


@contextlib.contextmanager
def _written(model: Packed) -> Iterator[Path]:
    """The model in the temp folder; raises ArtifactError where that does not take it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = model.write(Path(folder))
        except OSError as error:
            what, why = "the model cannot be written", error.strerror or str(error)
            raise ArtifactError(what, where=tempfile.gettempdir(), why=why, do=MAKE_ROOM) from error
        yield path


def _why(error: Exception) -> str:
    """What ONNX Runtime says, without its codes, the path that stands beside it, and its own lines and signatures."""
    return _PLACE.sub("", _LOADING.sub("", _CODE.sub("", " ".join(str(error).split())))) or one_line(error)


def run(session: onnxruntime.InferenceSession, inputs: Arrays, names: Sequence[str] | None = None) -> Arrays:
    """One run: arrays by input name in (inputs that the graph does not have are left out), outputs by name in order;
    names: those alone. Raises ExportError where ONNX Runtime refuses the inputs."""
    known = {argument.name for argument in session.get_inputs()}
    names = [argument.name for argument in session.get_outputs()] if names is None else list(names)
    try:
        values = session.run(names, {name: array for name, array in inputs.items() if name in known})
    except Exception as error:
        raise ExportError("ONNX Runtime cannot run the graph", where=described(inputs), why=_why(error)) from error
    return dict(zip(names, values, strict=True))


def run_all(model: Path | bytes | Packed, inputs: Sequence[Arrays], *, threads: int = 0) -> list[Arrays]:
    """The outputs of the model on each set of inputs."""
    opened = session(model, threads=threads)
    return [run(opened, one) for one in inputs]


class SessionRunner:
    """An ONNX Runtime session as a `qntz.records.Runner`."""

    def __init__(self, model: Path, *, device: str = "cpu"):
        """Opens the session, on "cpu" or "cuda"; raises BackendError where ONNX Runtime refuses the graph."""
        try:
            self.session = session(model, device=device)
        except ExportError as error:
            raise BackendError(error.what, where=error.where, why=error.why, do=error.do) from error
        used = self.session.get_providers()[0]
        if used != PROVIDERS[device][0]:  # it takes the CPU with no more than a warning
            raise BackendError(f"ONNX Runtime does not run on {device}", where=str(model), why=f"it takes {used}")

    def run(self, inputs: Arrays) -> Arrays:
        """One run, as `run`."""
        return run(self.session, inputs)

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
