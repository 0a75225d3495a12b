"""A network that answers early when it is confident, and otherwise refines its features in a loop."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights.safetensors"
MAX_STEPS = 4


class Refinement(nn.Module):
    """The block that the loop applies again and again: a residual branch without norm, float [N, C, H, W] to same.

    No batch norm: every turn sees features of its own statistics, which one running mean would not fit.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [N, C, H, W]. Returns the same shape, not negative."""
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class EarlyExitNet(nn.Module):
    """Classifies a digit with as much work as the least confident sample of the batch needs.

    ``exit_confidence`` is the probability, 0..1, that ends the work at the first head;
    ``loop_confidence`` is the one that ends the loop of at most MAX_STEPS refinements.
    """

    def __init__(self, width: int = 32, exit_confidence: float = 0.9, loop_confidence: float = 0.9) -> None:
        super().__init__()
        self.exit_confidence = exit_confidence
        self.loop_confidence = loop_confidence
        self.max_steps = MAX_STEPS
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.first_head = nn.Linear(16 * width, 10)
        self.entry = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.refinement = Refinement(width)
        self.last_head = nn.Linear(width, 10)

    def confidence(self, logits: Tensor) -> Tensor:
        """logits: float [N, 10]. Returns the probability of the surest class of the least sure sample, float []."""
        return torch.softmax(logits, dim=1).amax(dim=1).amin(dim=0)

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 [N, 1, 8, 8], 0..1. Returns logits float32 [N, 10]."""
        features = self.stem(image)
        logits = self.first_head(features.flatten(1))
        unsure = self.confidence(logits) < self.exit_confidence
        # The loop comes after the branch rather than inside it, and turns no time if the first head was sure:
        # TensorRT-RTX 1.7 fails to build this loop when it is nested in the branch. The count of steps is part of
        # the one condition: an `and` would export as one more branch, nested in the loop.
        if bool(unsure):
            features = self.entry(features)
            logits = self.last_head(features.mean(dim=(2, 3)))
            unsure = self.confidence(logits) < self.loop_confidence
        steps = 0
        while bool(unsure):
            features = self.refinement(features)
            logits = self.last_head(features.mean(dim=(2, 3)))
            steps += 1
            unsure = (self.confidence(logits) < self.loop_confidence) & (steps < self.max_steps)
        return logits


def pretrained() -> EarlyExitNet:
    """Returns the network with the weights that ``train.py`` saved, in eval mode on the CPU."""
    from safetensors.torch import load_file

    model = EarlyExitNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
