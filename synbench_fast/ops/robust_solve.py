"""robust_solve: all eps-robust linear classifiers of two Gaussians, and their signal-to-noise ratios."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import check_device
from synbench_fast.ops.dispatch import OPERATIONS, Operation, resolve

__all__ = ["MOMENTS", "Enqueued", "RobustSolution", "Solve", "enqueue", "robust_solve"]

MOMENTS = ("sampled", "known")
KNOWN_CUT = 1e-6


@dataclass(frozen=True, slots=True)
class RobustSolution:
    """Classifiers of E budgets eps on F features, from the K kept eigenvalues; all tensors float64.

    Attributes:
        rank: K, the number of eigenvalues above the cut.
        eigenvalue_range: smallest and largest kept eigenvalue of the covariance, in squared feature units.
        mean_norm: |m| in feature units: sqrt(max(0, |m|^2 - c0 tr S)) for sampled moments, the norm of
            the kept part of m for known moments.
        ridge: [E] g added to the sample covariance, in squared feature units; 0 at eps = 0.
        kappa: [E] population ridge that g stands for; g itself for known moments.
        signal: [E] m'w, dimensionless; for sampled moments its population value f(kappa), estimated.
        variance: [E] w'Cw, likewise.
        t: [E] signal / sqrt(variance): Phi(t) is the accuracy on balanced Gaussian classes. 0 without a signal.
        t_rob: [E] (m'w - r |w|) / sqrt(w'Cw), r = eps |m|: Phi(t_rob) is the accuracy under attacks of norm r.
        t_cov, t_rob_cov: [E, E] sampling covariances of t and t_rob over the budgets; NaN for known moments.
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


@dataclass(frozen=True, slots=True)
class Solve:
    """The arguments of one call, as every backend takes them: see `robust_solve`."""

    m: Tensor
    covariance: Tensor
    eps: Tensor
    moments: str
    dof: int
    c0: float
    cut: float | None
    weights: bool
    threads: int

    @property
    def known(self) -> bool:
        return self.moments == "known"

    @property
    def least(self) -> float:
        """The cut: absolute for known moments, relative to the largest eigenvalue for sampled moments."""
        if self.cut is not None:
            return self.cut
        return KNOWN_CUT if self.known else 8 * len(self.m) * torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A `robust_solve` that a GPU may still be working on.

    weights [E, F], signal [E] and mean_norm [] of known moments are tensors on the device of m, for what follows
    on the same stream. `solution` waits. `again` also waits; where a device ran out of room for the weights
    (many dropped eigenvalues) it enqueues the work once more with more room, else it returns None.
    """

    weights: Tensor
    signal: Tensor
    mean_norm: Tensor
    solution: Callable[[], RobustSolution]
    again: Callable[[], Enqueued | None]

    @classmethod
    def done(cls, found: RobustSolution) -> Enqueued:
        """What a backend that waits has found."""
        norm = torch.tensor(found.mean_norm, dtype=torch.float64, device=found.weights.device)
        return cls(found.weights, found.signal, norm, lambda: found, lambda: None)


_backends = Operation[[Solve], Enqueued]("robust_solve")


def robust_solve(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor | Sequence[float],
    *,
    moments: str = "sampled",
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

    moments="known" takes m and C as they are (the published protocol). moments="sampled" estimates
    what these formulas give for the population that m and C were sampled from. With d the eigenvalues of the
    sample covariance S, a = U'm, nu = dof, and sums over the kept eigenvalues,

        df = sum d/(d + g),   rho = 1 - df/nu,   kappa = g / rho,   n = sum a^2 - c0 sum d  (for |m|^2)
        f(kappa) = rho sum a^2/(d + g) - c0 df       (for m'(C + kappa I)^-1 m)
        -kappa^2 f'(kappa) = eps^2 n                 gives g; f' is the derivative in kappa
        signal = f,  variance = f + kappa f',  t = signal / sqrt(variance),  t_rob = sqrt(variance).

    This stationary point is the maximum over kappa of f(kappa) - eps^2 n/kappa, and t_rob^2 its value; of
    several maxima, which sampling noise can make, the one of smallest kappa is taken. Where n <= 0 the
    radius is taken as 0 (kappa = 0). Where f <= 0 or variance <= 0 no signal is detected and t = t_rob = 0.

    t_cov and t_rob_cov follow by the delta method (`sampling_covariance`). The normal interval t +- 1.96 se holds its level
    while n has a standard error below about 20 %; above, estimates at large eps are skewed and the interval
    is too narrow.

    Args:
        m: [F] half the difference of the class means, (mean1 - mean0)/2, in feature units; any floating dtype,
            solved in float64, like the covariance.
        covariance: [F, F] pooled within-class covariance (scatter / dof), symmetric, in squared feature units.
        eps: [E] budgets relative to |m|, in [0, 1), in any order.
        moments: "sampled" or "known".
        dof: degrees of freedom of `covariance`, N - 2.
        c0: (1/N1 + 1/N0)/4: the sampling covariance of m is c0 C. Unused by known moments.
        cut: eigenvalues at or below it are dropped and m is projected on the rest. Absolute for known moments,
            1e-6 as published; for sampled moments relative to the largest eigenvalue, 8 F 2^-52.
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
        SynbenchError: eps outside [0, 1), wrong shapes or dtypes, NaN or infinity, unknown moments,
            features that are all constant, or too few samples for sampled moments (dof not above
            the rank).

    Source: the ridge form of SynBench's robust Gaussian classifier, and deterministic equivalents of the
    sample covariance as in arXiv 1711.00382 and 1710.03136.
    """
    m = _floating("m", m)
    budgets = torch.as_tensor(eps, dtype=torch.float64).detach().to(m.device)
    call = Solve(m, _floating("covariance", covariance), budgets, moments, dof, c0, cut, weights, threads)
    _check(call)
    found = _backends.on(m.device.type, backend)(call)
    while (more := found.again()) is not None:
        found = more
    return found.solution()


def enqueue(
    m: Tensor,
    covariance: Tensor,
    eps: Tensor,
    *,
    moments: str,
    dof: int,
    c0: float = 0.0,
    weights: bool,
    backend: str = "auto",
) -> Enqueued:
    """`robust_solve` of float64 moments without waiting for a GPU, where they must be finite and symmetric."""
    call = Solve(m, covariance, eps, moments, dof, c0, None, weights, 0)
    backend = resolve("robust_solve", m.device.type, backend)
    if not OPERATIONS["robust_solve"][backend].enqueues:  # else a look at the numbers would wait
        _check(call)
    return _backends.on(m.device.type, backend)(call)


def _check(call: Solve) -> None:
    """SynbenchError for arguments outside of the contract."""
    if call.moments not in MOMENTS:
        near = difflib.get_close_matches(str(call.moments), MOMENTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SynbenchError(f"moments: expected 'sampled' or 'known', got {call.moments!r}{hint}")
    m, covariance = call.m, call.covariance
    if m.ndim != 1 or m.shape[0] == 0:
        raise SynbenchError(f"m: expected shape [F], got {list(m.shape)}")
    size = m.shape[0]
    if covariance.shape != (size, size):
        raise SynbenchError(f"covariance: expected shape [{size}, {size}], got {list(covariance.shape)}")
    check_device("m", m.device, covariance=covariance)
    largest = _largest(covariance)
    for name, size_of in (("m", _largest(m)), ("covariance", largest)):
        if not math.isfinite(size_of):
            raise SynbenchError(f"{name}: expected finite numbers, got NaN or infinity")
    if not _symmetric_within(covariance, 1e-6 * largest):
        raise SynbenchError("covariance: expected a symmetric matrix, got an asymmetric one")
    if call.eps.ndim != 1 or call.eps.shape[0] == 0:
        raise SynbenchError(f"eps: expected shape [E] with at least one value, got {list(call.eps.shape)}")
    for one in call.eps.tolist():
        if not 0.0 <= one < 1.0:
            raise SynbenchError(f"eps: expected values in [0, 1), got {one:g}")
    if isinstance(call.dof, bool) or not isinstance(call.dof, int) or call.dof < 1:
        raise SynbenchError(f"dof: expected an integer of at least 1, got {call.dof!r}")
    for name, value in (("c0", call.c0), ("cut", call.cut)):
        if value is not None and not 0.0 <= value < math.inf:
            raise SynbenchError(f"{name}: expected a finite number of at least 0, got {value!r}")
    if isinstance(call.threads, bool) or not isinstance(call.threads, int) or call.threads < 0:
        raise SynbenchError(f"threads: expected an integer of at least 0, got {call.threads!r}")
    if largest == 0.0:
        raise SynbenchError(
            "features: expected at least one that varies within the classes, got constants only"
        )


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
