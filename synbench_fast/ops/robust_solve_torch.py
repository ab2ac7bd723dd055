"""The specification of robust_solve: eigenvectors, and all sums over the spectrum written out, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from synbench_fast.ops.robust_solve import Enqueued, Solve
from synbench_fast.ops.robust_solve_solution import Sums, check_rank, solution
from synbench_fast.ops.robust_spectrum import known_ridge, known_sums, rising_root
from synbench_fast.ops.sampling_covariance import Moments

__all__ = ["robust_solve_torch"]


def robust_solve_torch(call: Solve) -> Enqueued:
    values, vectors = torch.linalg.eigh(call.covariance)
    largest = float(values[-1])
    threshold = max(call.least * (1.0 if call.known else largest), 0.0)
    keep = values > threshold
    check_rank(int(keep.sum()), call, threshold, largest)
    values, vectors = values[keep], vectors[:, keep]
    mean = vectors.T @ call.m
    # With the largest eigenvalue as the unit, nothing below over- or underflows and scale invariance is exact
    # up to rounding; f, t and the variance have no unit.
    unit = float(values[-1])
    d = values / unit
    a = mean / math.sqrt(unit)
    a2 = a * a
    moments = Moments(*(float(x.sum()) for x in (a2, a2 * d, d, d * d)))
    if call.known:
        ridge = kappa = known_ridge(d, a2, call.eps)
        signal, variance = known_sums(d, a2, ridge)
        f, df = [signal], [signal]
    else:
        nu = float(call.dof)
        ridge = _sampled_ridge(d, a2, call.eps, nu, call.c0)
        kappa, f, df = _expansion(d, a2, ridge, nu, call.c0, 3)
        variance = f[0]
    w = (mean / (values + ridge[:, None] * unit)) @ vectors.T
    sums = Sums(len(d), (float(values[0]), unit), moments, ridge, kappa, f, df, variance)
    return Enqueued.done(solution(sums, call, w if call.weights else w[:0]))


def _sampled_ridge(d: Tensor, a2: Tensor, eps: Tensor, nu: float, c0: float) -> Tensor:
    """g [E], for d, a2 [K] with the largest d as unit; nu > K."""
    norm_square = float(a2.sum() - c0 * d.sum())
    ridge = torch.zeros_like(eps)
    some = (eps * eps > 0.0) & (norm_square > 0.0)
    if bool(some.any()):
        ridge[some] = _smallest_ridge(d, a2, eps[some], nu, c0, norm_square)
    return ridge


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


def _sampled_share(
    d: Tensor, a2: Tensor, g: Tensor, nu: float, c0: float, norm_square: float
) -> tuple[Tensor, Tensor]:
    """-kappa^2 f'(kappa) / |m|^2, which goes from 0 to 1 in g, and its derivative in log g."""
    kappa, f, df = _expansion(d, a2, g, nu, c0, 2)
    # kappa = g / (1 - df/nu) gives dg/dkappa = 1 - (kappa df)'/nu.
    kappa_per_log = g / (1.0 - (df[0] + kappa * df[1]) / nu)
    share = -kappa * kappa * f[1] / norm_square
    return share, -2.0 * kappa * (f[1] + kappa * f[2]) / norm_square * kappa_per_log


def _smallest_ridge(d: Tensor, a2: Tensor, eps: Tensor, nu: float, c0: float, norm_square: float) -> Tensor:
    """The smallest g of share(g) = eps^2, for eps [E] > 0, found on a grid of half octaves and refined."""

    def share(g: Tensor) -> tuple[Tensor, Tensor]:
        return _sampled_share(d, a2, g, nu, c0, norm_square)

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
    return rising_root(share, target, grid[first - 1], grid[first])
