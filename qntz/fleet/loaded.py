"""Importing it loads the libraries that most stages import, for what is forked afterwards (`qntz.fleet.warm`). One that
does not load is left to the stage that needs it, and says why."""

from __future__ import annotations

import contextlib
import gc
import importlib

LIBRARIES = ("numpy", "torch", "onnx", "onnxruntime", "safetensors.torch", "yaml", "rich.console", "rich.table")

for _name in LIBRARIES:
    with contextlib.suppress(Exception):
        importlib.import_module(_name)
gc.collect()
gc.freeze()  # pages that no collection writes on stay shared
