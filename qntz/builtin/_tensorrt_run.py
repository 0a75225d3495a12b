"""Runs an engine of TensorRT or TensorRT-RTX on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from qntz import cuda
from qntz.builtin._tensorrt_bound import BoundEngine, make_allocator
from qntz.builtin._tensorrt_watch import last_errors, make_logger, uncollected
from qntz.errors import ArtifactError, BackendError, one_line
from qntz.records import Arrays

NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's data types by the names of NumPy's; the others have none there."""


class EngineRunner:
    """A loaded engine: arrays by input name in, arrays by output name out, in the engine's order.

    An input may lie on the GPU already, as a torch tensor or whatever else has a `__cuda_array_interface__`: then it is
    not copied. What other streams than the default one are to write there has to be done before.
    """

    def __init__(self, trt: ModuleType, plan: Path, *, holds_code: bool = False):
        """Loads the engine; raises ArtifactError where there is no file, BackendError where it does not run here.

        holds_code: of a version-compatible plan, which brings the runtime that reads it: TensorRT asks for leave.
        """
        try:
            data = plan.read_bytes()
        except FileNotFoundError:
            raise ArtifactError("is missing", where=str(plan), do="Run `dvc repro`.") from None
        self._trt, self._where = trt, str(plan)
        self._device = cuda.open_device()  # first, so that its context is the one that TensorRT uses
        self._logger = make_logger(trt, drop_driver_noise=False)
        with uncollected():
            try:
                self._runtime = trt.Runtime(self._logger)
            except (TypeError, RuntimeError) as error:
                why = last_errors(self._logger)
                raise BackendError("TensorRT does not start", where=self._where, why=why) from error
            if holds_code:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(data)
            self._context = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                "the engine cannot be loaded",
                where=self._where,
                why=last_errors(self._logger),
                do="An engine runs with the TensorRT version and the GPU that it was built for; build it again here.",
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self._profile, self._profiles = 0, self._engine.num_optimization_profiles

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        """One run; inputs that the engine does not have are left out.

        Raises:
            BackendError: an input is missing, of another dtype or outside of the engine's shape range; the run fails.
        """
        with self.bind(inputs) as bound:
            bound.start()
            return bound.outputs()

    def run_on_device(self, inputs: Mapping[str, Any]) -> dict[str, cuda.DeviceArray | np.ndarray]:
        """One run whose outputs stay on the GPU, but for those that TensorRT writes on the host; raises as `run`.

        `torch.as_tensor(output, device="cuda")` has them without a copy.
        """
        with self.bind(inputs) as bound:
            bound.start()
            bound.wait()
            return bound.taken()

    def bind(self, inputs: Mapping[str, Any], *, graph: bool = False) -> BoundEngine:
        """The engine with its inputs in place, to be run again and again; raises as `run`. One at a time: until it is
        closed, the engine's context is its own.

        Args:
            graph: runs it as a CUDA graph, which spares the host to queue each kernel.
        """
        bound = BoundEngine(self._device)
        try:
            self._choose_profile(inputs)
            for name in self._inputs:
                self._feed(name, inputs, bound)
            unknown = self._context.infer_shapes()
            if unknown:
                self._fail("the engine cannot tell its shapes", f"no shape for {', '.join(unknown)}")
            for name in self._outputs:
                self._prepare(name, bound)
            bound.queue = self._queue
            if graph:
                self._capture(bound)
        except BaseException:
            bound.close(broken=True)
            raise
        return bound

    def _queue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            self._fail("the engine does not run", last_errors(self._logger))

    def _capture(self, bound: BoundEngine) -> None:
        if any(not isinstance(output, (cuda.DeviceArray, np.ndarray)) for output in bound.written.values()):
            why = "the size of an output depends on values, so that its memory moves"
            self._fail("the engine does not run as a CUDA graph", why, "Run it without.")
        self._queue()  # TensorRT sets itself up in the first run with new shapes, which no graph can hold
        self._device.synchronize()
        bound.graph = cuda.Graph(self._device, self._queue)

    def _choose_profile(self, inputs: Mapping[str, Any]) -> None:
        """Switches to the first optimization profile that takes all inputs; stays where there is one, or none fits."""
        for index in range(self._profiles if self._profiles > 1 else 0):
            if all(self._fits(name, np.shape(inputs[name]), index) for name in self._inputs if name in inputs):
                if index != self._profile:
                    self._switch(index)
                return

    def _switch(self, profile: int) -> None:
        try:
            done = self._context.set_optimization_profile_async(profile, self._device.stream)
        except RuntimeError as error:  # what the bindings raise where TensorRT refuses
            raise BackendError(
                f"profile {profile} cannot be chosen", where=self._where, why=last_errors(self._logger)
            ) from error
        if not done:
            self._fail(f"profile {profile} cannot be chosen", last_errors(self._logger))
        self._device.synchronize()
        self._profile = profile

    def _fits(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, profile)
        return len(low) == len(shape) and all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))

    def _feed(self, name: str, inputs: Mapping[str, Any], bound: BoundEngine) -> None:
        """Gives an input its memory: its own where it lies on the GPU, else a copy there, which is queued."""
        if name not in inputs:
            self._fail(f"no input {name!r}", f"given are {', '.join(inputs)}")
        value, dtype, on_host = inputs[name], self._dtype(name), self._on_host(name)
        pointer = self._device_pointer(name, value)
        array = None if pointer is not None else self._array(name, value)
        given, shape = (
            (value.dtype if array is None else array.dtype),
            tuple(value.shape if array is None else array.shape),
        )
        if str(given).removeprefix("torch.") != str(dtype):
            self._fail(f"input {name!r} is {str(given).removeprefix('torch.')}", f"the engine takes {dtype}")
        if not self._context.set_input_shape(name, shape):
            ranges = [self._engine.get_tensor_profile_shape(name, one) for one in range(self._profiles)]
            takes = " or ".join(f"{list(low)} to {list(high)}" for low, _, high in ranges)
            self._fail(f"input {name!r} has shape {list(shape)}", f"the engine takes {takes}")
        if array is None and on_host:
            self._fail(f"input {name!r} lies on the GPU", "the engine reads it on the host", "Give a NumPy array.")
        bound.fed[name] = value if array is None else array
        if array is not None and not on_host:
            bound.copies[name] = copy = cuda.DeviceArray(self._device, shape, dtype)
            copy.queue_fill(array)
            pointer = copy.pointer
        self._set_address(name, array.ctypes.data if pointer is None else pointer)

    def _array(self, name: str, value: Any) -> np.ndarray:
        try:
            return np.asarray(value, order="C")
        except RuntimeError as error:  # torch, of a tensor that wants gradients
            self._fail(f"input {name!r} cannot be read", one_line(error), "Give tensor.detach().")

    def _device_pointer(self, name: str, value: Any) -> int | None:
        """Where an input lies on the GPU; None where it does not."""
        try:
            interface = getattr(value, "__cuda_array_interface__", None)
        except RuntimeError as error:  # torch, of a tensor that wants gradients
            self._fail(f"input {name!r} cannot be read", one_line(error), "Give tensor.detach().")
        if interface is None:
            return None
        if interface.get("strides") is not None:
            self._fail(f"input {name!r} is not contiguous", "the engine reads it as it lies", "Give x.contiguous().")
        return int(interface["data"][0])

    def _prepare(self, name: str, bound: BoundEngine) -> None:
        """Gives an output its memory."""
        dtype, shape = self._dtype(name), tuple(self._context.get_tensor_shape(name))
        if -1 in shape:  # it depends on values: TensorRT asks for memory while it runs
            allocator = make_allocator(self._trt, self._device, dtype)
            if not self._context.set_output_allocator(name, allocator):
                self._fail(f"output {name!r} gets no memory", last_errors(self._logger))
            bound.written[name] = allocator
        elif self._on_host(name):
            bound.written[name] = array = np.empty(shape, dtype)
            self._set_address(name, array.ctypes.data)
        else:
            bound.written[name] = output = cuda.DeviceArray(self._device, shape, dtype)
            self._set_address(name, output.pointer)

    def _set_address(self, name: str, pointer: int) -> None:
        if not self._context.set_tensor_address(name, pointer):
            self._fail(f"tensor {name!r} gets no memory", last_errors(self._logger))

    def _on_host(self, name: str) -> bool:
        """Whether TensorRT reads or writes a tensor in the host's memory, as it does with shapes."""
        return bool(self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in NUMPY:
            self._fail(f"tensor {name!r} is {kind}", "NumPy has no such type", "Keep inputs and outputs in float32.")
        return np.dtype(NUMPY[kind])

    def _fail(self, what: str, why: str, do: str = "") -> NoReturn:
        raise BackendError(what, where=self._where, why=why, do=do)
