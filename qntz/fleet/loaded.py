"""Importing it loads the libraries that most stages import, for what is forked afterwards (`qntz.fleet.warm`). One that
does not load is left to the stage that needs it, and says why.

Not onnxruntime, which starts a thread and opens a database as soon as it is imported.
"""

from __future__ import annotations

import gc
import importlib
import os

FAILED: list[str] = []
LIBRARIES = ("numpy", "torch", "onnx", "safetensors.torch", "yaml", "rich.console", "rich.table")


def _load() -> None:
    kept = [os.dup(number) for number in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):  # what they say is said again in each stage that starts cold
        os.dup2(null, number)
    try:
        for name in LIBRARIES:
            try:
                importlib.import_module(name)
            except (Exception, SystemExit):  # which the stage that needs it tells
                FAILED.append(name)
    finally:
        for number, one in enumerate(kept, start=1):
            os.dup2(one, number)
            os.close(one)
        os.close(null)
    gc.collect()
    gc.freeze()  # pages that no collection writes on stay shared


_load()
