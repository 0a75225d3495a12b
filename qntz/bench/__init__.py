"""How fast a model runs, as it is and as built: every runtime in turn within one run, so that the ratios stand."""

from qntz.bench.engines import time_engines
from qntz.bench.measure import Refused, Timing, measure
from qntz.bench.record import machine
from qntz.bench.subject import Subject

__all__ = ["Refused", "Subject", "Timing", "machine", "measure", "time_engines"]
