"""What qntz.cuda tells of the GPU, over a stand-in for the driver, and its device memory over stand-ins for pycuda and
cuda-python."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import types

import numpy as np
import pytest

from qntz import cuda
from qntz.errors import BackendError
from tests.engine import fake_cuda


class Driver:
    """libcuda's functions that qntz calls; each returns a CUresult."""

    def __init__(self, init: int = 0, count: int = 1):
        self.init, self.count = init, count

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, count: ctypes._CData) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, handle: ctypes._CData, index: int) -> int:
        handle._obj.value = 40 + index
        return 0

    def cuDeviceGetAttribute(self, value: ctypes._CData, attribute: int, handle: ctypes.c_int) -> int:
        if handle.value != 40:
            return 101
        value._obj.value = {75: 12, 76: 0}[attribute]
        return 0

    def cuDeviceGetPCIBusId(self, place: ctypes.Array, size: int, handle: ctypes.c_int) -> int:
        place.value = f"0000:{handle.value - 40:02}:00.0".encode()
        return 0

    def cuDriverGetVersion(self, version: ctypes._CData) -> int:
        version._obj.value = 13010
        return 0

    def cuDeviceGetName(self, name: ctypes.Array, size: int, handle: ctypes.c_int) -> int:
        name.value = b"NVIDIA L4"
        return 0


@pytest.mark.parametrize(
    ("driver", "count", "reason"),
    [
        (None, 0, "no CUDA GPU on this machine"),
        (Driver(init=100), 0, "no CUDA GPU on this machine"),
        (Driver(init=34), 0, "no CUDA GPU on this machine"),
        (Driver(count=0), 0, "no CUDA GPU on this machine"),
        (Driver(init=803), 0, "the CUDA driver of this machine does not start (CUDA error 803)"),
        (Driver(count=2), 2, None),
    ],
)
def test_the_driver_is_asked(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, count: int, reason: str | None
) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    assert cuda.gpu_count() == count
    assert cuda.no_gpu_reason() == reason


def test_the_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", Driver)
    assert cuda.capability() == "sm120"
    assert cuda.gpu_name() == "NVIDIA L4"
    with pytest.raises(BackendError, match="the CUDA driver refuses cuDeviceGetAttribute: CUDA error 101"):
        cuda.capability(1)


def test_without_a_gpu_there_is_nothing_to_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    with pytest.raises(BackendError, match=r"^no CUDA GPU on this machine\. Run this on a machine with"):
        cuda.gpu_name()


def test_asking_imports_nothing() -> None:
    code = "import sys; from qntz import cuda; cuda.no_gpu_reason(); print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "ctypes" in loaded
    assert not {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "pycuda", "rich"} & set(loaded)


@pytest.fixture(params=["pycuda", "cuda.bindings"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[cuda.Device, fake_cuda.FakeCuda]:
    gpu = fake_cuda.FakeCuda()
    package, _, _ = request.param.partition(".")
    if package == "pycuda":
        module, name, parent = fake_cuda.pycuda(gpu), "driver", "pycuda"
    else:
        module, name, parent = fake_cuda.cuda_python(gpu), "runtime", "cuda.bindings"
        monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, parent, types.SimpleNamespace(**{name: module}))
    monkeypatch.setitem(sys.modules, f"{parent}.{name}", module)
    monkeypatch.setattr(cuda, "_installed", lambda wanted: wanted == request.param)
    return cuda.open_device(), gpu


def test_an_array_goes_there_and_back(device: tuple[cuda.Device, fake_cuda.FakeCuda]) -> None:
    opened, gpu = device
    assert opened.stream == fake_cuda.STREAM
    sent = np.arange(6, dtype=np.int16).reshape(2, 3)
    there, nothing = cuda.DeviceArray(opened, (2, 3), np.int16), cuda.DeviceArray(opened, (0, 3), np.int16)
    assert 0 not in (there.pointer, nothing.pointer)
    told = there.__cuda_array_interface__
    assert told == {"shape": (2, 3), "typestr": "<i2", "data": (there.pointer, False), "version": 2}
    there.queue_fill(sent)
    back = there.queue_fetch()
    assert nothing.queue_fetch().shape == (0, 3)
    opened.synchronize()
    np.testing.assert_array_equal(back, sent)
    there.release()
    there.release()
    del nothing
    assert gpu.memory == {}


def test_memory_that_is_not_to_be_had(device: tuple[cuda.Device, fake_cuda.FakeCuda]) -> None:
    opened, gpu = device
    held = cuda.DeviceArray(opened, (100,), np.uint8)
    with pytest.raises(BackendError, match="out of memory"):
        cuda.DeviceArray(opened, (1 << 30,), np.uint8)
    assert gpu.allocated == 1
    del held
    assert gpu.memory == {}


def test_marks_tell_the_time_on_the_gpu(device: tuple[cuda.Device, fake_cuda.FakeCuda]) -> None:
    opened, gpu = device
    first = opened.mark()
    gpu.execute(lambda: None, fake_cuda.STREAM)
    gpu.execute(lambda: None, fake_cuda.STREAM)
    assert opened.elapsed_ms(first, opened.mark()) == 5.0


def test_a_graph_is_launched_as_one(
    device: tuple[cuda.Device, fake_cuda.FakeCuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, gpu = device
    driver, ran = fake_cuda.GraphDriver(gpu), []
    monkeypatch.setattr(cuda, "_driver", lambda: driver)

    def queue() -> None:
        for name in ("first", "second"):
            gpu.execute(lambda name=name: ran.append(name), fake_cuda.STREAM)

    graph = cuda.Graph(opened, queue)
    assert ran == []
    graph.launch()
    graph.launch()
    assert ran == ["first", "second"] * 2
    graph.close()
    assert driver.graphs == driver.launchable == {}


def test_what_breaks_a_capture_is_told(
    device: tuple[cuda.Device, fake_cuda.FakeCuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, gpu = device
    monkeypatch.setattr(cuda, "_driver", lambda: fake_cuda.GraphDriver(gpu))
    with pytest.raises(ValueError, match="cannot be waited for"):
        cuda.Graph(opened, opened.synchronize)
    assert gpu.captured is None


def test_a_pycuda_that_does_not_load_leaves_it_to_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = fake_cuda.FakeCuda()
    runtime = fake_cuda.cuda_python(gpu)
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)  # importing it raises ImportError
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", types.SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    monkeypatch.setattr(cuda, "_installed", lambda module: True)
    assert cuda.open_device().stream == fake_cuda.STREAM
    monkeypatch.setattr(cuda, "_installed", lambda module: module == "pycuda")
    with pytest.raises(BackendError, match="an engine cannot be run here: pycuda: "):
        cuda.open_device()


def test_neither_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_installed", lambda module: False)
    assert cuda.no_device_memory_reason() == "neither pycuda nor cuda-python is installed"
    with pytest.raises(BackendError, match=r"an engine cannot be run here: neither .*pip install 'qntz\[gpu\]'"):
        cuda.open_device()


def test_installed_is_told_without_an_import() -> None:
    assert cuda._installed("json")
    assert not cuda._installed("no_such_package.inner")


class Management:
    """libnvidia-ml's functions that qntz calls; each returns an nvmlReturn_t."""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlSystemGetDriverVersion(self, text: ctypes.Array, size: int) -> int:
        text.value = b"570.86.15"
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, place: ctypes.Array, handle: ctypes._CData) -> int:
        handle._obj.value = 90 + int(place.value[5:7])
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, told: ctypes._CData) -> int:
        if handle.value != 90:
            return 2
        told._obj.total, told._obj.free, told._obj.used = 24 << 30, 21 << 30, 3 << 30
        return 0


def test_the_memory_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_management_library", Management)
    monkeypatch.setattr(cuda, "_driver", Driver)
    assert cuda.used_memory() == 3 << 30
    assert cuda.used_memory(1) is None
    monkeypatch.setattr(cuda, "_management_library", lambda: None)
    assert cuda.used_memory() is None


def test_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_management_library", Management)
    monkeypatch.setattr(cuda, "_driver", Driver)
    assert (cuda.driver_version(), cuda.cuda_version()) == ("570.86.15", "13.1")
    monkeypatch.setattr(cuda, "_management_library", lambda: None)
    monkeypatch.setattr(cuda, "_driver", lambda: None)
    assert (cuda.driver_version(), cuda.cuda_version()) == (None, None)
