"""Latent variables."""

from torch import Tensor

from tests.check.blind._helpers_noise_source import standard_normal


def reparametrise(mean: Tensor, log_variance: Tensor) -> Tensor:
    return mean + (0.5 * log_variance).exp() * standard_normal(mean)
