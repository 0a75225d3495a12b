"""Captures an eager model as TorchScript, and proves on further inputs that the capture is the model."""

from qntz.torchscript.archive import archive_bytes
from qntz.torchscript.capture import Captured, capture, record, reference_outputs
from qntz.torchscript.rewrite import rewritten

__all__ = ["Captured", "archive_bytes", "capture", "record", "reference_outputs", "rewritten"]
