"""The histograms of a graph whose channels were divided by powers of two. Quantize and the report share it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from qntz.histograms import Histogram
from qntz.scalable import Scalable


def rescaled(histograms: Mapping[str, Histogram], found: Scalable, exponents: np.ndarray) -> dict[str, Histogram]:
    """The histograms of the graph whose channels are divided by these powers of two."""
    changed = dict(histograms)
    for name, histogram in histograms.items():
        if name in found.layouts and histogram.channels is not None:
            index = found.layouts[name].index
            if exponents[index].any():
                evened = histogram.channels.divided(exponents[np.unique(index)], signed=histogram.minimum < 0)
                sums = histogram.sums and histogram.sums.divided(exponents[index].reshape(-1))
                changed[name] = dataclasses.replace(evened, sums=sums)
    return changed
