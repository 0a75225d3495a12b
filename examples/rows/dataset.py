"""Reads the rows data, and resamples digits to other numbers of rows."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "data"
DATA_ROWS = 12


def read(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns one split, ``"train"`` (1437 digits) or ``"test"`` (360 digits), of 6 to 12 rows each.

    Returns: rows float32 [n, 12, 8], 0..1; mask bool [n, 12], True at a real row; target int64 [n], 0..9.
    """
    with np.load(FOLDER / f"{split}.npz", allow_pickle=False) as archive:
        return tuple(torch.from_numpy(archive[key]) for key in ("rows", "mask", "target"))


def resample(image: Tensor, length: Tensor, max_rows: int) -> tuple[Tensor, Tensor]:
    """Stretches every image vertically to its own number of rows and pads it, by linear interpolation.

    image: float32 [n, 1, 8, 8]; length: int64 [n], 2..max_rows.
    Returns: rows float32 [n, max_rows, 8], zeros at padding, and mask bool [n, max_rows], True at a real row.
    """
    height = image.shape[2]
    position = torch.arange(max_rows)[None, :]
    mask = position < length[:, None]
    # The first and the last row stay where they are; the others are spread evenly between them.
    source = (position * ((height - 1) / (length[:, None] - 1))).clamp(max=height - 1)
    upper = source.floor().long().clamp(max=height - 2)
    fraction = (source - upper)[:, :, None]
    sample = torch.arange(image.shape[0])[:, None]
    flat = image[:, 0]
    rows = flat[sample, upper] * (1 - fraction) + flat[sample, upper + 1] * fraction
    return rows * mask[:, :, None], mask
