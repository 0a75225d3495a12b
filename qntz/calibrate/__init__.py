"""One pass over calibration data that collects a histogram of every activation that quantization may need.

The histograms serve every threshold method, so that another method needs no second pass.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qntz.calibrate.channels import ChannelCounts
from qntz.calibrate.tapped import Tapped
from qntz.errors import DataError, ExportError, QntzError
from qntz.histograms import BINS, Histogram, coprime_stride, counts_of
from qntz.packed import read_model
from qntz.quantizable import candidates, read_axes
from qntz.records import Arrays, Progress
from qntz.scalable import scalable

if TYPE_CHECKING:
    import onnx

PHASE = "calibrate"
SMALL = 1 << 14  # elements of a sample's tensor that are all counted, whatever the stride


def quantizable_tensors(model: onnx.ModelProto) -> list[str]:
    """The float32 activations that a Conv, ConvTranspose, Gemm or MatMul of the top-level graph reads, in order."""
    return list(dict.fromkeys(tensor for candidate in candidates(model) for tensor in candidate.activations))


def collect(
    model: Path,
    batches: Iterable[Arrays],
    *,
    workers: int = 0,
    stride: int = 1,
    progress: Progress | None = None,
    total: int | None = None,
    split: bool = True,
    channels: bool = True,
) -> dict[str, Histogram]:
    """Runs the model on all batches and counts what its quantizable tensors hold.

    ONNX Runtime's kernels round differently by the size of the batch (a product with one row, a sum over one sample).
    So every sample is run by itself, which makes the result independent of batch size, order and number of workers;
    the workers run different batches at a time, each on one core.

    Args:
        model: the simplified ONNX file.
        batches: inputs by name, samples along the first axis of each.
        workers: threads; 0 for one a core.
        stride: of a sample's tensor of more than 16,384 elements every stride-th is counted, and stands for as many;
            minimum and maximum are exact. The stride is raised until it has no factor in common with the tensor's
            sizes: it would meet some positions only. Which elements are met differs with the blocks of channels that
            ONNX Runtime has on a processor.
        progress: told of each finished batch, of `total`.
        split: False runs whole batches: for a model whose first dimension does not take 1.
        channels: whether tensors that can be rescaled are counted by channel too (`qntz.scalable`), and those that
            weights read are summed by channel, which rescaling and corrected biases ask for: of large tensors every
            61st element, or fewer, but 8 a channel.

    Returns:
        Histograms by tensor name, sorted; a tensor that never held an element is absent.

    Raises:
        DataError: no batches at all, a batch that the model does not take, or an activation that held NaN or infinity
            (the tensor and the batch are named).
        ArtifactError: there is no such model. ExportError: ONNX Runtime refuses the model.
        QntzError: `progress` asked to stop.
    """
    tally = _Tally(model, stride, split, channels)
    workers = workers or os.cpu_count() or 1
    done = 0
    pending: deque[Future[None]] = deque()

    def finish_oldest() -> None:
        nonlocal done
        pending.popleft().result()  # in the order of the batches, so that the first bad one is the one reported
        done += 1
        if progress is not None and not progress.step(PHASE, done, total or 0):
            raise QntzError("stopped on request", where=PHASE)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, batch in enumerate(batches):
                pending.append(pool.submit(tally.add, index, batch))
                if len(pending) > 2 * workers:  # bounded: batches must not pile up in memory
                    finish_oldest()
            while pending:
                finish_oldest()
        finally:
            for future in pending:
                future.cancel()
    if done == 0:
        raise DataError("no calibration batches", where=str(model), do="Point model.data.calibrate at data.")
    return tally.histograms()


class _Tally:
    """The tapped model, and the counts so far; `add` may be called by several threads at once."""

    def __init__(self, path: Path, stride: int, split: bool, channels: bool) -> None:
        model = read_model(path)
        self.stride = stride
        self.tensors = quantizable_tensors(model)
        layouts, axes = (scalable(model).layouts, read_axes(model)) if channels else ({}, {})
        self.tapped = Tapped(model, self.tensors)
        # A fixed first dimension above 1 is the model's own batch size, which cannot be split.
        firsts = [size for shape in self.tapped.inputs.values() for size in shape[:1]]
        self.split = split and all(not isinstance(size, int) or size == 1 for size in firsts)
        self.counts: dict[tuple[str, int], np.ndarray] = {}  # by tensor and stride
        self.channels = {
            name: ChannelCounts(layouts.get(name), axes.get(name), self.tapped.block(name))
            for name in self.tensors
            if name in layouts or name in axes
        }
        self.ranges: dict[str, tuple[float, float]] = {}
        self.lock = threading.Lock()

    def add(self, index: int, batch: Arrays) -> None:
        count = _count_of(batch, index)
        for sample in _samples(batch, count) if self.split else (batch,):
            values = self._run(sample, index)
            for name in self.tensors:
                if name not in values:
                    raise DataError(f"no input {name!r}", where=f"calibration batch {index}")
                if values[name].size:
                    self._count(name, values[name], index, 1 if self.split else count)

    def _run(self, sample: Arrays, index: int) -> Arrays:
        try:
            return self.tapped.run(sample)
        except ExportError as error:
            raise DataError(error.what, where=f"calibration batch {index} ({error.where})", why=error.why) from error

    def _count(self, name: str, values: np.ndarray, index: int, samples: int) -> None:
        large = values.size > SMALL * samples
        stride = coprime_stride(values.shape, self.stride) if large else 1
        counts = counts_of(values, stride)
        channels = self.channels.get(name)
        least, most = float(values.min()), float(values.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            kind = "NaN" if np.isnan(values).any() else "infinity"
            raise DataError(
                f"activation {name!r} holds {kind}",
                where=f"calibration batch {index}",
                do="Find the operator that makes it; int8 has neither.",
            )
        seen = channels and channels.seen(values, large=large, signed=least < 0)
        with self.lock:
            if (total := self.counts.setdefault((name, stride), counts)) is not counts:
                total += counts
            low, high = self.ranges.get(name, (np.inf, -np.inf))
            self.ranges[name] = (min(low, least + 0.0), max(high, most + 0.0))  # which of two zeros is first is chance
            if channels is not None and seen is not None:
                channels.add(seen)

    def histograms(self) -> dict[str, Histogram]:
        totals = {name: np.zeros(BINS, dtype=np.int64) for name in sorted(self.ranges)}
        for (name, stride), counts in self.counts.items():
            totals[name] += stride * counts
        none = ChannelCounts(None, None, 0)
        found = {name: self.channels.get(name, none) for name in totals}
        return {
            name: Histogram(
                total,
                *self.ranges[name],
                found[name].channels(),
                found[name].sums(max(map(abs, self.ranges[name]))),
            )
            for name, total in totals.items()
        }


def _count_of(batch: Arrays, index: int) -> int:
    """The number of samples in a batch; arrays without axes are the same for all."""
    lengths = {name: len(array) for name, array in batch.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError("the inputs have unequal numbers of samples", where=f"calibration batch {index}", why=told)
    return next(iter(lengths.values()), 1)


def _samples(batch: Arrays, count: int) -> Iterator[Arrays]:
    """The samples of a batch, each with a first axis of 1."""
    for i in range(count):
        yield {name: array[i : i + 1] if array.ndim else array for name, array in batch.items()}
