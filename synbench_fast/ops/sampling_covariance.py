"""Sampling covariance of the consistent estimates of t over the budgets, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.ops.robust_spectrum import ratio

__all__ = ["Moments", "sampling_covariances"]


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the kept eigenvalues, the largest as unit."""

    a2: float  # sum a^2
    a2d: float  # sum a^2 d
    trace: float  # sum d
    trace_square: float  # sum d^2


def sampling_covariances(
    moments: Moments, kappa: Tensor, f: Sequence[Tensor], df: Sequence[Tensor], nu: float, c0: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances [E, E] of t with t, of t_rob with t_rob, and of t (rows) with t_rob (columns).

    The delta method on the estimates f(kappa), f'(kappa) and n = |m|^2, whose covariances for Gaussian features
    follow from that of f at two ridges (leading order in 1/nu at fixed F/nu),

        K(k1, k2) = (4 c0 M + 2 c0^2 nu G + 2 M^2 / nu) / (1 - G),
        M = (k2 f2 - k1 f1)/(k2 - k1),   nu G = (k2 df2 - k1 df1)/(k2 - k1).

    Args:
        moments: sums over the kept eigenvalues, the largest as unit, as everywhere here.
        kappa: [E] population ridges.
        f, df: four Taylor coefficients [E] in kappa each.
        nu: degrees of freedom of the covariance. c0: sampling variance of m relative to it.

    Source: docs/method.md, section on standard errors; at kappa = 0 it is the classical variance of an
    unbiased Mahalanobis distance.
    """
    trace = moments.trace
    norm_square = moments.a2 - c0 * trace
    # u = kappa f and w = kappa df, whose divided differences make up the covariance of f.
    u = [kappa * f[0], *(kappa * f[n] + f[n - 1] for n in (1, 2, 3))]
    w = [kappa * df[0], *(kappa * df[n] + df[n - 1] for n in (1, 2, 3))]
    signal, variance = f[0], u[1]

    # Covariances of the estimates x = (f(kappa_1..E), f'(kappa_1..E), n) at fixed kappa.
    value, slope, mixed = _covariance(kappa, u, w, nu, c0)
    trace_square = moments.trace_square - trace * trace / nu
    m_covariance_m = max(0.0, moments.a2d - c0 * trace_square)
    norm_variance = 4.0 * c0 * m_covariance_m + 2.0 * c0 * c0 * trace_square
    value_norm = 4.0 * c0 * (norm_square - u[0]) + 2.0 * c0 * c0 * (trace - w[0])
    slope_norm = -4.0 * c0 * u[1] - 2.0 * c0 * c0 * w[1]
    joint = torch.cat(
        [
            torch.cat([value, mixed, value_norm[:, None]], 1),
            torch.cat([mixed.T, slope, slope_norm[:, None]], 1),
            torch.cat([value_norm, slope_norm, value_norm.new_tensor([norm_variance])])[None],
        ]
    )

    # Gradients [E, 2E + 1] in x, with eps^2 n = -kappa^2 f' substituted. The variance is the maximum of
    # f(k) - eps^2 n/k, so only its explicit dependence counts: df + (kappa f'/n) dn. The maximum moves by
    # dkappa = -shift (df' - (f'/n) dn), which changes the signal by f' dkappa.
    moves = kappa > 0.0
    per_norm = torch.where(moves, f[1] / norm_square if norm_square > 0.0 else 0.0, 0.0)
    curvature = 2.0 * f[1] + 2.0 * kappa * f[2]  # kappa times the second derivative of f(k) - eps^2 n/k
    shift = torch.where(moves & (curvature < 0.0), kappa / curvature, 0.0)
    identity, zero = torch.eye(len(kappa), dtype=kappa.dtype, device=kappa.device), torch.zeros_like(value)
    d_variance = torch.cat([identity, zero, (kappa * per_norm)[:, None]], 1)
    d_signal = torch.cat([identity, -torch.diag(f[1] * shift), (f[1] * shift * per_norm)[:, None]], 1)

    # Where the variance drowns in its own error the square root has no useful derivative: it is taken at a
    # quarter of that error, so that the error of t stays finite and its interval reaches t = 0.
    error = (d_variance @ joint @ d_variance.T).diagonal().clamp_min(0.0).sqrt()
    safe_variance = torch.maximum(variance, error / 4.0)
    safe_signal = torch.maximum(signal, safe_variance)
    root = safe_variance.sqrt()
    d_t = ratio(d_signal.T, root) - ratio(0.5 * safe_signal * d_variance.T, safe_variance * root)
    d_t_rob = ratio(0.5 * d_variance.T, root)
    return (
        _symmetric(d_t.T @ joint @ d_t),
        _symmetric(d_t_rob.T @ joint @ d_t_rob),
        d_t.T @ joint @ d_t_rob,
    )


def _covariance(
    kappa: Tensor, u: list[Tensor], w: list[Tensor], nu: float, c0: float
) -> tuple[Tensor, Tensor, Tensor]:
    """[E, E] covariances of f(k_i) with f(k_j), of f'(k_i) with f'(k_j), and of f(k_i) with f'(k_j)."""
    m00, m01, m11 = _divided_difference(kappa, u)
    m00 = m00.clamp_min(0.0)  # k f(k) rises with k in the population; its estimate need not without a signal
    g00, g01, g11 = (x / nu for x in _divided_difference(kappa, w))
    m10, g10 = m01.T, g01.T
    quadratic, wishart = 2.0 * c0 * c0 * nu, 2.0 / nu
    n00 = 4.0 * c0 * m00 + quadratic * g00 + wishart * m00 * m00
    n01 = 4.0 * c0 * m01 + quadratic * g01 + wishart * 2.0 * m00 * m01
    n11 = 4.0 * c0 * m11 + quadratic * g11 + wishart * 2.0 * (m00 * m11 + m01 * m10)
    # K (1 - G) = n, differentiated in the second, and in both arguments.
    k00 = n00 / (1.0 - g00)
    k01 = (n01 + k00 * g01) / (1.0 - g00)
    k11 = (n11 + k00 * g11 + k01 * g10 + k01.T * g01) / (1.0 - g00)
    return k00, k11, k01


def _divided_difference(k: Tensor, u: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(u(y) - u(x))/(y - x) at x = k_i, y = k_j, its derivative in y, and in both, [E, E].

    u holds the Taylor coefficients of orders 0 to 3 at k. Ridges closer than 1e-4 of their size, where the
    quotients would lose their digits, share the mean of their coefficients, the limit for y to x.
    """
    x, y = k[:, None], k[None, :]
    near = (y - x).abs() <= 1e-4 * torch.maximum(x, y)
    step = torch.where(near, 1.0, y - x)
    first = (u[0][None, :] - u[0][:, None]) / step
    second = (u[1][None, :] - first) / step
    both = (u[1][None, :] + u[1][:, None] - 2.0 * first) / step**2
    limit = [0.5 * (c[None, :] + c[:, None]) for c in u]
    return (
        torch.where(near, limit[1], first),
        torch.where(near, limit[2], second),
        torch.where(near, limit[3], both),
    )


def _symmetric(matrix: Tensor) -> Tensor:
    """Symmetric, with no negative variance: the plugged-in kernel need not be positive."""
    matrix = 0.5 * (matrix + matrix.T)
    short = (-matrix.diagonal()).clamp_min(0.0)
    return matrix + torch.diag(short)
