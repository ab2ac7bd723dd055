"""What the optimum classifier of two classes reaches: exactly for two covariances, by simulation for unknown places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from synbench_fast.tasks.families.base import Floats

__all__ = ["Optimum", "compared", "evidence", "simulated"]

_NODES = 16  # of an integral, at a time


@dataclass(frozen=True)
class Optimum:
    """What the best possible classifier of two classes with equal priors reaches.

    `scale` = Phi^-1(accuracy): the scale of the mean-shift task that is as hard. It comes from `error`, so that it
    stays exact where the accuracy is 1 to the last bit. `standard_error` is that of the accuracy, 0 if it is exact.
    """

    error: float
    standard_error: float = 0.0

    @property
    def accuracy(self) -> float:
        return 1 - self.error

    @property
    def scale(self) -> float:
        return -float(torch.special.ndtri(torch.tensor(self.error, dtype=torch.float64)))


def compared(ratios: Floats) -> Optimum:
    """The optimum for N(0, I) against a covariance whose eigenvalues are 1 / ratios, both up to one linear map.

    With z ~ N(0, I) the log likelihood ratio is L = 1/2 sum_m ((l_m - 1) z_m^2 - log l_m) under the first class, and
    L' = 1/2 sum_m ((1 - 1/l_m) z_m^2 - log l_m) under the second; the error is (P(L < 0) + P(L' > 0)) / 2. Swapping
    the classes inverts the ratios, so both terms are one function of l and 1/l.

    Args:
        ratios: [D] generalised eigenvalues l_m > 0 of the first covariance to the second.

    Source: Imhof, Computing the distribution of quadratic forms in normal variables, Biometrika 48 (1961); the contour
    is that of Rice, Distribution of quadratic forms in normal random variables, SIAM J. Sci. Stat. Comput. 1 (1980).
    """
    return Optimum((_below_zero(ratios) + _below_zero(1 / ratios)) / 2)


def _below_zero(ratios: Floats) -> float:
    """P(L < 0) for L = 1/2 sum_m ((l_m - 1) z_m^2 - log l_m): the inverse Laplace integral along Re t = c < 0,

        P = -1/pi int_0^inf Re(exp(K(c + i y)) / (c + i y)) dy,  K(t) = -1/2 sum_m (log(1 - t (l_m - 1)) + t log l_m)

    by the trapezoidal rule, whose error falls exponentially with the number of nodes because the integrand is analytic.
    c is where K is least, in (-1, 0): K(0) = K(-1) = 0 and K is convex.
    """
    weight, log_ratio = ratios - 1, np.log(ratios)
    drift = float(log_ratio.sum())

    def slope(t: float) -> float:
        return 0.5 * (float((weight / (1 - t * weight)).sum()) - drift)

    low, high = -1.0, 0.0
    if slope(0.0) <= 0 or not np.any(weight):  # the classes are one
        return 0.5
    while high - low > -1e-6 * low:  # where it is only has to be near
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    c = (low + high) / 2
    curvature = 0.5 * float(((weight / (1 - c * weight)) ** 2).sum())
    if curvature < 1:  # nearly one class: the pole at 0 would need steps far below the width of the peak
        step = 0.25 / np.sqrt(0.5 * float((weight**2).sum()))
        total = 0.0
        # P = 1/2 - 1/pi int_0^inf Im(exp(K(i y))) / y dy (Gil-Pelaez, 1951)
        for first in range(0, 200_000, _NODES):
            y = step * (np.arange(first, first + _NODES) + 0.5)
            values = np.exp(_cumulants(0.0, y, weight, drift))
            total += float((values.imag / y).sum())
            if np.abs(values[-1]) < 1e-17:
                break
        return float(0.5 - total * step / np.pi)
    # Steps that resolve both the width of the peak and the pole at 0 leave errors below 1e-15.
    step = min(0.25 / np.sqrt(curvature), -c / 6)
    peak = float(_cumulants(c, np.zeros(1), weight, drift)[0].real)
    total = 0.5 / c
    for first in range(1, 200_000, _NODES):
        y = step * np.arange(first, first + _NODES)
        terms = np.exp(_cumulants(c, y, weight, drift) - peak) / (c + 1j * y)
        total += float(terms.real.sum())
        if np.abs(terms[-1]) < 1e-17:
            break
    return float(-total * step / np.pi * np.exp(peak))


def _cumulants(c: float, y: Floats, weight: Floats, drift: float) -> NDArray[np.complex128]:
    """K(t) = log E exp(t L) at t = c + i y, for each y of at least 0 in increasing order.

    With v_m = w_m / (1 - c w_m) a term is log(1 - t w_m) = log(1 - c w_m) + log(1 - i y v_m). Nearly all |y v_m| are
    small, and the sum over these is the series -sum_k (i y)^k p_k / k of the power sums p_k = sum_m v_m^k.
    """
    unit = y[-1] if y[-1] > 0 else 1.0
    v, at = unit * weight / (1 - c * weight), 1j * y / unit
    small = np.abs(v) < 0.25
    logs = np.array([np.log(1 - one * v[~small]).sum() for one in at])
    power, factor = v[small], v[small]
    for k in range(1, 27):  # 4^-27 / 27 is below the precision
        logs -= at**k * (power.sum() / k)
        power = power * factor
    total: NDArray[np.complex128] = -0.5 * (np.log1p(-c * weight).sum() + logs + (c + 1j * y) * drift)
    return total


def evidence(z: NDArray[np.complex128], picture: NDArray[np.complex128], contrasts: Floats) -> Floats:
    """log p(z | picture) up to a constant, its place uniform on the torus and its contrast uniform in `contrasts`.

    log mean over places s and contrasts c of exp(c r(s) - c^2 e / 2), e = |picture|^2 and r(s) the correlation.

    Args:
        z: transforms [count, C, *places] of samples in white noise of deviation 1 per frequency.
        picture: transform [C, *places] of what is looked for.
        contrasts: [n].

    Returns:
        [count].
    """
    axes = tuple(range(1, picture.ndim))
    energy = float((np.abs(picture) ** 2).sum())
    found = np.empty(len(z))
    for i, one in enumerate(z):  # one at a time bounds the memory
        r = np.fft.ifftn((one * picture.conj()).sum(0), axes=tuple(a - 1 for a in axes), norm="forward").real
        exponent = contrasts[:, None] * r.ravel() - 0.5 * contrasts[:, None] ** 2 * energy
        most = exponent.max()
        found[i] = most + np.log(np.exp(exponent - most).mean())
    return found


def simulated(difference: Floats) -> Optimum:
    """The optimum from log p(x | one) - log p(x | other) of samples of both classes in equal numbers.

    The probability of the less likely class, averaged over samples, is the error; it varies less than counts do.
    """
    wrong = 1 / (1 + np.exp(np.minimum(np.abs(difference), 700.0)))
    return Optimum(float(wrong.mean()), float(wrong.std(ddof=1) / np.sqrt(len(wrong))))
