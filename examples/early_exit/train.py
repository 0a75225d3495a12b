"""Trains EarlyExitNet and saves its weights: ``python -m examples.early_exit.train`` (under a minute on two cores)."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.digits.dataset import read, shift
from examples.early_exit.model import WEIGHTS, EarlyExitNet

EPOCHS = 60
BATCH = 64


def every_answer(model: EarlyExitNet, image: Tensor) -> list[Tensor]:
    """Returns the logits [N, 10] of every place where ``forward`` may stop: the first head, then 0 to 4 refinements.

    ``forward`` takes one path at a time; training needs them all.
    """
    features = model.stem(image)
    answers = [model.first_head(features.flatten(1))]
    features = model.entry(features)
    answers.append(model.last_head(features.mean(dim=(2, 3))))
    for _ in range(model.max_steps):
        features = model.refinement(features)
        answers.append(model.last_head(features.mean(dim=(2, 3))))
    return answers


def accuracy(model: nn.Module, batch: int) -> float:
    """Returns the share of the 360 test images that ``model`` classifies rightly in batches of ``batch``, 0..1."""
    image, target = read("test")
    model.eval()
    with torch.inference_mode():
        answer = torch.cat([model(part).argmax(1) for part in image.split(batch)])
    return (answer == target).float().mean().item()


def stops(model: EarlyExitNet) -> list[int]:
    """Counts the test images, taken one by one, by where they stop: the first head, then 0 to 4 refinements."""
    image, _ = read("test")
    with torch.inference_mode():
        sure = torch.stack([torch.softmax(answer, 1).amax(1) for answer in every_answer(model.eval(), image)])
    threshold = torch.tensor([model.exit_confidence] + [model.loop_confidence] * model.max_steps)
    stopped = torch.cat([sure[:-1] >= threshold[:, None], torch.ones(1, len(image), dtype=torch.bool)])
    return torch.bincount(stopped.int().argmax(0), minlength=len(sure)).tolist()


def train(seed: int = 0) -> EarlyExitNet:
    """Returns the trained network, in eval mode. The same seed, machine and torch give the same weights."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    image, target = read("train")
    model = EarlyExitNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * (len(target) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        order = torch.randperm(len(target), generator=generator)[: len(target) // BATCH * BATCH]
        for rows in order.split(BATCH):
            answers = every_answer(model, shift(image[rows], generator))
            loss = torch.stack([F.cross_entropy(answer, target[rows]) for answer in answers]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}  loss {total * BATCH / len(order):.4f}", flush=True)
    return model.eval()


def main() -> None:
    """Trains, prints the test accuracy and where test images stop, and writes ``weights.safetensors``."""
    torch.set_num_threads(2)
    model = train()
    print(f"test accuracy {accuracy(model, 1):.4f} one by one, {accuracy(model, 64):.4f} in batches of 64")
    print(f"test images by stop (first head, 0 to {model.max_steps} refinements): {stops(model)}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
