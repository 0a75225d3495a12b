"""Layers by precision: of the network as it was parsed, and of the built engine where its inspector tells of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from qntz.builtin._tensorrt_watch import last_errors, make_logger

SPELLED = {"FLOAT": "fp32", "HALF": "fp16"}  # of TensorRT's types; the others are its own names in small letters
PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
PASSED = ("SHUFFLE", "CAST", "SQUEEZE", "UNSQUEEZE")  # what may stand between a weight's Q/DQ and its product
UNCOUNTED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE")
_TYPES = {  # as inspectors spell them: "Half", "Row major linear FP16 format", "... vectorized row major Int8 format"
    "bf16": r"BF16|BFloat16",
    "fp16": r"FP16|Half",
    "fp8": r"FP8",
    "fp4": r"FP4",
    "fp32": r"FP32|Float32|Float",
    "int8": r"Int8",
    "int4": r"Int4",
    "int32": r"Int32",
    "int64": r"Int64",
    "uint8": r"UInt8",
    "bool": r"Bool",
}
_TYPE = {name: re.compile(rf"\b({spelled})\b", re.IGNORECASE) for name, spelled in _TYPES.items()}
UNTOLD = "untold"


def network_layers(network: Any) -> dict[str, int]:
    """How many layers of a parsed network compute in each precision; the builder fuses them and may add others.

    That of a convolution or product is the number format behind the Q/DQ that it reads, where it reads any; that of
    any other layer the type that it gives. Constants, Q and DQ are not counted.
    """
    behind: dict[str, str] = {}  # by tensor that is a dequantized one: the number format
    found: Counter[str] = Counter()
    names = _Names()
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        kind = names.of(layer.type)
        if kind == "DEQUANTIZE":
            behind[layer.get_output(0).name] = _spelled(names.of(layer.get_input(0).dtype))
        if kind in UNCOUNTED:
            continue
        formats = _formats(layer, behind) if kind in (*PRODUCTS, *PASSED) else []
        if formats and kind in PASSED:
            behind[layer.get_output(0).name] = formats[0]
        given = _spelled(names.of(layer.get_output_type(0)))
        found[formats[-1] if formats and kind in PRODUCTS else given] += 1
    return dict(sorted(found.items()))


def _formats(layer: Any, behind: Mapping[str, str]) -> list[str]:
    inputs = (layer.get_input(index) for index in range(layer.num_inputs))
    return [behind[tensor.name] for tensor in inputs if tensor is not None and tensor.name in behind]


class _Names:
    """Names of TensorRT's enumerations, each asked once: it looks through all of its values for it."""

    def __init__(self) -> None:
        self._known: dict[tuple[type, int], str] = {}

    def of(self, value: Any) -> str:
        key = type(value), int(value)
        if key not in self._known:
            self._known[key] = value.name
        return self._known[key]


def _spelled(name: str) -> str:
    return SPELLED.get(name, name.lower())


def engine_layers(trt: ModuleType, plan: memoryview, *, holds_code: bool) -> tuple[list[dict[str, str]], str]:
    """The layers of a built engine in their order, each with its name, kind, precision and the format of what it reads;
    and why they are not told, "" where they are. It needs a machine that can load the engine, and an engine that was
    built with `verbosity: detailed`.

    Args:
        holds_code: of a version-compatible plan, as `EngineRunner` has it.
    """
    logger = make_logger(trt, drop_driver_noise=False)
    try:
        runtime = trt.Runtime(logger)
    except (TypeError, RuntimeError):
        return [], last_errors(logger)
    if holds_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return [], last_errors(logger)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = list(_read(json.loads(text)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [], f"the inspector's JSON is none that is known ({type(error).__name__}: {error})"
    return layers, "" if layers else "the inspector tells of no layer"


def counted(layers: list[dict[str, str]]) -> dict[str, int]:
    """How many layers there are of each precision."""
    return dict(sorted(Counter(layer["precision"] for layer in layers).items()))


def _read(told: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for layer in told["Layers"]:
        tensors = layer.get("Inputs") or layer.get("Outputs") or [{}]
        format = str(tensors[0].get("Format/Datatype", ""))
        yield {
            "name": str(layer["Name"]),
            "kind": str(layer.get("LayerType", "")),
            "precision": next((name for name, known in _TYPE.items() if known.search(format)), UNTOLD),
            "format": format,
        }
