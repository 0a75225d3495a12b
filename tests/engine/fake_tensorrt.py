"""A stand-in for a TensorRT module that has exactly the recorded names of one version and refuses all else.

Every class is made from api/<version>.json: a name, an argument count, a keyword or an argument type that the version
does not have is an error. Behind it stands ONNX Runtime: a plan is the ONNX file, and a run reads the inputs from the
"device" addresses and writes the outputs there, so that a wrong address or a forgotten copy gives wrong numbers.
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qntz import ort
from tests.engine.fake_cuda import FakeCuda

API = Path(__file__).parent / "api"
LAYERS = {
    "Conv": "CONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Cast": "CAST",
}
FORMATS = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Channel major FP16 format where channel % 8 == 0",
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "INT64": "Int64",
}
KINDS = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16"}


def recorded(version: str) -> dict[str, Any]:
    return json.loads((API / f"{version}.json").read_text(encoding="utf-8"))


def make(version: str, device: FakeCuda | None = None) -> types.ModuleType:
    """The module of one version ("tensorrt-11.4.0.106"). `module.touched` collects (class, name) of all that is used;
    `module.seen` what was asked of the builder; `module.refuse` makes the builder refuse with that text."""
    name, _, number = version.partition("-")
    module = types.ModuleType(name)
    module.__version__ = number
    module.touched, module.seen, module.refuse, module.device = set(), {}, "", device
    for kind, record in recorded(version)["classes"].items():
        made = enum.IntEnum(kind, record["enum"]) if "enum" in record else _strict(module, kind, record)
        setattr(module, kind, made)
    return module


def _parameters(signature: str) -> list[inspect.Parameter]:
    """The parameters of "name(self: X, a: typing.SupportsInt = 0) -> Y", with the type's text as annotation."""
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "([<") - (letter in ")]>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    found = []
    for part in filter(None, (part.strip() for part in parts)):
        named, _, default = part.partition(" = ")
        name, _, kind = named.partition(": ")
        value = None if default else inspect.Parameter.empty
        found.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=kind))
    return found


def _suits(module: types.ModuleType, value: Any, kind: str) -> bool:
    plain = {
        "str": str,
        "bool": bool,
        "tuple": tuple,
        "list": list,
        "typing_extensions.Buffer": (bytes, bytearray, memoryview),
    }
    if kind in plain:
        return isinstance(value, plain[kind])
    if kind == "typing.SupportsInt":
        return hasattr(value, "__int__")
    if kind == "Dims":
        return isinstance(value, (tuple, list)) and all(isinstance(size, int) for size in value)
    known = getattr(module, kind, None)
    return known is None or isinstance(value, known)


def _strict(module: types.ModuleType, kind: str, record: dict[str, Any]) -> type:
    body: type = BODIES.get(kind, object)
    methods: dict[str, list[str]] = record.get("methods", {})
    readable = {p.partition(" ")[0] for p in record.get("properties", ())}
    writable = {p for p in record.get("properties", ()) if " " not in p}

    def method(name: str, signatures: list[str]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            module.touched.add((kind, name))
            for signature in signatures:
                try:
                    bound = inspect.Signature(_parameters(signature)).bind(self, *args, **kwargs)
                except TypeError:
                    continue
                given = {k: v for k, v in bound.arguments.items() if k != "self"}
                kinds = {p.name: p.annotation for p in _parameters(signature)}
                if all(_suits(module, value, kinds[k]) for k, value in given.items()):
                    act = vars(body).get(f"_{name}" if name == "__init__" else name)
                    return act(self, **given) if act else None
            raise TypeError(f"{kind}.{name}: {args} {kwargs} fit none of {signatures}")

        return call

    def get(self: Any, name: str) -> Any:
        if name in readable:
            module.touched.add((kind, name))
            return self.__dict__.get(f"_{name}")
        raise AttributeError(f"{module.__name__} {module.__version__}: {kind} has no {name!r}")

    def put(self: Any, name: str, value: Any) -> None:
        if type(self) is made and not name.startswith("_") and name not in writable:
            raise AttributeError(f"{module.__name__} {module.__version__}: {kind}.{name} cannot be set")
        if name in writable:
            module.touched.add((kind, name))
            name = f"_{name}"
        self.__dict__[name] = value

    space = {name: method(name, signatures) for name, signatures in methods.items() if signatures}
    made = type(kind, (), {**space, "__getattr__": get, "__setattr__": put, "_trt": module})
    return made


def _create(module: types.ModuleType, kind: str, **state: Any) -> Any:
    """An object that only TensorRT makes; the keys of `state` are its properties and, with "_", its hidden state."""
    made = object.__new__(getattr(module, kind))
    made.__dict__.update({f"_{key.lstrip('_')}": value for key, value in state.items()})
    return made


class _HostMemory(bytes):
    """IHostMemory: TensorRT's gives its bytes by the buffer protocol."""


class _Derived:
    """A class that Python code derives from: TensorRT's own __init__ has to be called."""

    def ___init__(self) -> None:
        self.__dict__["_ready"] = True


class _Builder:
    def ___init__(self, logger: Any) -> None:
        _require_ready(logger)
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        self._trt.seen["flags"] = flags
        return _create(self._trt, "INetworkDefinition")

    def create_builder_config(self) -> Any:
        return _create(self._trt, "IBuilderConfig", profiles=[], set={"TF32"})

    def create_optimization_profile(self) -> Any:
        return _create(self._trt, "IOptimizationProfile", ranges={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        monitor = config.__dict__.get("_progress_monitor")
        _require_ready(monitor)
        self._trt.seen["config"] = config
        if "_timings" in config.__dict__:
            found = network._model.graph.output[0].name
            config._timings.__dict__["_known"] = sorted({*config._timings._known, found})
        monitor.phase_start("outer", None, 2)
        monitor.phase_start("inner", "outer", 1)
        monitor.step_complete("inner", 0)
        monitor.phase_finish("inner")
        going = monitor.step_complete("outer", 0)
        if not going or self._trt.refuse:
            severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0).ERROR
            self._logger.log(severity, self._trt.refuse)
            return None
        monitor.step_complete("outer", 1)
        monitor.phase_finish("outer")
        _calibrate(self._trt, network, config)
        plan = _HostMemory(network._model.SerializeToString())
        self._trt.seen.setdefault("plans", {})[bytes(plan)] = config._profiles
        return plan


class _Config:
    def set_flag(self, flag: Any) -> None:
        self._set.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(flag.name)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._trt.seen["tactics"] = int(tactic_sources)
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        known = json.loads(bytes(serialized_timing_cache) or b"[]")
        return _create(self._trt, "ITimingCache", known=known)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if "foreign" in cache._known:
            return False
        self.__dict__["_timings"] = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timings

    def add_optimization_profile(self, profile: Any) -> int:
        for low, best, high in profile._ranges.values():
            if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
                return -1
        self._profiles.append(profile._ranges)
        return len(self._profiles) - 1

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._trt.seen["pool"] = (pool.name, pool_size)
        self._trt.seen.setdefault("pools", {})[pool.name] = pool_size

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if index >= self._num_compute_capabilities:
            return False
        self._trt.seen.setdefault("capabilities", {})[index] = compute_capability.name
        return True


class _TimingCache:
    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if "foreign" in input_cache._known:
            return False
        self.__dict__["_known"] = sorted({*self._known, *input_cache._known})
        return True

    def serialize(self) -> Any:
        return _HostMemory(json.dumps(self._known).encode())


class _Profile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._ranges[input] = (tuple(min), tuple(opt), tuple(max))


class _Network:
    def get_input(self, index: int) -> Any:
        return _tensor(self._trt, self._model.graph.input[index])

    def get_output(self, index: int) -> Any:
        return _tensor(self._trt, self._model.graph.output[index])

    def get_layer(self, index: int) -> Any:
        node = self._model.graph.node[index]
        kind = self._trt.LayerType[LAYERS.get(node.op_type, "ELEMENTWISE")]
        state = {"node": node, "model": self._model, "type": kind, "num_inputs": len(node.input)}
        return _create(self._trt, "ILayer", name=node.name, num_outputs=len(node.output), **state)


class _Layer:
    def get_input(self, index: int) -> Any:
        return _typed(self._trt, self._model, self._node.input[index])

    def get_output(self, index: int) -> Any:
        return _typed(self._trt, self._model, self._node.output[index])

    def get_output_type(self, index: int) -> Any:
        return _typed(self._trt, self._model, self._node.output[index])._dtype


class _Parser:
    def ___init__(self, network: Any, logger: Any) -> None:
        _require_ready(logger)
        self._network, self._errors = network, []

    def parse_from_file(self, model: str) -> bool:
        loaded = onnx.load(model)
        self._errors = [(i, n) for i, n in enumerate(loaded.graph.node) if n.domain not in ("", "ai.onnx")]
        self._num_errors = len(self._errors)
        graph = loaded.graph
        self._network.__dict__.update(
            _model=loaded,
            _num_layers=len(graph.node),
            _num_inputs=len(graph.input),
            _num_outputs=len(graph.output),
        )
        return not self._errors

    def get_error(self, index: int) -> Any:
        return _create(self._trt, "ParserError", where=self._errors[index])


class _ParserError:
    def node(self) -> int:
        return self._where[0]

    def node_name(self) -> str:
        return self._where[1].name

    def node_operator(self) -> str:
        return self._where[1].op_type

    def desc(self) -> str:
        return "not here."


class _Runtime:
    def ___init__(self, logger: Any) -> None:
        _require_ready(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        profiles = self._trt.seen["plans"].get(serialized_engine)
        compatible = "VERSION_COMPATIBLE" in self._trt.seen["config"]._set  # of the last build
        if profiles is None or (compatible and not self.__dict__.get("_engine_host_code_allowed")):
            return None
        model = onnx.load_from_string(bytes(serialized_engine))
        tensors = {tensor.name: tensor for tensor in (*model.graph.input, *model.graph.output)}
        state = {
            "model": model,
            "tensors": tensors,
            "profiles": profiles,
            "num_io_tensors": len(tensors),
            "num_optimization_profiles": max(len(profiles), 1),
        }
        return _create(self._trt, "ICudaEngine", **state)


class _Engine:
    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        known = {tensor.name for tensor in self._model.graph.input}
        return self._trt.TensorIOMode.INPUT if name in known else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return _tensor(self._trt, self._tensors[name])._dtype

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.HOST if name.startswith("host_") else self._trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return list(self._profiles[profile_index][name])

    def create_engine_inspector(self) -> Any:
        return _create(self._trt, "EngineInspector", engine=self)

    def create_execution_context(self) -> Any:
        return _create(self._trt, "IExecutionContext", engine=self, shapes={}, addresses={}, allocators={}, at=0)


class _Inspector:
    """As NVIDIA's documentation shows it: names alone, but for engines of detailed verbosity."""

    def get_engine_information(self, format: Any) -> str:
        assert format is self._trt.LayerInformationFormat.JSON
        if "information" in self._trt.seen:
            return self._trt.seen["information"]
        model = self._engine._model
        detailed = self._trt.seen["config"]._profiling_verbosity is self._trt.ProfilingVerbosity.DETAILED
        layers = [
            {
                "Name": node.name,
                "LayerType": node.op_type,
                "Inputs": [
                    {"Name": name, "Format/Datatype": FORMATS[_typed(self._trt, model, name)._dtype.name]}
                    for name in node.input
                ],
            }
            for node in model.graph.node
        ]
        return json.dumps({"Layers": layers if detailed else [layer["Name"] for layer in layers]})


class _Context:
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fixed = _tensor(self._trt, self._engine._tensors[name])._shape
        low, _, high = self._engine._profiles[self._at][name] if -1 in fixed else (fixed, fixed, fixed)
        if len(shape) != len(low) or not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._trt.seen.setdefault("chosen", []).append(int(profile_index))
        self.__dict__["_at"] = int(profile_index)
        return self._at < len(self._engine._profiles)

    def infer_shapes(self) -> list[str]:
        return [tensor.name for tensor in self._engine._model.graph.input if tensor.name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        model = onnx.ModelProto()
        model.CopyFrom(self._engine._model)
        for tensor in model.graph.input:
            for dim, size in zip(tensor.type.tensor_type.shape.dim, self._shapes[tensor.name], strict=True):
                dim.dim_value = size
        for tensor in model.graph.output:
            tensor.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        return _tensor(self._trt, next(tensor for tensor in inferred if tensor.name == name))._shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        _require_ready(output_allocator)
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        shapes, addresses = dict(self._shapes), dict(self._addresses)  # what a CUDA graph keeps
        self._trt.device.execute(lambda: _executed(self, shapes, addresses, stream_handle), stream_handle)
        return True


def _executed(context: Any, shapes: dict[str, Any], addresses: dict[str, int], stream_handle: int) -> None:
    model = context._engine._model
    fed = {}
    for tensor in model.graph.input:
        shape = shapes[tensor.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)
        size = int(np.prod(shape)) * dtype.itemsize
        fed[tensor.name] = np.frombuffer(ctypes.string_at(addresses[tensor.name], size), dtype).reshape(shape)
    for name, value in ort.run(ort.session(model.SerializeToString()), fed).items():
        array = np.ascontiguousarray(value)
        address = addresses.get(name)
        if name in context._allocators:
            address = context._allocators[name].reallocate_output_async(name, 0, array.nbytes, 256, stream_handle)
            context._allocators[name].notify_shape(name, array.shape)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)


def _tensor(module: types.ModuleType, tensor: onnx.ValueInfoProto) -> Any:
    kind = tensor.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    dtype = module.DataType[KINDS[kind.elem_type]]
    return _create(module, "ITensor", name=tensor.name, dtype=dtype, shape=shape, is_shape_tensor=False)


def _calibrate(module: types.ModuleType, network: Any, config: Any) -> None:
    """What implicit int8 may not be mixed with, by TensorRT 10's documentation, and what it reads."""
    calibrator = config.__dict__.get("_int8_calibrator")
    explicit = any(node.op_type == "DequantizeLinear" for node in network._model.graph.node)
    strong = bool(module.seen["flags"] & 1 << 1)
    if calibrator is None:
        assert "INT8" not in config._set
        return
    _require_ready(calibrator)
    assert "INT8" in config._set
    assert not strong
    assert not explicit
    assert isinstance(calibrator.get_batch_size(), int)
    module.seen["cache"] = calibrator.read_calibration_cache()
    calibrator.write_calibration_cache(b"")


def _typed(module: types.ModuleType, model: onnx.ModelProto, name: str) -> Any:
    """The tensor of that name, by ONNX's own inference of types."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in graph.initializer:
        values[tensor.name] = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
    return _tensor(module, values[name])


def _require_ready(derived: Any) -> None:
    if not derived.__dict__.get("_ready"):
        raise TypeError(f"{type(derived).__name__}: TensorRT's __init__ was not called")


BODIES: dict[str, type] = {
    "Builder": _Builder,
    "EngineInspector": _Inspector,
    "IBuilderConfig": _Config,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "IInt8EntropyCalibrator2": _Derived,
    "ILayer": _Layer,
    "ILogger": _Derived,
    "INetworkDefinition": _Network,
    "IOptimizationProfile": _Profile,
    "IOutputAllocator": _Derived,
    "IProgressMonitor": _Derived,
    "ITimingCache": _TimingCache,
    "OnnxParser": _Parser,
    "ParserError": _ParserError,
    "Runtime": _Runtime,
}
