"""What is timed: a model, a capture, a graph or an engine, told so that a process of its own can open it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qntz.config import EngineConfig
from qntz.ort import SessionRunner
from qntz.records import Arrays, Bound, Runner

EAGER, COMPILED, CAPTURED, GRAPH = "eager", "torch.compile", "torchscript", "graph"
BACKEND, TRTEXEC = "backend", "trtexec"


@dataclass(frozen=True)
class Subject:
    """One runtime of one artifact.

    Attributes:
        name: for the reader, unique in a run. kind: what runs it: EAGER, COMPILED, CAPTURED, GRAPH (ONNX Runtime),
        BACKEND or TRTEXEC. root: the project's. path: of the capture's folder, the graph or the plan. model: for EAGER
        and COMPILED what `qntz.model.load_model` takes, by name. order: the inputs as forward takes them; of TRTEXEC
        the engine's. device: of PyTorch and GRAPH, "cpu" or "cuda". backend: of BACKEND and TRTEXEC, with its engine's
        configuration. graph: as a CUDA graph.
    """

    name: str
    kind: str
    root: Path
    path: Path = Path()
    model: dict[str, Any] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    device: str = "cpu"
    backend: str = ""
    engine: EngineConfig = field(default_factory=EngineConfig)
    graph: bool = False


def opened(subject: Subject) -> Runner:
    """The subject, ready to run; raises the QntzError of what it is opened by."""
    if subject.kind == BACKEND:
        from qntz.plugins import load

        runner: Runner = (
            load(subject.root, "verify").records("qntz_backends")[subject.backend].load(subject.path, subject.engine)
        )
        return runner
    if subject.kind == GRAPH:
        return SessionRunner(subject.path, device=subject.device)
    from qntz.model import in_order, load_captured, load_model
    from qntz.runtimes import TorchRunner

    if subject.kind == CAPTURED:
        return TorchRunner(load_captured(subject.path), subject.order, device=subject.device)
    module = load_model(**subject.model, root=subject.root)
    order = in_order(module, list(subject.order))
    return TorchRunner(module, order, device=subject.device, compiled=subject.kind == COMPILED)


def bound(subject: Subject, runner: Runner, inputs: Arrays) -> Bound:
    """The runner with its inputs in place, as the subject says; raises the QntzError of the runner."""
    from qntz.runtimes import bind

    if subject.graph:
        captured: Bound = runner.bind(inputs, graph=True)  # type: ignore[attr-defined]
        return captured
    return bind(runner, inputs)
