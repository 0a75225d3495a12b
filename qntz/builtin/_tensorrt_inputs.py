"""The inputs of a network: held against the model's specification, and their shape ranges given to the builder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qntz.builtin._tensorrt_run import NUMPY
from qntz.builtin._tensorrt_watch import last_errors
from qntz.errors import BackendError
from qntz.records import TensorSpec


def _dtype(tensor: Any) -> str:
    return NUMPY.get(tensor.dtype.name, {"BF16": "bfloat16"}.get(tensor.dtype.name, tensor.dtype.name.lower()))


def fitted(network: Any, specs: Mapping[str, TensorSpec], where: str) -> tuple[TensorSpec, ...]:
    """The network's inputs with their shape ranges; raises BackendError where a specification does not fit."""
    found = []
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        name, shape = tensor.name, tuple(tensor.shape)
        if tensor.is_shape_tensor:
            why = "qntz sets ranges for shapes, not for values"
            raise BackendError(f"input {name!r} is used as a shape", where=where, why=why, do="Make it a constant.")
        spec = specs.get(name)
        if spec is None:
            known = ", ".join(sorted(specs)) or "nothing"
            raise BackendError(f"input {name!r} has no specification", where=where, why=f"model.inputs has {known}")
        if spec.dtype != _dtype(tensor):
            why = f"model.inputs says {spec.dtype}"
            raise BackendError(f"input {name!r} is {_dtype(tensor)} in the graph", where=where, why=why)
        for sizes in (shape for one in spec.ranges for shape in one):
            if len(sizes) != len(shape) or any(d not in (-1, s) for d, s in zip(shape, sizes, strict=True)):
                why = f"model.inputs and model.dims give {list(sizes)}"
                raise BackendError(f"input {name!r} is {list(shape)} in the graph", where=where, why=why)
        found.append(spec)
    return tuple(found)


def add_profiles(
    builder: Any, options: Any, network: Any, specs: Iterable[TensorSpec], logger: Any, where: str
) -> bool:
    """Sets the shape ranges of the dynamic inputs, profile by profile; False where there is none, and so no profile."""
    shapes = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    ranges = [spec for spec in specs if -1 in shapes[spec.name]]
    if not ranges:
        return False
    for index in range(len(ranges[0].ranges)):
        profile = builder.create_optimization_profile()
        for spec in ranges:
            profile.set_shape(spec.name, *spec.ranges[index])
        if options.add_optimization_profile(profile) < 0:
            named = ", ".join(f"{s.name} {' '.join(str(list(shape)) for shape in s.ranges[index])}" for s in ranges)
            raise BackendError(f"the shape ranges are refused ({named})", where=where, why=last_errors(logger))
    return True


def as_built(tensor: Any) -> TensorSpec:
    shape = tuple(tensor.shape)
    return TensorSpec(tensor.name, _dtype(tensor), shape, shape, shape)
