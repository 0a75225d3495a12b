"""Remakes the rows data from the digits data: ``python -m examples.rows.make_data``."""

import numpy as np
import torch

from examples.digits.dataset import read
from examples.rows.dataset import DATA_ROWS, FOLDER, resample

MIN_ROWS = 6
LENGTH_SEED = 20240602


def make() -> None:
    """Writes ``data/train.npz`` and ``data/test.npz``: ``rows``, ``mask`` and ``target`` as ``dataset.read`` says."""
    generator = np.random.default_rng(LENGTH_SEED)
    FOLDER.mkdir(exist_ok=True)
    for split in ("test", "train"):
        image, target = read(split)
        length = torch.from_numpy(generator.integers(MIN_ROWS, DATA_ROWS + 1, len(target)))
        rows, mask = resample(image, length, DATA_ROWS)
        np.savez_compressed(FOLDER / f"{split}.npz", rows=rows.numpy(), mask=mask.numpy(), target=target.numpy())


if __name__ == "__main__":
    make()
