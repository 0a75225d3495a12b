"""A small transformer that reads a digit as a sequence of rows, with rotary positions in complex numbers."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights.safetensors"
# Added to the scores of padding. Finite and within fp16's range, so that a row of padding alone makes no NaN.
MASKED = -1e4


class ComplexRotary(nn.Module):
    """Rotary position embedding as Llama's reference code writes it: pairs of features as complex numbers.

    Feature 2i and feature 2i + 1 make one complex number, which position p turns by p * theta ** (-2i / head_dim).
    ONNX has no complex tensors, so the module has to be replaced by one in real arithmetic before an export.
    """

    def __init__(self, head_dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.head_dim = head_dim
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.register_buffer("inverse_frequencies", theta**-exponent, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [N, H, L, D] with D = head_dim. Returns the same shape and dtype."""
        position = torch.arange(x.shape[2], device=x.device)
        angle = torch.outer(position.float(), self.inverse_frequencies.float())
        turn = torch.polar(torch.ones_like(angle), angle)
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention, written out as two matrix products and a softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.rotary = ComplexRotary(self.head_dim)

    def split(self, x: Tensor) -> Tensor:
        """Gives every head its features: float [N, L, H * D] to [N, H, L, D]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: float [N, L, width]; bias: float [N, 1, 1, L], 0 or MASKED. Returns float [N, L, width]."""
        # The scale goes to the queries, before the product: half precision has the least room in the scores.
        query = self.rotary(self.split(self.query(x))) * self.head_dim**-0.5
        key = self.rotary(self.split(self.key(x)))
        weight = torch.softmax(torch.matmul(query, key.transpose(2, 3)) + bias, dim=-1)
        mixed = torch.matmul(weight, self.split(self.value(x)))
        return self.output(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.heads * self.head_dim))


class Layer(nn.Module):
    """One pre-norm transformer layer: attention, then a two-layer perceptron, each around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: float [N, L, width]; bias: float [N, 1, 1, L]. Returns float [N, L, width]."""
        x = x + self.attention(self.norm1(x), bias)
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class RowsTransformer(nn.Module):
    """Classifies a digit from its rows, of which there may be any number from 4 to 16."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.masked = MASKED
        self.embed = nn.Linear(8, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """rows: float32 [N, L, 8], 0..1; mask: bool [N, L], True at a real row. Returns logits float32 [N, 10].

        What padding holds has no influence. A sample of padding alone is given finite logits.
        """
        x = self.embed(rows)
        real = mask.to(x.dtype)
        bias = ((1.0 - real) * self.masked).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, bias)
        weight = real.unsqueeze(2)
        # At least one in the divisor: a sample of padding alone divides by one, not by zero.
        pooled = (self.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return self.head(pooled)


def pretrained() -> RowsTransformer:
    """Returns the transformer with the weights that ``train.py`` saved, in eval mode on the CPU."""
    from safetensors.torch import load_file

    model = RowsTransformer()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
