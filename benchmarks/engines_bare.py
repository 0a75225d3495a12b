"""A bare builder script, as one writes it by hand: `python engines_bare.py GRAPH PLAN SETTINGS`.

SETTINGS is JSON: `inputs` with [name, min, opt, max] of each dynamic input, `capabilities` as TensorRT-RTX names them.
It prints JSON: CPU and wall seconds from the first call of TensorRT to the engine, imports and writing left out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt


def build(graph: str, settings: dict[str, Any]) -> Any:
    """The engine, as TensorRT-RTX holds it; ends the program with the parser's words where it is refused."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(graph):
        sys.exit("\n".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings["capabilities"]:
        config.num_compute_capabilities = len(settings["capabilities"])
    for index, name in enumerate(settings["capabilities"]):
        config.set_compute_capability(trt.ComputeCapability.__members__[name.upper()], index)
    if settings["inputs"]:
        profile = builder.create_optimization_profile()
        for name, *shapes in settings["inputs"]:
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit("the builder makes no engine")
    return plan


if __name__ == "__main__":
    cpu, wall = time.process_time(), time.perf_counter()
    plan = build(sys.argv[1], json.loads(sys.argv[3]))
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    with Path(sys.argv[2]).open("wb") as file:
        file.write(plan)
    print(json.dumps(seconds))
