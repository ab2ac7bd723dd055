"""The specification of robust_solve: eigenvectors, and all sums over the spectrum written out, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.ops.robust_solve import (
    Point,
    RobustSolution,
    check_rank,
    consistent_point,
    default_cut,
    in_feature_units,
    plugin_point,
)
from synbench_fast.ops.sampling_covariance import Moments

__all__ = ["plugin_of_spectrum", "robust_solve"]


@dataclass(frozen=True, slots=True)
class _Spectrum:
    values: Tensor  # d [K], kept, ascending
    vectors: Tensor  # U [F, K]
    mean: Tensor  # a = U'm [K]


def _spectrum(m: Tensor, covariance: Tensor, estimator: str, dof: int, cut: float | None) -> _Spectrum:
    """Eigenbasis of the covariance without the directions at or below the cut."""
    values, vectors = torch.linalg.eigh(covariance)
    largest = float(values[-1])
    threshold = max(default_cut(estimator, cut, len(m)) * (1.0 if estimator == "plugin" else largest), 0.0)
    keep = values > threshold
    check_rank(int(keep.sum()), estimator, dof, covariance, threshold, largest)
    return _Spectrum(values[keep], vectors[:, keep], vectors[:, keep].T @ m)


def robust_solve(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor,
    *,
    estimator: str,
    dof: int,
    c0: float,
    cut: float | None,
    weights: bool,
    threads: int,
) -> RobustSolution:
    """The specification, in float64 on any device."""
    spectrum = _spectrum(m, covariance, estimator, dof, cut)
    # With the largest eigenvalue as the unit, nothing below over- or underflows and scale invariance is exact
    # up to rounding; f, t and the variance have no unit.
    unit = float(spectrum.values[-1])
    d = spectrum.values / unit
    a = spectrum.mean / math.sqrt(unit)
    point = _plugin(d, a * a, eps) if estimator == "plugin" else _consistent(d, a * a, eps, float(dof), c0)
    w = (spectrum.mean / (spectrum.values + point.ridge[:, None] * unit)) @ spectrum.vectors.T
    return in_feature_units(point, len(d), (float(spectrum.values[0]), unit), w if weights else w[:0])


def plugin_of_spectrum(d: Tensor, a2: Tensor, eps: Tensor) -> Point:
    """The robust classifiers of a known covariance from its spectrum alone.

    Args:
        d: float64 [K] eigenvalues, ascending and positive; any unit.
        a2: float64 [K] squares of m in the eigenbasis, in the same unit.
        eps: float64 [E] in [0, 1).
    """
    return _plugin(d / d[-1], a2 / d[-1], eps)


def _plugin(d: Tensor, a2: Tensor, eps: Tensor) -> Point:
    """d, a2 = a^2 [K] (largest d is 1), eps [E]."""
    norm_square = float(a2.sum())
    ridge = torch.zeros_like(eps)
    some = (eps * eps > 0.0) & (norm_square > 0.0)
    if bool(some.any()):
        target = (eps * eps)[some]
        # g/(d + g) = eps at each eigenvalue alone brackets the root of their weighted mean.
        odds = (eps / (1.0 - eps))[some]
        ridge[some] = _root(lambda g: _plugin_share(d, a2, g, norm_square), target, odds * d[0], odds * d[-1])
    resolvent = 1.0 / (d + ridge[:, None])
    signal = (a2 * resolvent).sum(1)
    variance = (a2 * d * resolvent**2).sum(1)
    return plugin_point(norm_square, ridge, signal, variance)


def _plugin_share(d: Tensor, a2: Tensor, g: Tensor, norm_square: float) -> tuple[Tensor, Tensor]:
    """|g w|^2 / |m|^2, which rises from 0 to 1 in g, and its derivative in log g."""
    shrink = g[:, None] / (d + g[:, None])
    square = a2 * shrink**2
    return square.sum(1) / norm_square, 2.0 * (square * (1.0 - shrink)).sum(1) / norm_square


def _consistent(d: Tensor, a2: Tensor, eps: Tensor, nu: float, c0: float) -> Point:
    """d, a2 = a^2 [K] (largest d is 1), eps [E]; nu > K."""
    norm_square = float(a2.sum() - c0 * d.sum())
    ridge = torch.zeros_like(eps)
    some = (eps * eps > 0.0) & (norm_square > 0.0)
    if bool(some.any()):
        ridge[some] = _consistent_ridge(d, a2, eps[some], nu, c0, norm_square)

    kappa, f, df = _expansion(d, a2, ridge, nu, c0, 3)
    moments = Moments(*(float(x.sum()) for x in (a2, a2 * d, d, d * d)))
    return consistent_point(moments, ridge, kappa, f, df, nu, c0)


def _expansion(
    d: Tensor, a2: Tensor, g: Tensor, nu: float, c0: float, order: int
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """kappa(g) [E], and the Taylor coefficients [E] of f and df in kappa about it, up to `order` (2 or 3)."""
    resolvent = 1.0 / (d + g[:, None])
    s, e = [], []  # coefficients in g: sum a^2/(d + g) and df = sum d/(d + g)
    power = resolvent
    for _ in range(order + 1):
        s.append((a2 * power).sum(1))
        e.append((d * power).sum(1))
        power = -power * resolvent
    rho = [1.0 - e[0] / nu, *(-x / nu for x in e[1:])]
    f = [sum((rho[i] * s[n - i] for i in range(n + 1)), -c0 * e[n]) for n in range(order + 1)]
    inverse = [1.0 / rho[0]]
    for n in range(1, order + 1):
        inverse.append(-sum((rho[i] * inverse[n - i] for i in range(1, n + 1)), 0.0 * g) / rho[0])
    kappa = g * inverse[0]
    # y = kappa(g + x) - kappa(g) = p1 x + p2 x^2 + p3 x^3 is reverted to x = q1 y + q2 y^2 + q3 y^3.
    p = [g * inverse[n] + inverse[n - 1] for n in range(1, order + 1)] + [0.0 * g] * (3 - order)
    q1 = 1.0 / p[0]
    q2 = -p[1] * q1**3
    q3 = (2.0 * p[1] ** 2 - p[0] * p[2]) * q1**5

    def in_kappa(c: list[Tensor]) -> list[Tensor]:
        out = [c[0], c[1] * q1, c[1] * q2 + c[2] * q1**2]
        if order == 3:
            out.append(c[1] * q3 + 2.0 * c[2] * q1 * q2 + c[3] * q1**3)
        return out

    return kappa, in_kappa(f), in_kappa(e)


def _consistent_share(
    d: Tensor, a2: Tensor, g: Tensor, nu: float, c0: float, norm_square: float
) -> tuple[Tensor, Tensor]:
    """-kappa^2 f'(kappa) / |m|^2, which goes from 0 to 1 in g, and its derivative in log g."""
    kappa, f, df = _expansion(d, a2, g, nu, c0, 2)
    # kappa = g / (1 - df/nu) gives dg/dkappa = 1 - (kappa df)'/nu.
    kappa_per_log = g / (1.0 - (df[0] + kappa * df[1]) / nu)
    share = -kappa * kappa * f[1] / norm_square
    return share, -2.0 * kappa * (f[1] + kappa * f[2]) / norm_square * kappa_per_log


def _consistent_ridge(d: Tensor, a2: Tensor, eps: Tensor, nu: float, c0: float, norm_square: float) -> Tensor:
    """The smallest g of share(g) = eps^2, for eps [E] > 0, found on a grid of half octaves and refined."""

    def share(g: Tensor) -> tuple[Tensor, Tensor]:
        return _consistent_share(d, a2, g, nu, c0, norm_square)

    target = eps * eps
    low = float(eps.min()) * float(d[0]) / 4.0
    high = 4.0 / (1.0 - float(eps.max()))
    for _ in range(64):
        if float(share(target.new_tensor([low]))[0]) < float(target.min()):
            break
        low /= 16.0
    for _ in range(64):
        if float(share(target.new_tensor([high]))[0]) > float(target.max()):
            break
        high *= 16.0
    steps = math.ceil(2.0 * math.log2(high / low))
    grid = low * 2.0 ** (torch.arange(steps + 1, dtype=eps.dtype, device=eps.device) / 2.0)
    reached = share(grid)[0][:, None] >= target
    first = (reached.cumsum(0) == 0).sum(0).clamp(1, steps)
    return _root(share, target, grid[first - 1], grid[first])


def _root(
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
