"""The eager model: built from its factory, given its weights, called by input name, its outputs named."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from qntz.artifacts import CAPTURED_PROGRAM, CAPTURED_SCRIPT, digest_file
from qntz.callables import TARGET, resolved
from qntz.errors import ModelError, one_line
from qntz.records import Arrays
from qntz.trust import require_trusted

WRAPPED = "qntz_model"  # the attribute by which a capture that is wrapped holds the model; no exported name keeps it


def load_model(
    factory: Mapping[str, Any] | None,
    weights: str | None,
    saved: str | None,
    root: Path,
    trusted: str | None = None,
) -> torch.nn.Module:
    """The model on the CPU in eval mode: from a factory `{_target_: package.module.Class, **arguments}` and a weights
    file, or from a saved TorchScript file or exported program (.pt2), whose SHA-256 is `trusted`. Paths are relative to
    `root`.

    Raises:
        ConfigError: the saved file is another one than the trusted one, or none is trusted.
        ModelError: it cannot be imported, built or read, or its weights do not fit or hold NaN or infinity.
    """
    module: torch.nn.Module
    if saved is not None:
        is_program = Path(saved).suffix == Path(CAPTURED_PROGRAM).suffix
        if (root / saved).is_file():  # else the loader says so
            require_trusted("program" if is_program else "torchscript", saved, digest_file(root / saved), trusted)
        module = ProgramModule(load_program(root / saved)) if is_program else load_torchscript(root / saved)
    else:
        module = _built(factory or {})
        if weights is not None:
            _give_weights(module, read_weights(root / weights), weights)
    _require_finite(module, weights or saved or "model.factory")
    return module if isinstance(module, ProgramModule) else module.eval()


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """A saved TorchScript file, on the CPU; raises ModelError where it is missing or none."""
    if not path.is_file():
        raise ModelError("the TorchScript file is missing", where=str(path), do="Check model.torchscript.")
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # a damaged file fails in many ways
        raise _damaged("TorchScript file", path, error, "torch.jit.save") from error


def load_captured(folder: Path) -> torch.jit.ScriptModule | torch.export.ExportedProgram:
    """What the capture wrote: a TorchScript archive, or an exported program; raises ModelError where it is damaged."""
    program = folder / CAPTURED_PROGRAM
    return load_program(program) if program.exists() else load_torchscript(folder / CAPTURED_SCRIPT)


def load_program(path: Path) -> torch.export.ExportedProgram:
    """A saved exported program; raises ModelError where it is missing or none."""
    if not path.is_file():
        raise ModelError("the exported program is missing", where=str(path), do="Check model.program.")
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # a damaged file fails in many ways
        raise _damaged("exported program", path, error, "torch.export.save") from error


def _damaged(kind: str, path: Path, error: Exception, writer: str) -> ModelError:
    do = f"It may be cut short: write it again by {writer}."
    return ModelError(f"is no {kind}", where=str(path), why=one_line(error), do=do)


class ProgramModule(torch.nn.Module):
    """An exported program as a module: forward has its inputs' names, and refuses what its guards exclude, where they
    are asked for.

    Raises:
        ModelError: an input of the program is no tensor.
    """

    def __init__(self, program: torch.export.ExportedProgram, guards: bool = True) -> None:
        super().__init__()
        self.program, self.inner = program, program.module(check_guards=guards)
        for part in self.modules():
            part.training = False  # it was exported in one mode, and knows no other
        names = list(program.graph_signature.user_inputs)
        positional, named = program.call_spec.in_spec.children()
        count = positional.num_leaves
        if count + named.num_leaves != len(names) or count != positional.num_children:
            raise ModelError("an input of the exported program is no tensor", do="Export it with plain tensors.")
        keys = list(named.context or ())

        def forward(*inputs: torch.Tensor) -> Any:
            return self.inner(*inputs[:count], **dict(zip(keys, inputs[count:], strict=True)))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        named_as = [*names[:count], *keys]
        forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in named_as])  # type: ignore[attr-defined]
        self.forward = forward

    def train(self, mode: bool = True) -> ProgramModule:
        """Leaves it as it is, as torch does by an error."""
        return self


def _built(factory: Mapping[str, Any]) -> torch.nn.Module:
    target, where = str(factory[TARGET]), f"model.factory.{TARGET}"
    make = resolved(target, ModelError, where)
    # by name, in an order that no edit of the configuration changes
    arguments = {key: factory[key] for key in sorted(factory) if key != TARGET}
    torch.manual_seed(0)  # what is drawn where no weights are given has to be the same in every stage
    try:
        module = make(**arguments)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        raise ModelError(f"{target}({given}) fails", where="model.factory", why=one_line(error)) from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{target} gives a {type(module).__name__}, no torch.nn.Module", where=where)
    return module


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a .safetensors file, or from a .pt or .pth file read with weights_only=True.

    Raises:
        ModelError: it is missing, damaged, or a pickle of anything but tensors.
    """
    if not path.is_file():
        raise ModelError("the weights are missing", where=str(path), do="Check model.weights.")
    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            return safetensors.torch.load_file(str(path))
        except (safetensors.SafetensorError, ValueError) as error:
            raise ModelError(
                "the weights are damaged", where=str(path), why=one_line(error), do="Fetch them again."
            ) from error
    try:
        loaded = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        raise ModelError(
            "is no file of weights",
            where=str(path),
            why="it cannot be read with weights_only=True, and anything else could run code",
            do="Save model.state_dict(), best as .safetensors.",
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelError("holds no state dict", where=str(path), do="Save model.state_dict(), best as .safetensors.")
    return dict(loaded)


def _give_weights(module: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name in state and state[name].shape != tensor.shape:
            raise ModelError(
                "the weights do not fit the model",
                where=where,
                why=f"{name} is {list(state[name].shape)}, the model wants {list(tensor.shape)}",
                do="Check model.factory's arguments.",
            )
    for what, names in (
        ("lack", wanted.keys() - state.keys()),
        ("have a tensor that the model lacks:", state.keys() - wanted.keys()),
    ):
        if names:
            raise ModelError(
                f"the weights {what} {_few(names)}", where=where, do="Check model.factory and model.weights."
            )
    module.load_state_dict(dict(state))


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_finite(module: torch.nn.Module, where: str) -> None:
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        # a buffer may hold infinity: a mask that is added to scores
        broken = torch.isnan(tensor).any() or (name in parameters and not torch.isfinite(tensor).all())
        if broken:
            kind = "NaN" if torch.isnan(tensor).any() else "infinity"
            raise ModelError(f"{name} holds {kind}", where=where, do="Train or fetch the weights again.")


@dataclass(frozen=True)
class Parameter:
    """A parameter of forward. needed: it has no default. positional: it can be given without its name."""

    name: str
    needed: bool
    positional: bool


def forward_parameters(module: torch.nn.Module) -> dict[str, Parameter]:
    """forward's parameters by name, in order, without what collects others (`*args`, `**kwargs`); none of a forward
    that is a function of C, which does not tell."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]  # the first is the module itself
        return {a.name: Parameter(a.name, not a.has_default_value(), not a.kwarg_only) for a in arguments}
    collects = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: Parameter(name, one.default is inspect.Parameter.empty, one.kind is not inspect.Parameter.KEYWORD_ONLY)
        for name, one in _parameters(module).items()
        if one.kind not in collects
    }


def _parameters(module: torch.nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(module.forward).parameters
    except ValueError:  # as of torch.relu
        return {"inputs": inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD)}


def in_order(module: torch.nn.Module, names: Sequence[str]) -> list[str]:
    """The input names in the order of forward's parameters, and then those that its `**kwargs` take.

    Raises:
        ModelError: a name is no parameter of forward, or a parameter without default has no input.
    """
    parameters = forward_parameters(module)
    others = [name for name in names if name not in parameters]
    missing = [p.name for p in parameters.values() if p.needed and p.name not in names]
    if missing or (others and not _collects_names(module)):
        raise ModelError(
            f"inputs {', '.join(names)} do not fit forward({', '.join(parameters)})",
            where="model.inputs",
            why=f"{', '.join(others)} is no parameter" if others else f"{', '.join(missing)} has no default",
            do="Name forward's parameters, all without a default among them.",
        )
    return [*(name for name in parameters if name in names), *others]


def _collects_names(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return inspect.Parameter.VAR_KEYWORD in [one.kind for one in _parameters(module).values()]


def positional_count(module: torch.nn.Module, order: Sequence[str]) -> int:
    """How many of the inputs, in order, are given by their position: up to the first parameter that is left out."""
    count, parameters = 0, forward_parameters(module)
    if not parameters:
        return len(order)
    for name, parameter in zip(order, parameters.values(), strict=False):
        if name != parameter.name or not parameter.positional:
            break
        count += 1
    return count


def arrays_in(module: torch.nn.Module, inputs: Any) -> Arrays:
    """Inputs as arrays by name: of a dict by input name, of a tuple or list in the order of forward's parameters, or of
    the only one. An input that is None is left out.

    Raises:
        ModelError: an input is no tensor or array, is of a dtype that NumPy lacks, or has no parameter.
    """
    if isinstance(inputs, Mapping):
        given = {str(name): value for name, value in inputs.items()}
    else:
        values = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        names = [p.name for p in forward_parameters(module).values() if p.positional]
        if len(values) > len(names):
            raise ModelError(f"{len(values)} inputs do not fit forward({', '.join(names)})", do="Give them by name.")
        given = dict(zip(names, values, strict=False))
    return {name: _array(name, value) for name, value in given.items() if value is not None}


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        try:
            return value.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:
            raise ModelError(f"input {name!r} is {value.dtype}", why=one_line(error), do="Give float32.") from error
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    raise ModelError(
        f"input {name!r} is a {type(value).__name__}",
        why="an exported model takes tensors",
        do="Give a tensor, or make what is constant an argument of the model's class.",
    )


@contextlib.contextmanager
def evaluated(module: torch.nn.Module) -> Iterator[tuple[str, ...]]:
    """Keeps the module in evaluation mode; yields the paths of the submodules that were not ("" for the module)."""
    training = [(path, part) for path, part in module.named_modules() if getattr(part, "training", False)]
    try:
        if training:
            module.eval()
        yield tuple(path for path, _ in training)
    finally:
        for _, part in training:
            part.training = True


def tensors(inputs: Arrays, order: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """Copies of the arrays as tensors, in order, so that a model that writes on its inputs spoils nothing."""
    return tuple(torch.from_numpy(inputs[name].copy()) for name in order)


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Keeps torch.nn's attention and transformer layers from the fused kernels that they take in evaluation mode
    without gradients (`_native_multi_head_attention`), which no exporter translates."""
    kept = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(kept)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what torch.export prints and logs, whole graphs, from the terminal: what matters it raises."""
    kept = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(kept)


def compiled(module: Any) -> Any:
    """The module or function as torch.jit.script compiles it; raises what that raises."""
    try:
        return torch.jit.script(module)
    except RuntimeError as error:
        if "Can't redefine method" not in str(error):
            raise
        # torch keeps the half type of a class that it once refused, and then no longer says why: so with a type apart
        from torch.jit import _recursive

        return _recursive.create_script_module(module, _recursive.infer_methods_to_compile, share_types=False)


def named_outputs(outputs: Any) -> dict[str, torch.Tensor]:
    """A model's outputs by name: "output" for a tensor, "output_0", ... for a tuple or list, the keys of a dict, the
    fields of a named tuple; of one within another both, "hidden_0", and none for None.

    Raises:
        ModelError: anything else among them; no tensor at all; two outputs with one name.
    """
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    if _parts(outputs) is None:
        raise ModelError(
            f"forward returns a {type(outputs).__name__}", do="Return tensors: one, a tuple, list or dict."
        )
    named: dict[str, torch.Tensor] = {}
    for name, value in _leaves(
        outputs, "" if isinstance(outputs, Mapping) or hasattr(outputs, "_fields") else "output"
    ):
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"output {name!r} is a {type(value).__name__}", do="Return tensors alone.")
        if name in named:
            raise ModelError(f"two outputs have the name {name!r}", do="Give the dict another key.")
        named[name] = value
    if not named:
        raise ModelError("forward returns no tensor", do="Return tensors: one, a tuple, list or dict.")
    return named


def plain_leaves(value: Any) -> list[np.ndarray]:
    """The tensors, arrays and numbers in any structure, as arrays; what stands for a tensor (`as_tensor`) as that."""
    leaves = pytree.tree_leaves(value, is_leaf=lambda one: hasattr(one, "as_tensor"))
    found = (one.as_tensor() if hasattr(one, "as_tensor") else one for one in leaves if one is not None)
    return [one.detach().resolve_conj().numpy() if isinstance(one, torch.Tensor) else np.asarray(one) for one in found]


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = _parts(value)
    if parts is None:
        yield name, value
    else:
        for key, part in parts:
            if part is not None:
                yield from _leaves(part, f"{name}_{key}" if name else key)


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a dict, named tuple, tuple or list holds, by key; None of anything else."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    return [(str(index), part) for index, part in enumerate(value)] if isinstance(value, (tuple, list)) else None


def run_model(module: torch.nn.Module, inputs: Arrays, order: Sequence[str]) -> Arrays:
    """The model's outputs as arrays by name, for arrays by input name, without gradients.

    Raises:
        ModelError: forward raises; with the shapes that it was given.
    """
    return arrays_of(call(module, inputs, order))


def arrays_of(outputs: Any) -> Arrays:
    """A model's outputs as arrays by name; raises ModelError as `run_model`."""
    arrays = {}
    for name, tensor in named_outputs(outputs).items():
        try:
            arrays[name] = tensor.detach().numpy()
        except (TypeError, RuntimeError) as error:  # bfloat16, sparse or complex views: NumPy has none
            raise ModelError(
                f"output {name!r} is {tensor.dtype}", why=one_line(error), do="Return float32 from forward."
            ) from error
    return arrays


def call(module: torch.nn.Module, inputs: Arrays, order: Sequence[str]) -> Any:
    """What forward returns for arrays by input name, without gradients; raises ModelError as `run_model`."""
    try:
        with torch.no_grad():
            given = tensors(inputs, order)
            count = positional_count(module, order)
            return module(*given[:count], **dict(zip(order[count:], given[count:], strict=True)))
    except (Exception, SystemExit) as error:
        shapes = ", ".join(f"{name} {inputs[name].dtype} {list(inputs[name].shape)}" for name in order)
        raise ModelError(
            "the model refuses its inputs", where=shapes, why=one_line(error), do="Check model.inputs and model.dims."
        ) from error
