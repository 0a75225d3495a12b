"""The CUDA GPU: whether one is here, asked of the driver itself, and memory, streams, events and graphs for running an
engine on it.

The questions and the graphs load libcuda by ctypes and import nothing. `Device` needs pycuda or cuda-python, which are
imported when it is opened.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from qntz.errors import BackendError, one_line

NO_GPU = "no CUDA GPU on this machine"
INSTALL = "Install the extra: pip install 'qntz[gpu]'."

# Of the driver API's cuda.h: CUresult and CUdevice_attribute.
_SUCCESS, _STUB_LIBRARY, _NO_DEVICE = 0, 34, 100
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_RELAXED = 2  # of CUstreamCaptureMode: TensorRT may allocate while its work is captured


def gpu_count() -> int:
    """The CUDA GPUs that the driver shows; 0 where there is no driver, or it does not start."""
    return _count()[0]


def no_gpu_reason() -> str | None:
    """Why no CUDA GPU can be used here, in words; None where one can."""
    return _count()[1]


def capability(device: int = 0) -> str:
    """The compute capability of a GPU as "sm89"; raises BackendError where there is none."""
    driver, handle = _opened(device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, handle)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, handle)
    return f"sm{major.value}{minor.value}"


def gpu_name(device: int = 0) -> str:
    """The name of a GPU, "NVIDIA L4"; raises BackendError where there is none."""
    driver, handle = _opened(device)
    name = ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGetName", name, len(name), handle)
    return name.value.decode(errors="replace")


def driver_version() -> str | None:
    """The version of the NVIDIA driver, "570.86.15"; None where its library does not tell."""
    library = _management_library()
    if library is None or library.nvmlInit_v2() != _SUCCESS:
        return None
    text = ctypes.create_string_buffer(80)  # as nvml.h bounds it
    if library.nvmlSystemGetDriverVersion(text, len(text)) != _SUCCESS:
        return None
    return text.value.decode(errors="replace")


def cuda_version() -> str | None:
    """The newest CUDA that the driver takes, "12.8"; None where there is no driver."""
    driver, version = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != _SUCCESS:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def no_device_memory_reason() -> str | None:
    """Why `Device` cannot be opened for want of a package, in words; None where one of the two is installed."""
    if _installed("pycuda") or _installed("cuda.bindings"):
        return None
    return "neither pycuda nor cuda-python is installed"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not installed
        return False


class _MemoryInfo(ctypes.Structure):
    """nvmlMemory_t of nvml.h, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def used_memory(device: int = 0) -> int | None:
    """The bytes of a GPU's memory that are taken, by whomever; None where the driver's library does not tell."""
    library = _management_library()
    if library is None or no_gpu_reason() is not None or library.nvmlInit_v2() != _SUCCESS:
        return None
    # By its place on the bus: CUDA may count the GPUs in another order, or not all of them.
    driver, index = _opened(device)
    place, handle, told = ctypes.create_string_buffer(32), ctypes.c_void_p(), _MemoryInfo()
    _call(driver, "cuDeviceGetPCIBusId", place, len(place), index)
    if library.nvmlDeviceGetHandleByPciBusId_v2(place, ctypes.byref(handle)) != _SUCCESS:
        return None
    if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(told)) != _SUCCESS:
        return None
    return int(told.used)


def _management_library() -> Any | None:
    try:
        return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None


def _driver() -> Any | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _count() -> tuple[int, str | None]:
    driver = _driver()
    if driver is None:
        return 0, NO_GPU
    code = driver.cuInit(0)
    count = ctypes.c_int(0)
    if code == _SUCCESS:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code in (_STUB_LIBRARY, _NO_DEVICE) or (code == _SUCCESS and count.value == 0):
        return 0, NO_GPU
    if code != _SUCCESS:
        return 0, f"the CUDA driver of this machine does not start (CUDA error {code})"
    return count.value, None


def _opened(device: int) -> tuple[Any, ctypes.c_int]:
    reason, driver = no_gpu_reason(), _driver()
    if reason is not None or driver is None:
        raise BackendError(reason or NO_GPU, do="Run this on a machine with an NVIDIA GPU and its driver.")
    handle = ctypes.c_int()
    _call(driver, "cuDeviceGet", ctypes.byref(handle), device)
    return driver, handle


def _call(driver: Any, function: str, *arguments: Any) -> None:
    code = getattr(driver, function)(*arguments)
    if code != _SUCCESS:
        raise BackendError(f"the CUDA driver refuses {function}", why=f"CUDA error {code}")


class Device(Protocol):
    """Memory and a stream on the first GPU. Pointers are integers, as TensorRT takes them.

    Copies are queued on the stream: a host array must stay alive and unchanged until `synchronize` returns. The stream
    waits for what stands in the default one, where torch queues its work.
    """

    stream: int

    def allocate(self, size: int) -> int:
        """A pointer to `size` bytes; it stays valid until `release`."""

    def release(self, pointer: int) -> None: ...

    def to_device(self, pointer: int, array: np.ndarray) -> None:
        """Queues a copy of a C-contiguous array to `pointer`."""

    def to_host(self, array: np.ndarray, pointer: int) -> None:
        """Queues a copy from `pointer` that fills a C-contiguous array."""

    def synchronize(self) -> None: ...

    def mark(self) -> Any:
        """An event that happens when all that is queued so far is done."""

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """Milliseconds on the GPU between two marks; waits for the last."""


class DeviceArray:
    """An array on the GPU, which owns its memory.

    torch.as_tensor, CuPy and Numba take it without a copy, by `__cuda_array_interface__`, and keep it alive.

    Attributes:
        shape, dtype: as NumPy has them. pointer: of its first element; 0 once it is released.
    """

    def __init__(self, device: Device, shape: Sequence[int], dtype: Any):
        """Memory that is not set; raises BackendError where there is not enough."""
        self._device, self.shape, self.dtype = device, tuple(shape), np.dtype(dtype)
        self.pointer = 0
        self.pointer = device.allocate(max(math.prod(self.shape) * self.dtype.itemsize, 1))  # of no bytes is no pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.pointer, False), "version": 2}

    def queue_fill(self, array: np.ndarray) -> None:
        """Queues a copy of a C-contiguous array of its size."""
        if array.size:
            self._device.to_device(self.pointer, array)

    def queue_fetch(self) -> np.ndarray:
        """Queues a copy to the host; what is returned is filled when the device is synchronized."""
        array = np.empty(self.shape, self.dtype)
        if array.size:
            self._device.to_host(array, self.pointer)
        return array

    def release(self) -> None:
        """Gives the memory back; once."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            self._device.release(pointer)

    def __del__(self) -> None:
        with contextlib.suppress(BackendError):  # after an error on the device each release fails with that same error
            self.release()


class Graph:
    """The work that `queue` queues on a device's stream, captured to be launched as one: a CUDA graph, by the driver.

    The memory that it works on must stay where it is until `close`.
    """

    def __init__(self, device: Device, queue: Callable[[], None]):
        """Raises BackendError where the driver refuses the capture, and whatever `queue` raises."""
        self._driver = _driver()
        self._stream, graph = ctypes.c_void_p(device.stream), ctypes.c_void_p()
        self._launched = ctypes.c_void_p()
        _call(self._driver, "cuStreamBeginCapture_v2", self._stream, _RELAXED)
        try:
            queue()
        except BaseException:
            self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))  # what broke it is told, not this
            raise
        _call(self._driver, "cuStreamEndCapture", self._stream, ctypes.byref(graph))
        _call(self._driver, "cuGraphInstantiateWithFlags", ctypes.byref(self._launched), graph, ctypes.c_ulonglong(0))
        _call(self._driver, "cuGraphDestroy", graph)

    def launch(self) -> None:
        """Queues the work again."""
        _call(self._driver, "cuGraphLaunch", self._launched, self._stream)

    def close(self) -> None:
        _call(self._driver, "cuGraphExecDestroy", self._launched)


def open_device() -> Device:
    """The first GPU, through pycuda where that is installed, else through cuda-python.

    Raises:
        BackendError: neither is installed, none of them loads, or the GPU cannot be used.
    """
    reason = no_device_memory_reason()
    if reason is not None:
        raise BackendError("an engine cannot be run here", why=reason, do=INSTALL)
    failures = []
    for module, device in (("pycuda", _PyCuda), ("cuda.bindings", _CudaPython)):
        if _installed(module):
            try:
                return device()
            except (ImportError, OSError) as error:  # built for another CUDA than is here, say
                failures.append(f"{module}: {one_line(error)}")
    raise BackendError("an engine cannot be run here", why="; ".join(failures), do=INSTALL)


class _PyCuda:
    def __init__(self) -> None:
        import pycuda.driver as driver

        self._driver = driver
        self._allocations: dict[int, Any] = {}
        try:
            driver.init()
            # TensorRT uses the runtime API, which lives in the primary context.
            self._context = driver.Device(0).retain_primary_context()
            self._context.push()
            atexit.register(self._context.pop)  # pycuda aborts at exit where a context is left on its stack
            self._stream = driver.Stream()
        except driver.Error as error:
            raise BackendError("the GPU cannot be used", why=one_line(error)) from error
        self.stream = int(self._stream.handle)

    def allocate(self, size: int) -> int:
        try:
            allocation = self._driver.mem_alloc(size)
        except self._driver.Error as error:
            raise BackendError(f"{size} bytes of GPU memory are not to be had", why=one_line(error)) from error
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def release(self, pointer: int) -> None:
        self._ask(self._allocations.pop(pointer).free)

    def to_device(self, pointer: int, array: np.ndarray) -> None:
        self._ask(self._driver.memcpy_htod_async, pointer, array, self._stream)

    def to_host(self, array: np.ndarray, pointer: int) -> None:
        self._ask(self._driver.memcpy_dtoh_async, array, pointer, self._stream)

    def synchronize(self) -> None:
        self._ask(self._stream.synchronize)

    def mark(self) -> Any:
        event = self._ask(self._driver.Event)
        self._ask(event.record, self._stream)
        return event

    def elapsed_ms(self, first: Any, last: Any) -> float:
        self._ask(last.synchronize)
        return float(self._ask(last.time_since, first))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.Error as error:
            raise BackendError("the run failed on the GPU", why=one_line(error)) from error


class _CudaPython:
    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime
        self._ask("cudaSetDevice", 0)
        self._stream = self._ask("cudaStreamCreate")
        self.stream = int(self._stream)

    def allocate(self, size: int) -> int:
        return int(self._ask("cudaMalloc", size))

    def release(self, pointer: int) -> None:
        self._ask("cudaFree", pointer)

    def to_device(self, pointer: int, array: np.ndarray) -> None:
        self._copy(pointer, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def to_host(self, array: np.ndarray, pointer: int) -> None:
        self._copy(array.ctypes.data, pointer, array.nbytes, "cudaMemcpyDeviceToHost")

    def synchronize(self) -> None:
        self._ask("cudaStreamSynchronize", self._stream)

    def mark(self) -> Any:
        event = self._ask("cudaEventCreate")
        self._ask("cudaEventRecord", event, self._stream)
        return event

    def elapsed_ms(self, first: Any, last: Any) -> float:
        self._ask("cudaEventSynchronize", last)
        return float(self._ask("cudaEventElapsedTime", first, last))

    def _copy(self, target: int, source: int, size: int, way: str) -> None:
        self._ask("cudaMemcpyAsync", target, source, size, getattr(self._runtime.cudaMemcpyKind, way), self._stream)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """What a function of the runtime gives after its error code; raises BackendError for an error."""
        code, *given = getattr(self._runtime, function)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(code)
            raise BackendError(f"{function} failed on the GPU", why=text.decode(errors="replace"))
        return given[0] if given else None
