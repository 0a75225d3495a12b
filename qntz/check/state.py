"""What a run must leave as it was: random generators and buffers."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int, used: set[str]) -> Iterator[None]:
    """The global generators of torch, Python and NumPy with a seed, and as they were afterwards. `used` takes the names
    of those of Python and NumPy that were drawn from."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            fresh_python, fresh_numpy = random.getstate(), np.random.get_state()
            yield
            if random.getstate() != fresh_python:
                used.add("random")
            if not all(itertools.starmap(np.array_equal, zip(np.random.get_state(), fresh_numpy, strict=True))):
                used.add("numpy.random")
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def buffers_kept(module: torch.nn.Module) -> Iterator[None]:
    """Puts back buffers that a run writes (statistics of batch norm, caches). Their version counters do not tell: batch
    norm does not raise them."""
    buffers = [(part, name, b) for part in module.modules() for name, b in part.named_buffers(recurse=False)]
    kept = [(part, name, buffer, buffer.detach().clone()) for part, name, buffer in buffers]
    try:
        yield
    finally:
        for part, name, buffer, values in kept:
            with torch.no_grad(), torch.inference_mode(buffer.is_inference()):
                buffer.copy_(values)
            if getattr(part, name, None) is not buffer and not isinstance(part, torch.jit.ScriptModule):
                part._buffers[name] = buffer
