"""Reads the digits data that lie beside this module."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "data"


def read(split: str) -> tuple[Tensor, Tensor]:
    """Returns one split, ``"train"`` (1437 images) or ``"test"`` (360 images).

    Returns: image float32 [n, 1, 8, 8], 0..1 (0 is paper, 1 is ink), and target int64 [n], 0..9.
    """
    with np.load(FOLDER / f"{split}.npz", allow_pickle=False) as archive:
        return torch.from_numpy(archive["image"]), torch.from_numpy(archive["target"])


def shift(image: Tensor, generator: torch.Generator) -> Tensor:
    """Moves every image by -1, 0 or 1 pixels along each axis, filling with paper: [n, 1, 8, 8] to the same shape."""
    count, height, width = image.shape[0], image.shape[2], image.shape[3]
    padded = torch.nn.functional.pad(image[:, 0], (1, 1, 1, 1))
    down = torch.randint(0, 3, (count, 1, 1), generator=generator)
    right = torch.randint(0, 3, (count, 1, 1), generator=generator)
    row = down + torch.arange(height)[None, :, None]
    column = right + torch.arange(width)[None, None, :]
    return padded[torch.arange(count)[:, None, None], row, column][:, None]
