"""Captures a model as TorchScript or as an exported program, after the module rewrites, and compares it with the eager
model."""

from qntz.torchscript.archive import archive_bytes
from qntz.torchscript.capture import ORDER, Captured, Tried, capture, record, reference_outputs
from qntz.torchscript.rewrite import rewritten

__all__ = ["ORDER", "Captured", "Tried", "archive_bytes", "capture", "record", "reference_outputs", "rewritten"]
