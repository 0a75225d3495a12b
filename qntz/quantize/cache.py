"""TensorRT's calibration cache (TensorRT 10 and earlier) and ranges.json: written, read, and held against one another.

The cache has a line `TRT-<version>-<calibrator>`, then one for each tensor with its scale, amax / 127, as the hex of a
big-endian float32.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

from qntz.errors import QuantizeError, one_line
from qntz.quantize.formats import FORMATS, INT8, Format
from qntz.quantize.ranges import scale_of

TENSORRT_VERSION = 101600
"""In the cache's header: TensorRT 10.16, the last line of versions that reads calibration caches."""
_HEADER = re.compile(r"TRT-(\d+)-\w+")
_LAST = 11_00_00  # the first version that has no calibration any more


def as_cache(ranges: Mapping[str, float]) -> str:
    """The calibration cache of ranges, amax by tensor; raises QuantizeError where float32 has no such scale."""
    lines = [f"TRT-{TENSORRT_VERSION}-EntropyCalibration2"]
    lines += [f"{tensor}: {struct.pack('>f', _scale(tensor, ranges[tensor])).hex()}" for tensor in sorted(ranges)]
    return "\n".join(lines) + "\n"


def as_json(ranges: Mapping[str, float], precision: str, method: str) -> dict[str, Any]:
    """The content of ranges.json: amax and scale (amax / 127, for fp8 amax / 448) of each quantized activation, in the
    tensor's units; raises QuantizeError as `as_cache` does."""
    format = FORMATS.get(precision, INT8)
    tensors = {name: {"amax": amax, "scale": _scale(name, amax, format)} for name, amax in ranges.items()}
    return {"precision": precision, "method": method, "tensors": tensors}


def _scale(tensor: str, amax: float, format: Format = INT8) -> float:
    scale = float(scale_of(amax, format))
    if not 0 < scale < math.inf:
        raise QuantizeError(f"amax {amax:g} of {tensor!r} has no scale in float32", where="ranges")
    return scale


def read_ranges(text: str, where: str) -> dict[str, float]:
    """amax by tensor, of a calibration cache or of ranges.json, whichever the text is, in its order.

    Raises:
        QuantizeError: it is neither, or a line or value is none; `where` and the line are named.
    """
    return _of_json(text, where) if text.lstrip()[:1] == "{" else _of_cache(text, where)


def precision_of(text: str) -> str:
    """Of a text that `read_ranges` takes: int8 but for a ranges.json that says otherwise."""
    told = json.loads(text) if text.lstrip()[:1] == "{" else {}
    precision = told.get("precision")
    return precision if precision in FORMATS else INT8.name


def missing(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The tensors that only the first has, and those that only the second has, sorted."""
    return sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())


def _of_cache(text: str, where: str) -> dict[str, float]:
    header, *lines = text.splitlines() or [""]
    found = _HEADER.fullmatch(header.strip())
    if found is None:
        do = "It begins with TRT-<version>-<calibrator>."
        raise QuantizeError("is no calibration cache and no ranges.json", where=where, do=do)
    if _packed_version(found[1]) >= _LAST:
        raise QuantizeError(f"is of version {found[1]}", where=where, why="TensorRT 11 has no calibration caches")
    ranges: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        tensor, mark, digits = line.rpartition(": ")
        place = f"{where}:{number}"
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits.strip()))
        except (ValueError, struct.error):
            scale = math.nan
        if not (mark and tensor and math.isfinite(scale) and scale > 0):
            do = "A line is a tensor, a colon, and the 8 hex digits of its scale."
            raise QuantizeError(f"{line!r} is no scale", where=place, do=do)
        if tensor in ranges:
            raise QuantizeError(f"tensor {tensor!r} is there twice", where=place)
        ranges[tensor] = scale * INT8.largest
    return ranges


def _packed_version(digits: str) -> int:
    """TensorRT 10 and later write 101600 for 10.16.0, those before 8601 for 8.6.1: as if all wrote the longer one."""
    number = int(digits)
    return number if number >= 100_000 else number // 1000 * 10_000


def _of_json(text: str, where: str) -> dict[str, float]:
    try:
        tensors = json.loads(text)["tensors"]
        ranges = {str(name): float(entry["amax"]) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuantizeError("is no ranges.json", where=where, why=one_line(error)) from error
    for name, amax in ranges.items():
        if not (math.isfinite(amax) and amax > 0):
            raise QuantizeError(f"amax of {name!r} is {amax}", where=where, do="It is a number above 0.")
    return ranges
