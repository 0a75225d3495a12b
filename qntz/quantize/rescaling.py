"""Rescaling before quantization: channels of very unequal ranges share one int8 scale, so they are evened out first, by
powers of two in the constants around them, which change no bit of what the model computes.

The scales are SmoothQuant's (Xiao et al., 2022, arXiv:2211.10438, equation 4), of activations and of the weights that
read them, by a strength that is chosen for each group of tied channels from the histograms and the weights alone: the
one under which they promise the least noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from qntz.errors import QuantizeError
from qntz.histograms import Channels, Histogram, channel_middles
from qntz.quantizable import Candidate, node_names
from qntz.quantize.formats import INT8
from qntz.quantize.proof import prove_equal
from qntz.records import Arrays
from qntz.rescaled import rescaled
from qntz.scalable import FIXED, Layout, Scalable, add_divided, divide, scalable

WHERE = "quantize.rescale"
ADVICE = "Set quantize.rescale: false, and report the model: it should not be."
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
WORTH = 0.8  # of the noise without: what promises more than that is left alone
LARGEST = 20  # of an exponent: a channel that is smaller still does not matter


@dataclass(frozen=True)
class Tensor:
    """A quantized activation: its channels, sorted, by their numbers in the graph, and what was seen of them."""

    numbers: np.ndarray
    seen: Channels
    moments: np.ndarray


@dataclass(frozen=True)
class Reader:
    """A weight that reads a quantized activation.

    Attributes:
        tensor: what it reads. largest: the magnitudes by the tensor's channels and the weight's outputs, float32
            [C, outputs]. squares: their sum by channel, float64 [C]. taps: how many elements of the weight lead from a
            channel to an output, a number or float32 [C, outputs].
    """

    tensor: str
    largest: np.ndarray
    squares: np.ndarray
    taps: np.ndarray


def rescale(
    model: onnx.ModelProto,
    candidates: Sequence[Candidate],
    histograms: Mapping[str, Histogram],
    before: Path,
    probes: Sequence[Arrays],
) -> tuple[dict[str, list[int]], Mapping[str, Histogram]]:
    """Rescales the model's channels in place, where that promises less noise, and proves that its outputs stay.

    Args:
        candidates: the nodes that will be quantized. before: the file that the model was read from. probes: inputs by
            name, of which two are run; without any, some are made of the types of the graph's inputs.

    Returns:
        The exponents by the node that makes the channels, which the model's metadata have too; and the histograms of
        the rescaled graph.

    Raises:
        QuantizeError: the outputs change, or a weight leaves float32. ExportError: ONNX Runtime refuses the inputs.
    """
    found = scalable(model)
    exponents = chosen_exponents(model, found, candidates, histograms)
    by_node = found.by_node(exponents)
    if not by_node:
        return {}, histograms
    try:
        divide(model, found, exponents)
    except ValueError as error:
        raise QuantizeError("rescaling breaks a weight", where=WHERE, why=str(error), do=ADVICE) from error
    add_divided(model, by_node)
    prove_equal(before, model, probes, "rescaling changes what the model computes", WHERE, ADVICE)
    return by_node, rescaled(histograms, found, exponents)


def chosen_exponents(
    model: onnx.ModelProto, found: Scalable, candidates: Sequence[Candidate], histograms: Mapping[str, Histogram]
) -> np.ndarray:
    """The exponents by channel of the graph, int64; 0 where nothing is gained.

    Args:
        candidates: the nodes that will be quantized. histograms: with channels, of the same graph.
    """
    tensors: dict[str, Tensor] = {}
    for name in {name for candidate in candidates for name in candidate.activations}:
        histogram = histograms.get(name)
        if name in found.layouts and histogram is not None and histogram.channels is not None:
            numbers = np.unique(found.layouts[name].index)
            tensors[name] = Tensor(numbers, histogram.channels, histogram.channels.moments())
    places = {name: index for index, name in enumerate(node_names(model.graph))}
    inward = {one.node: one.layout for one in found.constants if one.sign > 0}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    exponents = np.zeros(found.channels, dtype=np.int64)
    for group in _groups(tensors, found.channels):
        readers = []
        for candidate in candidates:
            layout, name = inward.get(places[candidate.node]), candidate.activations[0]
            if candidate.weight is not None and layout is not None and name in group:
                weight = onnx.numpy_helper.to_array(held[candidate.weight])
                readers.append(_reader(name, tensors[name], weight, layout, candidate.axis or 0))
        if readers:
            _choose({name: tensors[name] for name in group}, readers, exponents)
    return exponents


def _reader(name: str, tensor: Tensor, weight: np.ndarray, layout: Layout, axis: int) -> Reader:
    """axis: of the weight's outputs. layout: of the weight, of the channels that it reads."""
    weight = np.abs(weight)
    local = np.broadcast_to(np.searchsorted(tensor.numbers, layout.at(weight.shape)), weight.shape)
    outputs = weight.shape[axis]
    shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
    pairs = local * outputs + np.arange(outputs).reshape(shape)
    size = len(tensor.numbers) * outputs
    largest = np.zeros(size, dtype=np.float32)
    np.maximum.at(largest, pairs.reshape(-1), weight.reshape(-1))
    squares = np.bincount(local.reshape(-1), weight.reshape(-1).astype(np.float64) ** 2, len(tensor.numbers))
    taps = np.bincount(pairs.reshape(-1), minlength=size).astype(np.float32).reshape(-1, outputs)
    if (taps == taps[0, 0]).all():
        taps = taps[:1, :1]
    return Reader(name, largest.reshape(-1, outputs), squares, taps)


def _groups(tensors: Mapping[str, Tensor], channels: int) -> list[list[str]]:
    """The tensors that share channels, directly or by others."""
    owner = np.zeros(channels, dtype=np.int64)
    for mark, name in enumerate(sorted(tensors), start=1):
        numbers = tensors[name].numbers
        met = np.unique(owner[numbers[numbers != FIXED]])
        owner[np.isin(owner, met[met > 0])] = mark
        owner[numbers[numbers != FIXED]] = mark
    groups: dict[int, list[str]] = {}
    for name in sorted(tensors):
        numbers = tensors[name].numbers
        groups.setdefault(int(owner[numbers[numbers != FIXED][0]]), []).append(name)
    return list(groups.values())


def _choose(tensors: Mapping[str, Tensor], readers: Sequence[Reader], exponents: np.ndarray) -> None:
    """Sets the exponents of a group's channels to those of the strength that promises the least noise."""
    numbers = np.unique(np.concatenate([tensor.numbers for tensor in tensors.values()]))
    numbers = numbers[numbers != FIXED]
    of_values = np.full(len(exponents), -np.inf)
    of_weights = np.full(len(exponents), -np.inf)
    for tensor in tensors.values():
        of_values[tensor.numbers] = np.maximum(of_values[tensor.numbers], _logs(tensor.seen.amax))
    for reader in readers:
        own = tensors[reader.tensor].numbers
        of_weights[own] = np.maximum(of_weights[own], _logs(reader.largest.max(1)))
    values, weights = of_values[numbers], of_weights[numbers]
    known = np.isfinite(values) & np.isfinite(weights)
    best, least = exponents.copy(), WORTH * _noise(tensors, readers, exponents)
    for strength in STRENGTHS:
        raw = strength * values[known] - (1 - strength) * weights[known]
        chosen = np.zeros(len(numbers), dtype=np.int64)
        chosen[known] = np.clip(np.rint(raw - np.median(raw)), -LARGEST, LARGEST) if known.any() else 0
        tried = exponents.copy()
        tried[numbers] = chosen
        if (noise := _noise(tensors, readers, tried)) < least:
            best, least = tried, noise
    exponents[:] = best


def _logs(magnitudes: np.ndarray) -> np.ndarray:
    """In powers of two below the largest; minus infinity for none."""
    with np.errstate(divide="ignore"):
        return np.log2(magnitudes / max(float(magnitudes.max(initial=0.0)), np.finfo(np.float64).tiny))


def _noise(tensors: Mapping[str, Tensor], readers: Sequence[Reader], exponents: np.ndarray) -> float:
    """The noise that int8 brings into what the readers give, over its power, summed; channels taken as independent."""
    total = 0.0
    for name, tensor in tensors.items():
        own = [reader for reader in readers if reader.tensor == name]
        powers = [float(tensor.moments @ reader.squares) for reader in own]
        weights = sum(reader.squares / power for reader, power in zip(own, powers, strict=True) if power)
        chosen = exponents[tensor.numbers]
        total += _of_values(tensor, chosen, np.asarray(weights)) if any(powers) else 0.0
        scales = np.exp2(chosen.astype(np.float64))
        for reader, power in zip(own, powers, strict=True):
            if power:
                steps = (reader.largest * scales[:, None]).max(0) / INT8.largest
                carried = (reader.taps * (tensor.moments / scales**2)[:, None]).sum(0)
                total += float((steps**2 * carried).sum()) / 12 / power
    return total


def _of_values(tensor: Tensor, exponents: np.ndarray, weights: np.ndarray) -> float:
    """The noise of a tensor's own rounding, its channels weighted: what rounds to 0 has lost itself."""
    seen = tensor.seen.counts / np.maximum(tensor.seen.counts.sum(1, keepdims=True), 1)
    amax = float((tensor.seen.amax / np.exp2(exponents.astype(np.float64))).max())
    noise = 0.0
    for exponent in np.unique(exponents):
        among = exponents == exponent
        error = INT8.noise(np.minimum(channel_middles() / 2.0**exponent, amax), amax)
        noise += 4.0**exponent * float((seen[among] * weights[among, None]).sum(0) @ error)
    return noise
