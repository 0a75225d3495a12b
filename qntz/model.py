"""The eager model: built from its factory, given its weights, called by input name, its outputs named."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from qntz.errors import ModelError, one_line
from qntz.records import Arrays

WRAPPED = "qntz_model"  # the attribute by which a capture that is wrapped holds the model; no exported name keeps it


def load_model(
    factory: Mapping[str, Any] | None, weights: str | None, torchscript: str | None, root: Path
) -> torch.nn.Module:
    """The model on the CPU in eval mode: from a factory `{_target_: package.module.Class, **arguments}` and a weights
    file, or from a saved TorchScript file. Paths are relative to `root`.

    Raises:
        ModelError: it cannot be imported, built or read, or its weights do not fit or hold NaN or infinity.
    """
    if torchscript is not None:
        module: torch.nn.Module = load_torchscript(root / torchscript)
    else:
        module = _built(factory or {})
        if weights is not None:
            _give_weights(module, read_weights(root / weights), weights)
    _require_finite(module, weights or torchscript or "model.factory")
    return module.eval()


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """A saved TorchScript file, on the CPU; raises ModelError where it is missing or none."""
    if not path.is_file():
        raise ModelError("the TorchScript file is missing", where=str(path), do="Check model.torchscript.")
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ModelError("is no TorchScript file", where=str(path), why=one_line(error)) from error


def _built(factory: Mapping[str, Any]) -> torch.nn.Module:
    target = str(factory["_target_"])
    module_name, _, attribute = target.rpartition(".")
    try:
        make = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever a module of the user's does when it is imported
        raise ModelError(
            f"{target} cannot be imported",
            where="model.factory._target_",
            why=one_line(error),
            do="Name a class or function that `python -c 'import ...'` finds from the project's root.",
        ) from error
    arguments = {key: value for key, value in factory.items() if key != "_target_"}
    torch.manual_seed(0)  # what is drawn where no weights are given has to be the same in every stage
    try:
        module = make(**arguments)
    except Exception as error:
        given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        raise ModelError(f"{target}({given}) fails", where="model.factory", why=one_line(error)) from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"{target} gives a {type(module).__name__}, no torch.nn.Module", where="model.factory._target_"
        )
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


def in_order(module: torch.nn.Module, names: Sequence[str]) -> list[str]:
    """The input names in the order of forward's parameters.

    Raises:
        ModelError: a name is no parameter of forward, or a parameter without default, or one between, has no input.
    """
    parameters = forward_parameters(module)
    expected, needed = list(parameters)[: len(names)], [name for name, has in parameters.items() if not has]
    if set(expected) != set(names) or not set(needed) <= set(names):
        raise ModelError(
            f"inputs {', '.join(names)} do not fit forward({', '.join(parameters)})",
            where="model.inputs",
            do="Name forward's first arguments, all without a default among them.",
        )
    return expected


def forward_parameters(module: torch.nn.Module) -> dict[str, bool]:
    """The names of forward's positional parameters, in order, and whether they have a default."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]  # the first is the module itself
        return {argument.name: argument.has_default_value() for argument in arguments}
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(module.forward).parameters
    return {n: p.default is not inspect.Parameter.empty for n, p in signature.items() if p.kind in plain}


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


def named_outputs(outputs: Any) -> dict[str, torch.Tensor]:
    """A model's outputs by name: "output" for a tensor, "output_0", ... for a tuple or list, the keys of a dict, the
    fields of a named tuple.

    Raises:
        ModelError: anything else among them.
    """
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    if hasattr(outputs, "_fields"):
        named = dict(zip(outputs._fields, outputs, strict=True))
    elif isinstance(outputs, Mapping):
        named = {str(key): value for key, value in outputs.items() if value is not None}
    elif isinstance(outputs, (tuple, list)):
        named = {f"output_{index}": value for index, value in enumerate(outputs)}
    else:
        raise ModelError(
            f"forward returns a {type(outputs).__name__}", do="Return tensors: one, a tuple, list or dict."
        )
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"output {name!r} is a {type(value).__name__}", do="Return tensors, not nested.")
    return named


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
            return module(*tensors(inputs, order))
    except Exception as error:
        shapes = ", ".join(f"{name} {inputs[name].dtype} {list(inputs[name].shape)}" for name in order)
        raise ModelError(
            "the model refuses its inputs", where=shapes, why=one_line(error), do="Check model.inputs and model.dims."
        ) from error
