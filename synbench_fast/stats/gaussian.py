"""Accuracy and scaled bound of a linear classifier on two Gaussians, as functions of its signal-to-noise t.

With the margin u = (x - c)'w - q/2 distributed N(+-m'w - q/2, w'Cw) in the two classes, t = m'w / sqrt(w'Cw),
k = (q/2) / sqrt(w'Cw), q = ln((1 - tau)/tau) and tau the prior of class 1:

    accuracy  a(t, k) = tau Phi(t - k) + (1 - tau) Phi(t + k)
    bound     b(t, k) = E[|u| / m'w | correct]
                      = (tau g(t - k) + (1 - tau) g(t + k)) / (t a),   g(x) = x Phi(x) + phi(x)

For tau = 1/2 (k = 0): a = Phi(t), b = 1 + phi(t) / (t Phi(t)). All functions are elementwise on float64
tensors. At t = 0 the bound is +inf: without signal there is no distance to compare with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "accuracy",
    "accuracy_shift_slope",
    "accuracy_slope",
    "bound",
    "bound_shift_slope",
    "bound_slope",
    "log_prior_offset",
    "reach",
    "reach_shift_slope",
    "reach_slope",
    "threshold_shift",
]


def log_prior_offset(prior: float) -> float:
    """q/2 = ln((1 - tau)/tau) / 2, the margin at the decision boundary of the Bayes classifier."""
    return math.log((1 - prior) / prior) / 2


def threshold_shift(offset: float, variance: Tensor) -> Tensor:
    """k = offset / sqrt(w'Cw); 0 without offset, infinite where only the prior decides (w = 0)."""
    if offset == 0:
        return torch.zeros_like(variance)
    return offset / variance.sqrt()


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _mean_positive_part(x: Tensor) -> Tensor:
    # E[max(0, N(x, 1))]; at x = -inf the product below is NaN, its limit 0.
    return torch.where(torch.isneginf(x), 0.0, x * torch.special.ndtr(x) + _density(x))


def accuracy(t: Tensor, k: Tensor, prior: float) -> Tensor:
    value: Tensor = prior * torch.special.ndtr(t - k) + (1 - prior) * torch.special.ndtr(t + k)
    return value


def accuracy_slope(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """da/dt at fixed k."""
    return prior * _density(t - k) + (1 - prior) * _density(t + k)


def accuracy_shift_slope(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """da/dk at fixed t."""
    return (1 - prior) * _density(t + k) - prior * _density(t - k)


def bound(t: Tensor, k: Tensor, prior: float) -> Tensor:
    distance = prior * _mean_positive_part(t - k) + (1 - prior) * _mean_positive_part(t + k)
    return torch.where(t > 0, distance / (t * accuracy(t, k, prior)), torch.inf)


def bound_slope(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """db/dt at fixed k: 1/t - b (1/t + a'/a), because the numerator of b has derivative a."""
    ratio = accuracy_slope(t, k, prior) / accuracy(t, k, prior)
    return torch.where(t > 0, 1 / t - bound(t, k, prior) * (1 / t + ratio), -torch.inf)


def bound_shift_slope(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """db/dk at fixed t."""
    distance = (1 - prior) * torch.special.ndtr(t + k) - prior * torch.special.ndtr(t - k)
    slope = distance / t - bound(t, k, prior) * accuracy_shift_slope(t, k, prior)
    return torch.where(t > 0, slope / accuracy(t, k, prior), torch.inf)


def reach(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """a b = E[max(0, u)] / m'w, which unlike b is a mean over all samples; +inf for t <= 0."""
    distance = prior * _mean_positive_part(t - k) + (1 - prior) * _mean_positive_part(t + k)
    return torch.where(t > 0, distance / t, torch.inf)


def reach_slope(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """d(ab)/dt at fixed k; -inf for t <= 0."""
    value = accuracy(t, k, prior) / t - reach(t, k, prior) / t
    return torch.where(t > 0, value, -torch.inf)


def reach_shift_slope(t: Tensor, k: Tensor, prior: float) -> Tensor:
    """d(ab)/dk at fixed t; +inf for t <= 0."""
    distance = (1 - prior) * torch.special.ndtr(t + k) - prior * torch.special.ndtr(t - k)
    return torch.where(t > 0, distance / t, torch.inf)
