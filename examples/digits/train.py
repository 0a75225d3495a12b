"""Trains DigitsNet and saves its weights: ``python -m examples.digits.train`` (under a minute on two cores)."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from examples.digits.dataset import read, shift
from examples.digits.model import WEIGHTS, DigitsNet

EPOCHS = 30
BATCH = 64


def accuracy(model: nn.Module) -> float:
    """Returns the share of the 360 test images that ``model`` (image to logits) classifies rightly, 0..1."""
    image, target = read("test")
    model.eval()
    with torch.inference_mode():
        return (model(image).argmax(1) == target).float().mean().item()


def train(seed: int = 0) -> DigitsNet:
    """Returns the trained network, in eval mode. The same seed, machine and torch give the same weights."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    image, target = read("train")
    model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * (len(target) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        # The last, smaller batch is dropped: its batch statistics would be noisier than the others'.
        order = torch.randperm(len(target), generator=generator)[: len(target) // BATCH * BATCH]
        for rows in order.split(BATCH):
            loss = F.cross_entropy(model(shift(image[rows], generator)), target[rows], label_smoothing=0.05)
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
