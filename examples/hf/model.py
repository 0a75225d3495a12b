"""Large models built from transformers configurations, with weights drawn by NumPy: nothing is downloaded.

The weights are noise, scaled so that activations keep their size through the layers and logits follow the input.
They serve to compare an engine with the model it was made from, not to classify anything.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The standard deviation of a normal distribution cut off at two standard deviations.
TRUNCATED_STD = 0.87962566
# The inverse of the variance of a unit normal variable after ReLU.
RELU_GAIN = 2.0 / (1.0 - 1.0 / math.pi)
# The scale of the last batch norm of a residual branch. Sixteen branches of full scale would add up to large values,
# and magnify rounding as well: at 0.7, two float32 runtimes differ by 1e-4 of the largest logit, at 0.3 by 5e-6.
BRANCH_SCALE = 0.3
# Of BERT's queries and keys: with 1, attention is so even that every text has nearly the same average of its words.
ATTENTION_GAIN = 2.0


class ImageLogits(nn.Module):
    """Calls a transformers image classifier by position and returns its logits alone."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: float32 [N, 3, 224, 224], about -3..3. Returns logits float32 [N, 1000]."""
        return self.model(pixel_values=pixel_values).logits


class TextLogits(nn.Module):
    """Calls a transformers text classifier by position and returns its logits alone."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: int64 [N, L], 0..30521, L up to 512; attention_mask: int64 [N, L], 1 at a real token, else 0.

        Returns logits float32 [N, 2].
        """
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def truncated_normal(generator: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Draws float32 values of mean 0 and standard deviation ``std``, none beyond 2.3 times ``std``."""
    values = generator.standard_normal(shape, dtype=np.float32)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = generator.standard_normal(int(outside.sum()), dtype=np.float32)
    return values * np.float32(std / TRUNCATED_STD)


def draw_weights(model: nn.Module, seed: int, after_relu: tuple[str, ...] = ()) -> None:
    """Replaces every parameter of ``model``, in sorted order of their names, by draws of NumPy's ``seed``.

    The same release of transformers and the same seed give the same bytes on every machine.
    Biases become 0 and the scales of norms 1 (BRANCH_SCALE at the end of a residual branch); buffers are left alone:
    batch norms keep mean 0 and variance 1, which is about what these weights produce.
    ``after_relu``: how the names begin of the layers whose input a ReLU made.
    """
    generator = np.random.default_rng(seed)
    for name, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        if name.endswith("bias"):
            values = np.zeros(shape, np.float32)
        elif parameter.ndim == 1:
            values = np.full(shape, BRANCH_SCALE if ".layer.2.normalization" in name else 1.0, np.float32)
        elif ("embedding" in name and parameter.ndim < 4) or name.endswith("token"):
            values = truncated_normal(generator, shape, 0.02)
        else:
            values = truncated_normal(generator, shape, 1.0 / math.sqrt(math.prod(shape[1:])))
            if name.endswith((".query.weight", ".key.weight")):
                values *= np.float32(ATTENTION_GAIN)
            # What a ReLU left is positive: a filter that does not sum to zero would answer mostly to its mean, and
            # all inputs would end up with nearly the same logits.
            if name.startswith(after_relu):
                centre = values.mean(axis=tuple(range(1, values.ndim)), keepdims=True)
                values = (values - centre) * np.float32(math.sqrt(RELU_GAIN))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values))


def resnet50(seed: int = 0) -> ImageLogits:
    """ResNet-50 for images float32 [N, 3, 224, 224] and 1000 labels, in eval mode on the CPU."""
    from transformers import ResNetConfig, ResNetForImageClassification

    # The random state is put back: the weights that transformers draws are replaced and must not disturb the caller.
    with torch.random.fork_rng(devices=[]):
        model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    draw_weights(model, seed, after_relu=("resnet.encoder", "classifier"))
    return ImageLogits(model).eval()


def vit_base(seed: int = 0) -> ImageLogits:
    """ViT-Base with patches of 16, for images float32 [N, 3, 224, 224] and 1000 labels, in eval mode on the CPU."""
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(devices=[]):
        model = ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="eager"))
    draw_weights(model, seed)
    return ImageLogits(model).eval()


def bert_base(seed: int = 0) -> TextLogits:
    """BERT-Base for token sequences int64 [N, L] and 2 labels, in eval mode on the CPU."""
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(BertConfig(num_labels=2, attn_implementation="eager"))
    draw_weights(model, seed)
    return TextLogits(model).eval()
