"""Gaussians of independent coordinates, mixtures of them, and first weights: what variational autoencoders add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

Gaussian: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"  # mean and log of the variance, (B, D) each


def sample(gaussian: Gaussian) -> torch.Tensor:
    """Draw one z of each row, (B, D), as a differentiable function of the mean and the variance."""
    import torch

    mean, log_variance = gaussian
    return mean + torch.randn_like(mean) * (log_variance / 2).exp()


def log_density(latent: torch.Tensor, gaussian: Gaussian) -> torch.Tensor:
    """Return log N(z | mu, sigma^2) of each coordinate, (B, D)."""
    mean, log_variance = gaussian
    return -0.5 * (math.log(2 * math.pi) + log_variance + (latent - mean).square() * (-log_variance).exp())


def mixed_by_coordinate(latent: torch.Tensor, parts: Sequence[Gaussian], weights: Sequence[float]) -> torch.Tensor:
    """Return the log density of each coordinate, (B, D), under a mixture of its own over the parts."""
    import torch

    terms = [log_density(latent, part) + math.log(weight) for part, weight in zip(parts, weights, strict=True)]
    return reduce(torch.logaddexp, terms)


def mixed_evenly(latent: torch.Tensor, parts: Gaussian) -> torch.Tensor:
    """Return the log density of each row, (B,), under the mixture of C Gaussians (C, D) of one weight.

    By two products in float64 instead of differences (B, C, D): where a variance is e^-12, z^2 / sigma^2 is 160,000
    times z^2, and float32 would leave errors of whole units in what is left after it cancels.
    """
    import torch

    mean, log_variance = (part.double() for part in parts)
    precision = (-log_variance).exp()  # (C, D)
    wide = latent.double()
    constant = (mean.square() * precision + log_variance + math.log(2 * math.pi)).sum(1)  # (C,)
    distances = wide.square() @ precision.T - 2 * (wide @ (mean * precision).T) + constant  # (B, C)
    return (torch.logsumexp(-0.5 * distances, 1) - math.log(len(mean))).float()


def drawn(shapes: Mapping[str, tuple[int, int]], device: str, *, gaussian: bool) -> dict[str, torch.Tensor]:
    """Draw weights (in, out) of variance 1 / (3 in), uniform, or 2 / in if `gaussian`, and biases as the former.

    `output` has shape (out, in).
    """
    import torch

    result = {}
    for name, shape in shapes.items():
        n_in, n_out = reversed(shape) if name == "output" else shape
        bound = n_in**-0.5
        weights = torch.empty(shape, device=device)
        result[name] = weights.normal_(0, (2 / n_in) ** 0.5) if gaussian else weights.uniform_(-bound, bound)
        result[f"{name}_bias"] = torch.empty(n_out, device=device).uniform_(-bound, bound)
    return result
