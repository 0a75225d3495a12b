"""Trains RowsTransformer and saves its weights: ``python -m examples.rows.train`` (under a minute on two cores)."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from examples.digits.dataset import read as read_images
from examples.digits.dataset import shift
from examples.rows.dataset import read, resample
from examples.rows.model import WEIGHTS, RowsTransformer

EPOCHS = 120
BATCH = 64
# Wider than the 6 to 12 of the data, so that every length the model accepts is learned.
MIN_ROWS, MAX_ROWS = 4, 16


def accuracy(model: nn.Module) -> float:
    """Returns the share of the 360 test digits that ``model`` (rows, mask to logits) classifies rightly, 0..1."""
    rows, mask, target = read("test")
    model.eval()
    with torch.inference_mode():
        return (model(rows, mask).argmax(1) == target).float().mean().item()


def train(seed: int = 0) -> RowsTransformer:
    """Returns the trained transformer, in eval mode. The same seed, machine and torch give the same weights.

    Trains on the images rather than on ``data/train.npz``: every digit gets another number of rows at each epoch.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    image, target = read_images("train")
    model = RowsTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * (len(target) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        order = torch.randperm(len(target), generator=generator)[: len(target) // BATCH * BATCH]
        for batch in order.split(BATCH):
            length = torch.randint(MIN_ROWS, MAX_ROWS + 1, (BATCH,), generator=generator)
            rows, mask = resample(shift(image[batch], generator), length, MAX_ROWS)
            loss = F.cross_entropy(model(rows, mask), target[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}  loss {total * BATCH / len(order):.4f}", flush=True)
    return model.eval()


def main() -> None:
    """Trains, prints the test accuracy and writes ``weights.safetensors``."""
    torch.set_num_threads(2)
    model = train()
    print(f"test accuracy {accuracy(model):.4f}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
