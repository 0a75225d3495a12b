"""torch's TorchScript exporter without the copies that it makes of a model's weights, and without the run that it makes
to see outputs which are known: the same bytes, for a fraction of the time and of the memory.

It copies all weights into each of two shape inferences, into the model that it checks, and into the file it writes.
Its own option to defer weights, which torch.onnx.export no longer passes on, leaves them out of the model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qntz.errors import ExportError

_SMALL = 1024  # elements of a tensor that shapes may be computed of
_MOST = 2**30  # bytes of all weights: of a model beyond protobuf's 2 GB the exporter cannot leave them out
_DEFERRED = b"__EXTERNAL"  # torch's mark


@contextlib.contextmanager
def without_weights() -> Iterator[dict[str, bytes]]:
    """Within it torch.onnx.export writes a model without its weights; yields these, by name, once it has. A large model
    is written as ever, and none are yielded."""
    import torch

    weights: dict[str, bytes] = {}
    write, infer = torch._C.Graph._export_onnx, torch._C._jit_pass_onnx_graph_shape_type_inference

    def deferring(graph: Any, params: Any, opset: Any, axes: Any, _: bool, *rest: Any) -> Any:
        few = sum(one.nbytes for one in params.values() if isinstance(one, torch.Tensor)) <= _MOST
        proto, left_out, *told = write(graph, params, opset, axes, few, *rest)
        weights.update(left_out)
        return proto, {}, *told

    def inferring(graph: Any, params: Mapping[str, Any], opset: Any) -> None:
        # a quantized module's packed parameters are no tensors
        few = {n: p for n, p in params.items() if not isinstance(p, torch.Tensor) or p.numel() <= _SMALL}
        infer(graph, few, opset)

    with (
        _patched(torch._C.Graph, "_export_onnx", deferring),
        _patched(torch._C, "_jit_pass_onnx_graph_shape_type_inference", inferring),
    ):
        yield weights


@contextlib.contextmanager
def with_outputs(outputs: Sequence[Any]) -> Iterator[None]:
    """Within it torch.onnx.export does not run the module on the example, but takes these tensors to be its outputs."""
    import torch

    utils = sys.modules[torch.onnx.register_custom_op_symbolic.__module__]  # it has moved between torch's versions
    with _patched(utils, "_get_example_outputs", lambda *_: tuple(outputs)):
        yield


@contextlib.contextmanager
def _patched(owner: Any, name: str, function: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def put_back(model: Any, weights: Mapping[str, bytes]) -> None:
    """Puts the weights into the model that was written without them; raises ExportError where they are not its own."""
    left_out = [tensor for tensor in model.graph.initializer if tensor.raw_data == _DEFERRED]
    if sorted(tensor.name for tensor in left_out) != sorted(weights):
        raise ExportError(
            "the exporter lost weights", why=f"{len(weights)} were left out, the graph names {len(left_out)}"
        )
    for tensor in left_out:
        tensor.raw_data = weights[tensor.name]
