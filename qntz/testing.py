"""One-line tests for the author of a rewrite: it matches and is equal, it leaves something alone, it refuses.

from qntz.testing import assert_equal, assert_refused, assert_unmatched

def test_rotary():
    assert_equal(REWRITE, Rotary(), [x], [longer])
    assert_unmatched(REWRITE, nn.Linear(2, 2), [x])
    assert_refused(REWRITE, Rotary(base=0), [x], why="base")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from qntz import plugins
from qntz.config import OPSET
from qntz.errors import QntzError, RewriteError
from qntz.records import Provided
from qntz.selftest import Calls, Run, run_with

PROVIDER = "under test"


def assert_equal(record: Any, model: Any, *runs: Any, opset: int = OPSET) -> Run:
    """The record fires on the model, which is right with it, captured and under ONNX Runtime, on all runs.

    Args:
        record: a ModuleRewrite, FunctionRewrite, Symbolic, Translation or GraphPass. model: a torch.nn.Module, or a
        function of tensors. runs: inputs, each a tensor, a list or tuple of them, or a dict by name; unequal sizes are
        dynamic. opset: of the export.

    Returns:
        What was captured and exported, how often the record fired, and the worst error.

    Raises:
        AssertionError: in a line what is not so.
    """
    try:
        return _run(record, model, runs, opset)
    except QntzError as error:
        raise AssertionError(f"{record.name}: {error}") from error


def assert_unmatched(record: Any, model: Any, *runs: Any, opset: int = OPSET) -> None:
    """The record leaves the model alone. Arguments and errors as those of `assert_equal`."""
    try:
        run = _run(record, model, runs, opset)
    except RewriteError as error:
        if "did not fire" in str(error) and "declines" not in str(error):
            return
        raise AssertionError(f"{record.name}: {error}") from error
    except QntzError as error:
        raise AssertionError(f"{record.name}: {error}") from error
    raise AssertionError(f"{record.name} fired {run.fired} times")


def assert_refused(record: Any, model: Any, *runs: Any, why: str, opset: int = OPSET) -> None:
    """The record refuses the model, or declines it, and its reason holds `why`. Otherwise as `assert_equal`."""
    try:
        run = _run(record, model, runs, opset)
    except QntzError as error:
        if why not in str(error):
            raise AssertionError(f"{record.name} is refused for another reason: {error}") from error
        return
    raise AssertionError(f"{record.name} fired {run.fired} times and is right")


def _run(record: Any, model: Any, runs: Sequence[Any], opset: int) -> Run:
    given = [(run,) if isinstance(run, torch.Tensor) else run for run in runs]
    module = model if isinstance(model, torch.nn.Module) else _module(model, len(given[0]))
    return run_with(Provided(record, PROVIDER), module, given, plugins.load(Path.cwd()), opset)


def _module(function: Callable[..., Any], count: int) -> torch.nn.Module:
    return Calls(function, count)
