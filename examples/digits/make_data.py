"""Remakes the digits data: ``python -m examples.digits.make_data`` (needs scikit-learn and no network).

Training and testing read the two archives this writes, so nothing but this script depends on scikit-learn.
"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "data"
TEST_COUNT = 360
SPLIT_SEED = 20240601


def make() -> None:
    """Writes ``data/train.npz`` and ``data/test.npz``: ``image`` float32 [n, 1, 8, 8], 0..1, ``target`` int64 [n]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = (digits.images / 16.0).astype(np.float32)[:, None]
    target = digits.target.astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(target))
    FOLDER.mkdir(exist_ok=True)
    # numpy stamps every archive member with the same fixed date: equal arrays make equal bytes.
    for name, rows in (("test", order[:TEST_COUNT]), ("train", order[TEST_COUNT:])):
        np.savez_compressed(FOLDER / f"{name}.npz", image=image[rows], target=target[rows])


if __name__ == "__main__":
    make()
