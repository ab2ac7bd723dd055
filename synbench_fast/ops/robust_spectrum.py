"""The classifiers of a known spectrum in closed form, and the search for a ridge: what robust_solve is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["known_ratios", "known_ridge", "known_sums", "ratio", "rising_root"]


def known_ratios(d: Tensor, a2: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """t and t_rob [E] of the robust classifiers of a known covariance, from its spectrum alone.

    Args:
        d: float64 [K] eigenvalues, ascending and positive; any unit.
        a2: float64 [K] squares of m in the eigenbasis, in the same unit.
        eps: float64 [E] in [0, 1).
    """
    d, a2 = d / d[-1], a2 / d[-1]
    signal, variance = known_sums(d, a2, known_ridge(d, a2, eps))
    t_rob = variance.sqrt()
    return ratio(signal, t_rob), t_rob


def known_ridge(d: Tensor, a2: Tensor, eps: Tensor) -> Tensor:
    """g [E] at which |g w| = eps |m|, for d, a2 [K] with the largest d as unit."""
    norm_square = float(a2.sum())
    ridge = torch.zeros_like(eps)
    some = (eps * eps > 0.0) & (norm_square > 0.0)
    if bool(some.any()):
        target = (eps * eps)[some]
        # g/(d + g) = eps at each eigenvalue alone brackets the root of their weighted mean.
        odds = (eps / (1.0 - eps))[some]
        ridge[some] = rising_root(
            lambda g: _known_share(d, a2, g, norm_square), target, odds * d[0], odds * d[-1]
        )
    return ridge


def known_sums(d: Tensor, a2: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """m'w and w'Cw [E] at ridges [E]."""
    resolvent = 1.0 / (d + ridge[:, None])
    return (a2 * resolvent).sum(1), (a2 * d * resolvent**2).sum(1)


def _known_share(d: Tensor, a2: Tensor, g: Tensor, norm_square: float) -> tuple[Tensor, Tensor]:
    """|g w|^2 / |m|^2, which rises from 0 to 1 in g, and its derivative in log g."""
    shrink = g[:, None] / (d + g[:, None])
    square = a2 * shrink**2
    return square.sum(1) / norm_square, 2.0 * (square * (1.0 - shrink)).sum(1) / norm_square


def rising_root(
    share: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """g in [low, high] where share(g) rises through target [E]: Newton on log g, bisection where it fails."""
    low, high = low.log(), high.log()
    x = 0.5 * (low + high)
    for _ in range(100):
        value, slope = share(x.exp())
        below = value < target
        low, high = torch.where(below, x, low), torch.where(below, high, x)
        newton = x - (value - target) / slope
        inside = (newton > low) & (newton < high)  # False for a slope that is 0 or NaN
        following = torch.where(inside, newton, 0.5 * (low + high))
        done = (following - x).abs() <= 1e-15 * x.abs().clamp_min(1.0)
        x = following
        if bool(done.all()):
            break
    return x.exp()


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0."""
    zero = denominator == 0.0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))
