"""An engine of TensorRT or TensorRT-RTX with its inputs in place, and the memory of what it writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from qntz import cuda
from qntz.errors import BackendError
from qntz.records import Arrays


class BoundEngine:
    """An engine with its inputs in place (`EngineRunner.bind`); a context, at whose end its memory is given back.

    Attributes:
        fed: the inputs, so that they live. copies: of those that lay on the host. written: the outputs' memory.
    """

    def __init__(self, device: cuda.Device):
        self._device = device
        self.fed: dict[str, Any] = {}
        self.copies: dict[str, cuda.DeviceArray] = {}
        self.written: dict[str, Any] = {}
        self.queue: Callable[[], None] = lambda: None
        self.graph: cuda.Graph | None = None

    def start(self) -> None:
        """Queues a run; raises BackendError where TensorRT refuses it."""
        if self.graph is not None:
            self.graph.launch()
        else:
            self.queue()

    def wait(self) -> None:
        """Returns when all that was queued is done; raises BackendError where it failed."""
        self._device.synchronize()

    def mark(self) -> Any:
        """As `qntz.cuda.Device.mark`."""
        return self._device.mark()

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """As `qntz.cuda.Device.elapsed_ms`."""
        return self._device.elapsed_ms(first, last)

    def outputs(self) -> Arrays:
        """The outputs of the last run, on the host."""
        arrays = {
            name: output if isinstance(output, np.ndarray) else array_of(output).queue_fetch()
            for name, output in self.written.items()
        }
        self.wait()
        return arrays

    def taken(self) -> dict[str, cuda.DeviceArray | np.ndarray]:
        """The outputs where they lie; they are the caller's now."""
        outputs = {n: o if isinstance(o, np.ndarray) else array_of(o) for n, o in self.written.items()}
        self.written = {}
        return outputs

    def close(self, *, broken: bool = False) -> None:
        """Gives the memory back. broken: after an error on the device, where each release fails with that same one."""
        parts = [output for output in self.written.values() if not isinstance(output, np.ndarray)]
        closing = [part.release for part in (*self.copies.values(), *parts)]
        closing += [self.graph.close] if self.graph is not None else []
        self.copies, self.written, self.graph = {}, {}, None
        for close in closing:
            with contextlib.suppress(BackendError) if broken else contextlib.nullcontext():
                close()

    def __enter__(self) -> BoundEngine:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close(broken=kind is not None)


def array_of(output: Any) -> cuda.DeviceArray:
    """An output's array: of one whose size depended on values, that of the last run."""
    return output if isinstance(output, cuda.DeviceArray) else output.array()


def make_allocator(trt: ModuleType, device: cuda.Device, dtype: np.dtype[Any]) -> Any:
    """Memory for an output whose shape is known only when the engine has run: `array` has it thereafter."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.held: cuda.DeviceArray | None = None
            self.room, self.shape = -1, (0,)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            if self.held is None or self.room < size:
                self.held, self.room = cuda.DeviceArray(device, (size,), np.uint8), size
            return self.held.pointer

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

        def array(self) -> cuda.DeviceArray:
            if self.held is None:  # of no elements, TensorRT may ask for nothing
                self.held = cuda.DeviceArray(device, (0,), np.uint8)
            self.held.shape, self.held.dtype = self.shape, dtype
            return self.held

        def release(self) -> None:
            if self.held is not None:
                self.held.release()

    return Allocator()
