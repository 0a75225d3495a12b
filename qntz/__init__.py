"""qntz turns PyTorch models into TensorRT engines by a pipeline of small cached stages.

Importing this package loads neither torch, onnx nor tensorrt; each module imports what it needs when it is used.
"""

from qntz.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
