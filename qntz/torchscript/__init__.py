"""Captures a model as TorchScript or as an exported program, with the rewrites of its modules and functions, and
compares it with the eager model."""

from qntz.rewrite import REWRITES
from qntz.torchscript.archive import archive_bytes
from qntz.torchscript.capture import ORDER, capture
from qntz.torchscript.captured import Captured, Tried, record
from qntz.torchscript.judge import reference_outputs

__all__ = ["ORDER", "REWRITES", "Captured", "Tried", "archive_bytes", "capture", "record", "reference_outputs"]
