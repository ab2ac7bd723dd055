"""robust_solve: all eps-robust linear classifiers of two Gaussians, and their signal-to-noise ratios."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.dispatch import implementation, resolve
from synbench_fast.ops.sampling_covariance import Moments, ratio, sampling_covariances

__all__ = ["ESTIMATORS", "Enqueued", "RobustSolution", "enqueue", "robust_solve"]

ESTIMATORS = ("consistent", "plugin")
PLUGIN_CUT = 1e-6


@dataclass(frozen=True, slots=True)
class RobustSolution:
    """Classifiers of E budgets eps on F features, from the K kept eigenvalues; all tensors float64.

    Attributes:
        rank: K, the number of eigenvalues above the cut.
        eigenvalue_range: smallest and largest kept eigenvalue of the covariance, in squared feature units.
        mean_norm: |m| in feature units: sqrt(max(0, |m|^2 - c0 tr S)) for the consistent estimator, the norm of
            the kept part of m for the plug-in.
        ridge: [E] g added to the sample covariance, in squared feature units; 0 at eps = 0.
        kappa: [E] population ridge that g stands for; g itself for the plug-in.
        signal: [E] m'w, dimensionless; for the consistent estimator its population value f(kappa), estimated.
        variance: [E] w'Cw, likewise.
        t: [E] signal / sqrt(variance): Phi(t) is the accuracy on balanced Gaussian classes. 0 without a signal.
        t_rob: [E] (m'w - r |w|) / sqrt(w'Cw), r = eps |m|: Phi(t_rob) is the accuracy under attacks of norm r.
        t_cov, t_rob_cov: [E, E] sampling covariances of t and t_rob over the budgets; NaN for the plug-in.
        cross_cov: [E, E] those of t (rows) with t_rob (columns).
        weights: [E, F] w = (S + g I)^-1 m, m projected on the kept eigenvectors; not rescaled.
    """

    rank: int
    eigenvalue_range: tuple[float, float]
    mean_norm: float
    ridge: Tensor
    kappa: Tensor
    signal: Tensor
    variance: Tensor
    t: Tensor
    t_rob: Tensor
    t_cov: Tensor
    t_rob_cov: Tensor
    cross_cov: Tensor
    weights: Tensor


def robust_solve(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor | Sequence[float],
    *,
    estimator: str = "consistent",
    dof: int,
    c0: float = 0.0,
    cut: float | None = None,
    weights: bool = True,
    threads: int = 0,
    backend: str = "auto",
) -> RobustSolution:
    """Solve the eps-robust Bayes classifier of N(c + m, C) against N(c - m, C) for all eps at once.

    For the budget r = eps |m| the classifier is w = C^-1 (m - z*), z* = argmin over |z| <= r of
    (m - z)' C^-1 (m - z). In closed form w = (C + g I)^-1 m and z* = g w, with the ridge g >= 0 at which
    |g w| = r, and

        t = m'w / sqrt(w'Cw),   t_rob = (m'w - r |w|) / sqrt(w'Cw) = sqrt(w'Cw).

    estimator="plugin" takes m and C as they are (the published protocol). estimator="consistent" estimates
    what these formulas give for the population that m and C were sampled from. With d the eigenvalues of the
    sample covariance S, a = U'm, nu = dof, and sums over the kept eigenvalues,

        df = sum d/(d + g),   rho = 1 - df/nu,   kappa = g / rho,   n = sum a^2 - c0 sum d  (for |m|^2)
        f(kappa) = rho sum a^2/(d + g) - c0 df       (for m'(C + kappa I)^-1 m)
        -kappa^2 f'(kappa) = eps^2 n                 gives g; f' is the derivative in kappa
        signal = f,  variance = f + kappa f',  t = signal / sqrt(variance),  t_rob = sqrt(variance).

    This stationary point is the maximum over kappa of f(kappa) - eps^2 n/kappa, and t_rob^2 its value; of
    several maxima, which sampling noise can make, the one of smallest kappa is taken. Where n <= 0 the
    radius is taken as 0 (kappa = 0). Where f <= 0 or variance <= 0 no signal is detected and t = t_rob = 0.

    t_cov and t_rob_cov follow by the delta method from the covariance of f at two ridges, for Gaussian
    features and to leading order in 1/nu at fixed F/nu,

        Cov(f(k1), f(k2)) = (4 c0 M + 2 c0^2 nu G + 2 M^2/nu) / (1 - G),
        M = (k2 f2 - k1 f1)/(k2 - k1),   nu G = (k2 df2 - k1 df1)/(k2 - k1)

    (at kappa = 0 the variance of the classical unbiased Mahalanobis distance), and from Cov(f(k), n) and
    Var(n), its limits for k to infinity multiplied by k. The normal interval t +- 1.96 se holds its level
    while n has a standard error below about 20 %; above, estimates at large eps are skewed and the interval
    is too narrow.

    Args:
        m: [F] half the difference of the class means, (mean1 - mean0)/2, in feature units; any floating dtype,
            solved in float64, like the covariance.
        covariance: [F, F] pooled within-class covariance (scatter / dof), symmetric, in squared feature units.
        eps: [E] budgets relative to |m|, in [0, 1), in any order.
        estimator: "consistent" or "plugin".
        dof: degrees of freedom of `covariance`, N - 2.
        c0: (1/N1 + 1/N0)/4: the sampling covariance of m is c0 C. Unused by the plug-in.
        cut: eigenvalues at or below it are dropped and m is projected on the rest. Absolute for the plug-in,
            1e-6 as published; for the consistent estimator relative to the largest eigenvalue, 8 F 2^-52.
            eigh in float64 is off by up to about F 2^-53 of the largest eigenvalue, so exactly singular
            directions (dead features, the constant sum of a LayerNorm) fall below that cut. A noise direction
            that stays costs one degree of freedom, and no bias.
        weights: whether to compute the classifiers; without them `weights` is [0, F].
        threads: 0 for torch's number of threads (CPU only). They do not change the result.
        backend: "auto", "cpp", "cuda" or "torch" (float64 specification, any device).

    Returns:
        RobustSolution. m = 0 is an answer (t = 0), not an error. `weights` are on the device of `m`; so is all else,
        but for the backend "cuda", where it is on the CPU.

    Raises:
        SynbenchError: eps outside [0, 1), wrong shapes or dtypes, NaN or infinity, an unknown estimator,
            features that are all constant, or too few samples for the consistent estimator (dof not above
            the rank).

    Source: the ridge form of SynBench's robust Gaussian classifier, and deterministic equivalents of the
    sample covariance as in arXiv 1711.00382 and 1710.03136.
    """
    if estimator not in ESTIMATORS:
        near = difflib.get_close_matches(str(estimator), ESTIMATORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SynbenchError(f"estimator: expected 'consistent' or 'plugin', got {estimator!r}{hint}")
    m = _floating("m", m)
    covariance = _floating("covariance", covariance)
    if m.ndim != 1 or m.shape[0] == 0:
        raise SynbenchError(f"m: expected shape [F], got {list(m.shape)}")
    size = m.shape[0]
    if covariance.shape != (size, size):
        raise SynbenchError(f"covariance: expected shape [{size}, {size}], got {list(covariance.shape)}")
    if covariance.device != m.device:
        raise SynbenchError(f"covariance: expected device {m.device} of m, got {covariance.device}")
    largest = _largest(covariance)
    for name, size_of in (("m", _largest(m)), ("covariance", largest)):
        if not math.isfinite(size_of):
            raise SynbenchError(f"{name}: expected finite numbers, got NaN or infinity")
    if not _symmetric_within(covariance, 1e-6 * largest):
        raise SynbenchError("covariance: expected a symmetric matrix, got an asymmetric one")
    budgets = torch.as_tensor(eps, dtype=torch.float64).detach().to(m.device)
    if budgets.ndim != 1 or budgets.shape[0] == 0:
        raise SynbenchError(f"eps: expected shape [E] with at least one value, got {list(budgets.shape)}")
    for one in budgets.tolist():
        if not 0.0 <= one < 1.0:
            raise SynbenchError(f"eps: expected values in [0, 1), got {one:g}")
    if isinstance(dof, bool) or not isinstance(dof, int) or dof < 1:
        raise SynbenchError(f"dof: expected an integer of at least 1, got {dof!r}")
    if not 0.0 <= c0 < math.inf:
        raise SynbenchError(f"c0: expected a finite number of at least 0, got {c0!r}")
    if cut is not None and not 0.0 <= cut < math.inf:
        raise SynbenchError(f"cut: expected a finite number of at least 0, got {cut!r}")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise SynbenchError(f"threads: expected an integer of at least 0, got {threads!r}")
    if largest == 0.0:
        raise SynbenchError(
            "features: expected at least one that varies within the classes, got constants only"
        )

    solve = implementation("robust_solve", resolve("robust_solve", m.device.type, backend))
    solution: RobustSolution = solve(
        m,
        covariance,
        budgets,
        estimator=estimator,
        dof=dof,
        c0=float(c0),
        cut=cut,
        weights=weights,
        threads=threads,
    )
    return solution


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A `robust_solve` that a GPU may still be working on.

    weights [E, F], signal [E] and mean_norm [] of the plug-in are tensors on the device of m, for what follows
    on the same stream. `solution` waits. `again` also waits; where a device ran out of room for the weights
    (many dropped eigenvalues) it enqueues the work once more with more room, else it returns None.
    """

    weights: Tensor
    signal: Tensor
    mean_norm: Tensor
    solution: Callable[[], RobustSolution]
    again: Callable[[], Enqueued | None]


def enqueue(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor,
    *,
    estimator: str,
    dof: int,
    c0: float = 0.0,
    weights: bool,
    backend: str = "auto",
) -> Enqueued:
    """`robust_solve` for moments that are known to be finite and symmetric, without waiting for a GPU."""
    chosen = resolve("robust_solve", m.device.type, backend)
    if chosen == "cuda":
        return _enqueue_cuda(
            m, covariance, eps, estimator=estimator, dof=dof, c0=c0, cut=None, weights=weights
        )
    found = robust_solve(
        m, covariance, eps, estimator=estimator, dof=dof, c0=c0, weights=weights, backend=chosen
    )
    norm = torch.tensor(found.mean_norm, dtype=torch.float64, device=m.device)
    return Enqueued(found.weights, found.signal, norm, lambda: found, lambda: None)


def _largest(value: Tensor) -> float:
    """max |value|, NaN if there is one; several times faster than a norm."""
    low, high = torch.aminmax(value)
    return max(abs(float(low)), abs(float(high)))


def _symmetric_within(matrix: Tensor, tolerance: float) -> bool:
    """|matrix - matrix'| <= tolerance, block by block: no second matrix, and the mirror block stays in cache."""
    block = 256
    for low in range(0, len(matrix), block):
        for left in range(0, low + 1, block):
            here = matrix[low : low + block, left : left + block]
            mirror = matrix[left : left + block, low : low + block].T
            if _largest(here - mirror) > tolerance:
                return False
    return True


def _floating(name: str, value: Tensor) -> Tensor:
    value = torch.as_tensor(value)
    if not value.is_floating_point():
        raise SynbenchError(f"{name}: expected a floating point tensor, got {value.dtype}")
    return value.detach().to(torch.float64)


def default_cut(estimator: str, cut: float | None, features: int) -> float:
    """Absolute for the plug-in, relative to the largest eigenvalue for the consistent estimator."""
    if cut is not None:
        return cut
    return PLUGIN_CUT if estimator == "plugin" else 8 * features * torch.finfo(torch.float64).eps


def check_rank(
    rank: int, estimator: str, dof: int, covariance: Tensor, threshold: float, largest: float
) -> None:
    if rank == 0:
        raise SynbenchError(
            f"features: expected a direction of variance above the cut {threshold:g}, got at most {largest:g}"
        )
    if estimator == "consistent" and dof <= rank:
        live = int((covariance.diagonal() > 0.0).sum())
        raise SynbenchError(
            f"samples: expected more than F + 2 = {live + 2} samples per scale for the consistent estimator"
            + (f" ({live} of {len(covariance)} features vary)" if live < len(covariance) else "")
            + f", got {dof + 2}; use at least {2 * live + 4}"
        )


def _torch(m: Tensor, covariance: Tensor, eps: Tensor, **options: Any) -> RobustSolution:
    from synbench_fast.ops import robust_solve_torch

    return robust_solve_torch.robust_solve(m, covariance, eps, **options)


def _cpp(
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
    from synbench_fast import _core

    try:
        found = _core.robust_solve(
            m.contiguous().numpy(),
            covariance.contiguous().numpy(),
            eps.contiguous().numpy(),
            estimator == "plugin",
            float(dof),
            c0,
            default_cut(estimator, cut, len(m)),
            weights,
            threads or torch.get_num_threads(),
        )
    except ValueError as error:  # a matrix that is no covariance, by hundreds of orders of magnitude
        raise SynbenchError(str(error)) from None
    budgets = len(eps)
    found = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in found.items()}
    found["f"], found["df"] = (found[name].reshape(-1, budgets) for name in ("f", "df"))
    return _from_sums(found, covariance, found["weights"], estimator=estimator, dof=dof, c0=c0)


def _cuda(m: Tensor, covariance: Tensor, eps: Tensor, **options: Any) -> RobustSolution:
    return _enqueue_cuda(m, covariance, eps, **options).solution()


def _enqueue_cuda(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor,
    *,
    estimator: str,
    dof: int,
    c0: float,
    cut: float | None,
    weights: bool,
    threads: int = 0,
    rotations: int | None = None,
) -> Enqueued:
    from synbench_fast.ops import robust_solve_cuda

    batch = robust_solve_cuda.start(
        m[None].contiguous(),
        covariance[None].contiguous(),
        eps.contiguous(),
        plugin=estimator == "plugin",
        dof=dof,
        c0=c0,
        cut=default_cut(estimator, cut, len(m)),
        weights=weights,
        rotations=rotations,
    )

    def solution() -> RobustSolution:
        found = batch.found(0)
        return _from_sums(found, covariance, batch.weights[0], estimator=estimator, dof=dof, c0=c0)

    def again() -> Enqueued | None:
        if not weights or not batch.rotations_full():
            return None
        more = 8 * (2 * len(m) ** 2 if rotations is None else max(1, rotations))
        return _enqueue_cuda(
            m, covariance, eps,
            estimator=estimator, dof=dof, c0=c0, cut=cut, weights=weights, rotations=more,
        )  # fmt: skip

    return Enqueued(batch.weights[0], batch.signal[0], batch.mean_norm[0], solution, again)


def _from_sums(
    found: dict[str, Any],
    covariance: Tensor,
    weights: Tensor,
    *,
    estimator: str,
    dof: int,
    c0: float,
) -> RobustSolution:
    """The solution from the sums over the spectrum that a compiled backend found."""
    rank, largest = int(found["rank"]), float(found["largest"])
    check_rank(rank, estimator, dof, covariance, found["threshold"], largest)
    moments = Moments(*(float(found[name]) for name in ("a2", "a2d", "trace", "trace_square")))
    ridge, kappa, f, df = found["ridge"], found["kappa"], list(found["f"]), list(found["df"])
    if estimator == "plugin":
        point = plugin_point(moments.a2, ridge, f[0], found["variance"])
    else:
        point = consistent_point(moments, ridge, kappa, f, df, float(dof), c0)
    return in_feature_units(point, rank, (float(found["smallest"]) * largest, largest), weights)


@dataclass(frozen=True, slots=True)
class Point:
    """What `RobustSolution` holds, in units of the largest eigenvalue and without the weights."""

    norm_square: float
    ridge: Tensor
    kappa: Tensor
    signal: Tensor
    variance: Tensor
    t: Tensor
    t_rob: Tensor
    t_cov: Tensor
    t_rob_cov: Tensor
    cross_cov: Tensor


def in_feature_units(point: Point, rank: int, span: tuple[float, float], weights: Tensor) -> RobustSolution:
    """From units of the largest eigenvalue back to those of the features."""
    unit = span[1]
    return RobustSolution(
        rank=rank,
        eigenvalue_range=span,
        mean_norm=math.sqrt(point.norm_square * unit),
        ridge=point.ridge * unit,
        kappa=point.kappa * unit,
        signal=point.signal,
        variance=point.variance,
        t=point.t,
        t_rob=point.t_rob,
        t_cov=point.t_cov,
        t_rob_cov=point.t_rob_cov,
        cross_cov=point.cross_cov,
        weights=weights,
    )


def plugin_point(norm_square: float, ridge: Tensor, signal: Tensor, variance: Tensor) -> Point:
    t_rob = variance.sqrt()
    nan = torch.full((len(ridge), len(ridge)), math.nan, dtype=torch.float64, device=ridge.device)
    return Point(
        norm_square,
        ridge,
        ridge,
        signal,
        variance,
        ratio(signal, t_rob),
        t_rob,
        nan,
        nan.clone(),
        nan.clone(),
    )


def consistent_point(
    moments: Moments, ridge: Tensor, kappa: Tensor, f: list[Tensor], df: list[Tensor], nu: float, c0: float
) -> Point:
    """t and its sampling covariance from the Taylor coefficients of f and df [E] in kappa at the ridges found."""
    signal, variance = f[0], f[0] + kappa * f[1]
    found = (signal > 0.0) & (variance > 0.0)
    t_rob = torch.where(found, variance.clamp_min(0.0).sqrt(), 0.0)
    t = torch.where(found, ratio(signal, t_rob), 0.0)
    norm_square = max(moments.a2 - c0 * moments.trace, 0.0)
    covariances = sampling_covariances(moments, kappa, f, df, nu, c0)
    return Point(norm_square, ridge, kappa, signal, variance, t, t_rob, *covariances)
