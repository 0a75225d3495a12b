"""One interface to run any artifact of a model (`qntz.records.Runner`): the eager model, compiled or not, its capture,
its graph under ONNX Runtime, an engine. PyTorch's are here, ONNX Runtime's is `qntz.ort.SessionRunner`, an engine is
loaded by its backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz.errors import ArtifactError, BackendError, ConfigError, ModelError, did_you_mean, one_line
from qntz.records import Arrays, Bound, Runner

if TYPE_CHECKING:
    import torch

    from qntz.config import EngineConfig


class TorchRunner:
    """A module, a ScriptModule or an exported program on a device.

    Args:
        order: the inputs' names as forward takes them. device: as torch names it, "cpu" or "cuda". compiled: by
        torch.compile, anew for each binding, so that no size is taken for a dynamic one.
    """

    def __init__(self, module: Any, order: Sequence[str], *, device: str = "cpu", compiled: bool = False):
        import torch

        if isinstance(module, torch.export.ExportedProgram):
            module = module.module()
        self._module = module if device == "cpu" else module.to(device)
        self._order, self._device, self._compiled = tuple(order), device, compiled

    def run(self, inputs: Arrays) -> Arrays:
        """One run; raises ModelError where the model refuses its inputs, BackendError where it cannot be compiled."""
        bound = self.bind(inputs)
        bound.start()
        return bound.outputs()

    def bind(self, inputs: Arrays) -> BoundModule:
        """The module with its inputs on the device; raises as `run`."""
        import torch

        from qntz.model import positional_count, tensors

        module = self._module
        given = [tensor.to(self._device) for tensor in tensors(inputs, self._order)]
        count = positional_count(module, self._order)
        named = dict(zip(self._order[count:], given[count:], strict=True))
        if self._compiled:
            torch._dynamo.reset()  # which keeps a few compilations of a forward, and then runs it as it is
            module = torch.compile(module, dynamic=False)
        return BoundModule(module, given[:count], named, self._device)


class BoundModule:
    """A module with its inputs in place, as `qntz.records.Bound`."""

    def __init__(self, module: Any, given: Sequence[torch.Tensor], named: dict[str, torch.Tensor], device: str):
        self._module, self._given, self._named, self._device = module, given, named, device
        self._outputs: Any = None

    def start(self) -> None:
        import torch

        try:
            with torch.inference_mode():
                self._outputs = self._module(*self._given, **self._named)
        except Exception as error:  # the model's, or the compiler's
            kind = (
                ModelError
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
                else BackendError
            )
            raise kind("the model does not run", why=one_line(error)) from error

    def wait(self) -> None:
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize()

    def outputs(self) -> Arrays:
        from qntz.model import arrays_of

        return arrays_of(self._outputs)

    def close(self) -> None:
        self._outputs = None


def engine_config(record: Path) -> EngineConfig:
    """The backend and the options that an engine was built with, as its engine.json says; raises ArtifactError where
    that is missing or damaged."""
    from qntz.config import EngineConfig, build
    from qntz.engine_record import AGAIN, read_engine_record

    told = read_engine_record(record, ("backend", "options"))
    try:
        config: EngineConfig = build(EngineConfig, {"backend": told["backend"], **told["options"]}, "engine")
    except ConfigError as error:
        raise ArtifactError("is no record of an engine", where=str(record), why=one_line(error), do=AGAIN) from error
    return config


def load_engine(folder: Path | str, root: Path | str = ".") -> Runner:
    """The engine in a folder, build/models/<model>/engines/<engine>, ready to run, as its engine.json says.

    Args:
        root: of the project, for the plugins that may have its backend.

    Raises:
        ArtifactError: the engine or its record is missing or damaged.
        BackendError: its backend is not here, or the engine cannot be run on this machine.
    """
    from qntz.plugins import load

    plan, config = Path(folder) / "model.engine", engine_config(Path(folder) / "engine.json")
    backends = load(Path(root), "verify").records("qntz_backends")
    if config.backend not in backends:
        raise BackendError(f"no backend {config.backend!r}", where=str(plan), do=did_you_mean(config.backend, backends))
    backend = backends[config.backend]
    why = backend.why_not_run(config)
    if why is not None:
        raise BackendError("the engine cannot be run here", where=str(plan), why=why)
    runner: Runner = backend.load(plan, config)
    return runner


def bind(runner: Runner, inputs: Arrays) -> Bound:
    """What a runner makes of its inputs to be run again and again; of one without `bind`, its `run` with them."""
    made = getattr(runner, "bind", None)
    bound: Bound = _Plain(runner, inputs) if made is None else made(inputs)
    return bound


class _Plain:
    def __init__(self, runner: Runner, inputs: Arrays):
        self._runner, self._inputs = runner, inputs
        self._outputs: Arrays = {}

    def start(self) -> None:
        self._outputs = self._runner.run(self._inputs)

    def wait(self) -> None: ...

    def outputs(self) -> Arrays:
        return self._outputs

    def close(self) -> None: ...
