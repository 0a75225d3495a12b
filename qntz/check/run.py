"""How a run of a check is made: a model called on its example or a probe, and left as it was."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import sys
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from qntz.check.index import SourceIndex
from qntz.check.places import owner_of, shown_path
from qntz.check.record import Log, Recorder
from qntz.check.state import State, buffers_kept, seeded
from qntz.check.subject import Inputs
from qntz.check.traced import tensors_of
from qntz.compare import relative_error
from qntz.errors import ModelError, one_line
from qntz.model import forward_parameters, in_order, positional_count

TOLERANCE = 1e-5  # of the largest magnitude; both runs use the same kernels, so anything above it is a real difference
_NUMERIC = (torch.Tensor, np.ndarray, np.generic, int, float, complex)


class Runner:
    """Runs a model on its inputs. What `State` keeps and the random generators are put back.

    Attributes:
        inputs: the example first, then the probes; each a mapping by input name in the order of forward's arguments,
        or a sequence. outputs: flat, of the runs that count, one for each. log: what recorded runs showed. ran: paths
        of the modules whose forward ran. streams: the generators of Python and NumPy that were drawn from. parts:
        the modules by their path, before any run.
    """

    def __init__(self, module: torch.nn.Module, inputs: Sequence[Inputs], index: SourceIndex) -> None:
        self.module, self.index = module, index
        self.inputs = [plain(one, module) for one in inputs]
        names = list(self.inputs[0]) if isinstance(self.inputs[0], Mapping) else []
        known = set(names) & set(forward_parameters(module))
        self.invoke = functools.partial(invoke, names=names[positional_count(module, names) :] if known else ())
        tensors = [*module.parameters(), *module.buffers(), *named(self.inputs[0]).values()]
        if any(tensor.is_nested for tensor in named(self.inputs[0]).values()):
            raise ModelError("nested tensors are no inputs of a capture", do="Give padded tensors and a mask.")
        if lazy := [name for name, value in module.named_parameters() if is_lazy(value)]:
            raise ModelError(
                "the model is not complete",
                where=lazy[0],
                why="the parameter has no shape before the first run",
                do="Run the model once before it is checked.",
            )
        self.log = Log(index, frozenset(str(tensor.device) for tensor in tensors) or frozenset(["cpu"]))
        self.outputs: list[list[Any]] = []
        self.ran: dict[str, None] = {}
        self.streams: set[str] = set()
        self.state = State(module, index)
        self._modules: list[str] = []
        self.parts = dict(module.named_modules())

    def plain(self, number: int, seed: int = 0, keep: bool = True) -> list[Any]:
        return self.run(number, contextlib.nullcontext(), seed=seed, keep=keep)

    def run(
        self, number: int, mode: Any, seed: int, arguments: Any = None, call: Any = None, keep: bool = True
    ) -> list[Any]:
        """The flat outputs of one run, made by `call` instead of a plain call where it is given; `keep` puts back the
        state that it changes.

        Raises:
            ModelError: with the model's own line, its error and the shapes of the inputs.
        """
        arguments = cloned(self.inputs[number]) if arguments is None else arguments
        kept = self.put_back() if keep else contextlib.nullcontext()
        silent = contextlib.redirect_stdout(io.StringIO())  # a model that prints would do so at each run
        # torch compiles the hooks of a module that it traces as one
        watched = contextlib.nullcontext() if getattr(call, "as_module", False) else self._watched()
        with watched, seeded(seed, self.streams), kept, silent, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the capture shows them; here each would come once a run
            try:
                with torch.inference_mode(False), torch.no_grad(), uncompiled(), mode:
                    outputs = (call or self.invoke)(self.module, positional(arguments))
                return cloned(pytree.tree_leaves(outputs))  # before the buffers among them are put back
            except (Exception, SystemExit) as error:
                raise self._model_error(error, number) from error

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """Runs within may leave state behind, which is gone afterwards."""
        try:
            with buffers_kept(self.module):
                yield
        finally:
            self.state.restore()

    def recorder(
        self, number: int, inputs: dict[str, torch.Tensor], frozen: Any = None, log: Log | None = None
    ) -> Recorder:
        """A mode that records a run into the log, or another; or that gives back frozen values by the leaks' keys."""
        return Recorder(log or self.log, number, inputs, self._modules, invoke.__code__, self.parts, frozen)

    def other_sizes(self) -> list[int]:
        """The runs whose inputs have other sizes than the example's, those first that differ in the most."""
        sizes = [[size for tensor in tensors_of(positional(i)) for size in tensor.shape] for i in self.inputs]
        differing = [sum(a != b for a, b in zip(sizes[0], one, strict=False)) for one in sizes]
        runs = [run for run, count in enumerate(differing) if count]
        return sorted(runs, key=lambda run: -differing[run])

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Hooks on every submodule, gone afterwards: which forwards run, and which is innermost."""
        self._modules.clear()
        handles, recorder = [], self.recorder(0, {})

        def entered(path: str) -> Any:
            def hook(*_: Any) -> None:
                self.ran.setdefault(path)
                self._modules.append(path)
                if getattr(self.parts.get(path), "training", False):
                    recorder.entered(path)

            return hook

        def left(*_: Any) -> None:
            self._modules.pop()

        try:
            for path, part in self.module.named_modules():
                if isinstance(part, torch.jit.ScriptModule):
                    continue  # takes no hooks
                handles.append(part.register_forward_pre_hook(entered(path)))
                handles.append(part.register_forward_hook(left, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _model_error(self, error: BaseException, number: int) -> ModelError:
        frames = list(traceback.walk_tb(error.__traceback__))
        own = [(f, line) for f, line in frames if owner_of(f.f_code.co_filename) == "user"]
        own = own or [(f, line) for f, line in frames if owner_of(f.f_code.co_filename) == "package"]
        where, line_text = type(self.module).__name__, ""
        if own:
            frame, line = own[-1]
            name = str(frame.f_globals.get("__name__", ""))
            file = self.index.sources.file(frame.f_code.co_filename, name)
            path = file.path if file else shown_path(frame.f_code.co_filename, name, self.index.sources.source_root)
            node = file.function(frame.f_code) if file else None
            where = f"{path}:{line} in {file.names[node] if file and node else frame.f_code.co_name}"
            line_text = f" at `{file.lines[line - 1].strip()}`" if file else ""
        which = "its example inputs" if number == 0 else f"probe {number - 1}"
        shapes = ", ".join(f"{n} {_dtype(t)} {list(t.shape)}" for n, t in named(self.inputs[number]).items())
        return ModelError(
            f"the model does not run on {which}",
            where=where,
            why=f"{one_line(error)}{line_text}, with {shapes or 'no tensors'}",
            do="Mend the model, or the shapes, dtypes and ranges of model.inputs.",
        )


def invoke(module: torch.nn.Module, arguments: Sequence[Any], names: Sequence[str] = ()) -> Any:
    """The model's call, with the last arguments given by these names."""
    count = len(arguments) - len(names)
    named_ones = dict(zip(names, arguments[count:], strict=True))
    return module(*arguments[:count], **named_ones)  # the frame that ends the model's stack


def uncompiled() -> Any:
    """Lets what torch.compile has made of a part run as Python: it would compile the modes that watch the run."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def plain(inputs: Any, module: torch.nn.Module) -> Inputs:
    """Inputs as a list or tuple, or as a dict in the order of forward's parameters; a tensor alone is the only one.

    Raises:
        ModelError: some of the names are forward's, and others are not or are missing.
    """
    if isinstance(inputs, torch.Tensor):
        return (inputs,)
    if isinstance(inputs, (list, tuple)):
        return inputs
    given = dict(inputs)
    if not set(given) & set(forward_parameters(module)):
        return given  # names of another kind: by their order
    return {name: given[name] for name in in_order(module, list(given))}


def positional(inputs: Inputs) -> list[Any]:
    return list(inputs.values()) if hasattr(inputs, "values") else list(inputs)


def named(inputs: Inputs) -> dict[str, torch.Tensor]:
    """The tensors among the inputs by a name: the input's, with the position where it is nested or has none."""
    pairs = inputs.items() if hasattr(inputs, "items") else ((f"argument {i}", v) for i, v in enumerate(inputs))
    found = {}
    for name, value in pairs:
        leaves = pytree.tree_leaves(value)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                found[str(name) if len(leaves) == 1 else f"{name}[{i}]"] = leaf
    return found


def cloned(values: Any) -> Any:
    """Nested values with tensors of their own; other objects are copied where they can be."""

    def own(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return value
        if isinstance(value, types.MappingProxyType):
            return types.MappingProxyType(cloned(dict(value)))
        try:
            return copy.deepcopy(value)
        except Exception:  # what an object's own code raises when it is copied; then the object itself has to do
            return value

    return pytree.tree_map(own, values)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def same(one: Sequence[Any], other: Sequence[Any], tolerance: float = TOLERANCE) -> bool:
    """Whether two flat outputs are equal: same count, and each within the tolerance of the largest magnitude."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(_equal(a, b, tolerance) for a, b in pairs)


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, _NUMERIC) and isinstance(other, _NUMERIC):
        return relative_error(_array(one), _array(other)) <= tolerance
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):  # a class of the user's that pytree does not know
        return same(list(vars(one).values()), list(vars(other).values()), tolerance)
    return not isinstance(one, (str, bytes)) or one == other


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    if value.device.type == "meta":
        return np.zeros(tuple(value.shape))
    value = value.detach().cpu()
    if value.is_nested:
        value = torch.nested.to_padded_tensor(value, 0.0)
    elif value.is_quantized:
        value = value.dequantize()
    elif value.layout is not torch.strided:
        value = value.to_dense()
    value = value.resolve_conj().resolve_neg()
    whole = not (value.is_floating_point() or value.is_complex())
    return (value if whole else value.to(torch.complex128 if value.is_complex() else torch.float64)).numpy()
