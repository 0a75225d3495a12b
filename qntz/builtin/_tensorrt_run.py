"""Runs an engine of TensorRT or TensorRT-RTX on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from qntz import cuda
from qntz.builtin._tensorrt_watch import last_errors, make_logger
from qntz.errors import ArtifactError, BackendError
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
    """A loaded engine: arrays by input name in, arrays by output name out, in the engine's order."""

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
        try:
            self._runtime = trt.Runtime(self._logger)
        except (TypeError, RuntimeError) as error:
            raise BackendError("TensorRT does not start", where=self._where, why=last_errors(self._logger)) from error
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

    def run(self, inputs: Arrays) -> Arrays:
        """One run; inputs that the engine does not have are left out.

        Raises:
            BackendError: an input is missing, of another dtype or outside of the engine's shape range; the run fails.
        """
        with cuda.buffers(self._device) as allocate:
            self._choose_profile(inputs)
            # Host arrays are named here, so that they live until the stream is done with them.
            fed = [self._feed(name, inputs, allocate) for name in self._inputs]
            unknown = self._context.infer_shapes()
            if unknown:
                self._fail("the engine cannot tell its shapes", f"no shape for {', '.join(unknown)}")
            fetches = [self._prepare(name, allocate) for name in self._outputs]
            if not self._context.execute_async_v3(self._device.stream):
                self._fail("the engine does not run", last_errors(self._logger))
            outputs = {name: fetch() for name, fetch in zip(self._outputs, fetches, strict=True)}
            self._device.synchronize()
            del fed
        return outputs

    def _choose_profile(self, inputs: Arrays) -> None:
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

    def _feed(self, name: str, inputs: Arrays, allocate: Callable[[int], int]) -> np.ndarray:
        """Copies an input to the GPU; returns the array that must stay alive until then."""
        if name not in inputs:
            self._fail(f"no input {name!r}", f"given are {', '.join(inputs)}")
        array, dtype = np.asarray(inputs[name], order="C"), self._dtype(name)
        if array.dtype != dtype:
            self._fail(f"input {name!r} is {array.dtype}", f"the engine takes {dtype}")
        if not self._context.set_input_shape(name, tuple(array.shape)):
            ranges = [self._engine.get_tensor_profile_shape(name, one) for one in range(self._profiles)]
            takes = " or ".join(f"{list(low)} to {list(high)}" for low, _, high in ranges)
            self._fail(f"input {name!r} has shape {list(array.shape)}", f"the engine takes {takes}")
        if self._on_host(name):
            self._set_address(name, array.ctypes.data)
        else:
            pointer = allocate(array.nbytes)
            self._device.to_device(pointer, array)
            self._set_address(name, pointer)
        return array

    def _prepare(self, name: str, allocate: Callable[[int], int]) -> Callable[[], np.ndarray]:
        """Gives an output its memory; returns what queues the copy to the host, once the run is queued."""
        dtype, shape = self._dtype(name), tuple(self._context.get_tensor_shape(name))
        if -1 in shape:  # it depends on values: TensorRT asks for memory while it runs
            allocator = _make_allocator(self._trt, allocate)
            if not self._context.set_output_allocator(name, allocator):
                self._fail(f"output {name!r} gets no memory", last_errors(self._logger))
            return lambda: self._fetch(allocator.address, np.empty(allocator.shape, dtype))
        array = np.empty(shape, dtype)
        if self._on_host(name):
            self._set_address(name, array.ctypes.data)
            return lambda: array
        pointer = allocate(array.nbytes)
        self._set_address(name, pointer)
        return lambda: self._fetch(pointer, array)

    def _fetch(self, pointer: int, array: np.ndarray) -> np.ndarray:
        if array.size:
            self._device.to_host(array, pointer)
        return array

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

    def _fail(self, what: str, why: str, do: str = "") -> None:
        raise BackendError(what, where=self._where, why=why, do=do)


def _make_allocator(trt: ModuleType, allocate: Callable[[int], int]) -> Any:
    """Memory for an output whose shape is known only when the engine has run: `address`, and `shape` thereafter."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address = 0
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            self.address = allocate(size)
            return self.address

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()
