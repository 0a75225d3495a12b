"""Stand-ins for the device memory of cuda-python and pycuda: host memory behind addresses, copies that wait in their
stream until it is flushed, and an account of what was allocated and released."""

from __future__ import annotations

import ctypes
import enum
import types
from collections.abc import Callable
from typing import Any

import numpy as np

STREAM = 77


class FakeCuda:
    """The memory of one imagined GPU."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.waiting: list[tuple[int, int, int]] = []
        self.allocated = 0
        self.captured: list[Callable[[], None]] | None = None
        self.clock = 0.0  # milliseconds: each run takes 2.5

    def execute(self, work: Callable[[], None], stream: int) -> None:
        """Does the work, or keeps it where the stream is captured."""
        if self.captured is not None:
            self.captured.append(work)
            return
        self.flush(stream)
        self.clock += 2.5
        work()

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        self.allocated += 1
        return ctypes.addressof(buffer)

    def release(self, pointer: int) -> None:
        del self.memory[pointer]  # a KeyError is a double release

    def copy(self, target: int, source: int, size: int) -> None:
        self.waiting.append((target, source, size))

    def flush(self, stream: int) -> None:
        if stream != STREAM:
            raise ValueError(f"another stream: {stream}")
        if self.captured is not None:
            raise ValueError("a stream that is captured cannot be waited for")
        for target, source, size in self.waiting:
            ctypes.memmove(target, source, size)
        self.waiting.clear()


class GraphDriver:
    """libcuda's functions for CUDA graphs, as cuda.h declares them; each returns a CUresult."""

    def __init__(self, gpu: FakeCuda):
        self.gpu = gpu
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.launchable: dict[int, list[Callable[[], None]]] = {}

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: int) -> int:
        if stream.value != STREAM or mode != 2 or self.gpu.captured is not None:
            return 1
        self.gpu.captured = []
        return 0

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        if self.gpu.captured is None:
            return 1
        graph._obj.value = 500 + len(self.graphs)
        self.graphs[graph._obj.value], self.gpu.captured = self.gpu.captured, None
        return 0

    def cuGraphInstantiateWithFlags(self, made: Any, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong) -> int:
        made._obj.value = 1000 + graph.value
        self.launchable[made._obj.value] = self.graphs[graph.value]
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        return 0 if self.graphs.pop(graph.value, None) is not None else 1

    def cuGraphLaunch(self, made: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        if stream.value != STREAM or made.value not in self.launchable:
            return 1
        for work in self.launchable[made.value]:
            self.gpu.execute(work, STREAM)
        return 0

    def cuGraphExecDestroy(self, made: ctypes.c_void_p) -> int:
        return 0 if self.launchable.pop(made.value, None) is not None else 1


class Code(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


def cuda_python(gpu: FakeCuda, *, memory: int = 1 << 20) -> types.ModuleType:
    """`cuda.bindings.runtime`; an allocation of more than `memory` bytes fails."""
    module = types.ModuleType("cuda.bindings.runtime")

    class Stream:
        def __int__(self) -> int:
            return STREAM

    def cuda_malloc(size: int) -> tuple[Code, int | None]:
        if size > memory:
            return Code.cudaErrorMemoryAllocation, None
        return Code.cudaSuccess, gpu.allocate(size) if size else 0  # of no bytes CUDA gives a null pointer

    def cuda_free(devPtr: int) -> tuple[Code]:
        gpu.release(devPtr)
        return (Code.cudaSuccess,)

    def cuda_memcpy_async(dst: int, src: int, count: int, kind: Any, stream: Stream) -> tuple[Code]:
        target_is_device = any(a <= dst < a + len(b) for a, b in gpu.memory.items())
        if kind.name != ("cudaMemcpyHostToDevice" if target_is_device else "cudaMemcpyDeviceToHost"):
            raise ValueError(f"wrong way: {kind.name}")
        gpu.copy(dst, src, count)
        return (Code.cudaSuccess,)

    def cuda_stream_synchronize(stream: Stream) -> tuple[Code]:
        gpu.flush(int(stream))
        return (Code.cudaSuccess,)

    module.cudaError_t = Code
    module.cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    module.cudaSetDevice = lambda device: (Code.cudaSuccess,)
    module.cudaStreamCreate = lambda: (Code.cudaSuccess, Stream())
    module.cudaGetErrorString = lambda error: (Code.cudaSuccess, b"out of memory")
    module.cudaMalloc, module.cudaFree = cuda_malloc, cuda_free
    module.cudaMemcpyAsync, module.cudaStreamSynchronize = cuda_memcpy_async, cuda_stream_synchronize
    times: dict[Any, float] = {}

    def cuda_event_record(event: object, stream: Stream) -> tuple[Code]:
        times[event] = gpu.clock
        return (Code.cudaSuccess,)

    module.cudaEventCreate = lambda: (Code.cudaSuccess, object())
    module.cudaEventRecord = cuda_event_record
    module.cudaEventSynchronize = lambda event: (Code.cudaSuccess,)
    module.cudaEventElapsedTime = lambda start, end: (Code.cudaSuccess, times[end] - times[start])
    return module


def pycuda(gpu: FakeCuda, *, memory: int = 1 << 20) -> types.ModuleType:
    """`pycuda.driver`; an allocation of more than `memory` bytes fails."""
    module = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class Allocation:
        def __init__(self, pointer: int):
            self.pointer = pointer

        def __int__(self) -> int:
            return self.pointer

        def free(self) -> None:
            gpu.release(self.pointer)

    class Stream:
        handle = STREAM

        def synchronize(self) -> None:
            gpu.flush(STREAM)

    class Event:
        def record(self, stream: Stream) -> None:
            self.time = gpu.clock

        def synchronize(self) -> None: ...

        def time_since(self, event: Event) -> float:
            return self.time - event.time

    class Device:
        def __init__(self, index: int):
            self.index = index

        def retain_primary_context(self) -> types.SimpleNamespace:
            return types.SimpleNamespace(push=lambda: None, pop=lambda: None)

    def mem_alloc(size: int) -> Allocation:
        if size > memory:
            raise Error("cuMemAlloc failed: out of memory")
        if size == 0:
            raise Error("cuMemAlloc failed: invalid argument")
        return Allocation(gpu.allocate(size))

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        gpu.copy(dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        gpu.copy(dest.ctypes.data, src, dest.nbytes)

    module.Error, module.Stream, module.Event, module.Device, module.mem_alloc = Error, Stream, Event, Device, mem_alloc
    module.init = lambda: None
    module.memcpy_htod_async, module.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    return module
