"""Accuracy and reach as smooth functions of the scale: a fit to the scales that were sampled gives all others.

Exchanging the classes turns scale s into -s and accuracy a into 1 - a, so a - 1/2 is odd in s; and for every margin
distribution (reach - 1/2) s is even. Both are smooth, because the noise of the samples smooths them, and bend at small
scales, where units saturate. With T_k the Chebyshev polynomials, by weighted least squares,

    a(s) - 1/2           = s / sqrt(s^2 + 2.5^2) sum_k c_k T_k(2 v(s)/v(4.9) - 1),    v(s) = s^2 / (s^2 + 2.5^2)
    (reach(s) - 1/2) s   = sqrt(s^2 + 2.5^2)     sum_k d_k T_k(2 v(s)/v(4.9) - 1),    k = 0 .. K - 1

with K = 5 and 4 terms, or more where the data ask for it. For a(s) = Phi(c s) with any c up to 1 these are within 4e-4
of the accuracy, and within 2e-3 of the reach where the accuracy exceeds 0.6. What follows is linear in what was
measured, apart from the choice of K and of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbench_fast.scales import LARGEST_SCALE

__all__ = ["FEWEST_SCALES", "Fit", "fit_accuracy", "fit_reach"]

Array = NDArray[np.float64]

BEND = 2.5
ACCURACY_TERMS, REACH_TERMS, MOST_TERMS = 5, 4, 8
# How closely these curves follow those of Gaussian margins: what is measured better than that counts as measured so well.
ACCURACY_FORM, REACH_FORM = 5e-4, 1e-3
FEWEST_SCALES = 5
# One more term lowers chi-squared by 1 on average where it is not needed, and by more than this in 5 % of the runs.
COST_OF_TERM = 4.0


@dataclass(frozen=True)
class Fit:
    """A fitted curve at some scales.

    value: [J]; matrix: [J, S], value = matrix @ measured + constant; coefficients: [K]; chi2, freedom: of the residuals
    in errors; dispersion: at least 1, by which the residuals say that the errors are too small.
    """

    value: Array
    matrix: Array
    coefficients: Array
    chi2: float
    freedom: int

    @property
    def dispersion(self) -> float:
        """Factor of the variances: chi-squared over its degrees of freedom where that is more than chance."""
        if self.freedom < 1:
            return 1.0
        ratio = self.chi2 / self.freedom
        # The 95 % quantile of chi-squared over its degrees of freedom (Wilson and Hilferty).
        usual = (1 - 2 / (9 * self.freedom) + 1.645 * (2 / (9 * self.freedom)) ** 0.5) ** 3
        return ratio if ratio > usual else 1.0


def fit_accuracy(scales: Array, accuracy: Array, stderr: Array, wanted: Array) -> Fit:
    """Fit accuracies [S] with errors [S] at `scales` [S], and evaluate them at the scales `wanted` [J]."""
    return _fit(
        scales, accuracy, stderr, wanted, ACCURACY_TERMS, ACCURACY_FORM, lambda s: s / np.sqrt(s**2 + BEND**2)
    )


def fit_reach(scales: Array, reach: Array, stderr: Array, wanted: Array) -> Fit:
    """The same for reaches; those that are infinite, or without an error, do not count."""
    return _fit(scales, reach, stderr, wanted, REACH_TERMS, REACH_FORM, lambda s: np.sqrt(s**2 + BEND**2) / s)


def _fit(
    scales: Array,
    measured: Array,
    stderr: Array,
    wanted: Array,
    fewest: int,
    form: float,
    shape: Callable[[Array], Array],
) -> Fit:
    known = np.isfinite(measured) & np.isfinite(stderr) & (stderr > 0)
    usable = int(known.sum())
    # Weights go by smoothed errors, so that they do not follow luck; where one is far larger than that, by itself.
    smoothed = _smoothed(scales, stderr, known)
    error = np.hypot(np.maximum(smoothed, np.where(known, stderr, 0.0) / 3), form)
    weight = np.where(known, 1 / error, 0.0)
    values = np.where(known, measured - 0.5, 0.0)
    best: tuple[float, Fit] | None = None
    for terms in range(max(1, min(fewest, usable - 1)), min(MOST_TERMS, usable - 1) + 1):
        if best is not None and best[0] <= COST_OF_TERM * terms:
            break  # no residual left that more terms could take away
        basis = _basis(scales, terms, shape)
        inverse = np.linalg.pinv(basis * weight[:, None]) * weight
        coefficients = np.asarray(inverse @ values, dtype=np.float64)
        chi2 = float(np.sum(np.square((values - basis @ coefficients) * weight)))
        if best is None or chi2 + COST_OF_TERM * terms < best[0]:
            matrix = np.asarray(_basis(wanted, terms, shape) @ inverse, dtype=np.float64)
            fit = Fit(matrix @ values + 0.5, matrix, coefficients, chi2, usable - terms)
            best = (chi2 + COST_OF_TERM * terms, fit)
    if best is None:  # hardly anything is known
        shape_of = np.full(len(wanted), np.nan)
        return Fit(shape_of, np.full((len(wanted), len(scales)), np.nan), np.zeros(0), 0.0, 0)
    return best[1]


def _smoothed(scales: Array, stderr: Array, known: NDArray[np.bool_]) -> Array:
    """Errors [S] with log stderr^2 a parabola in the scale, by least absolute deviations."""
    if int(known.sum()) < 4:
        return np.where(known, stderr, 1.0)
    basis = np.vander(scales / LARGEST_SCALE, 3)
    log = np.log(np.square(np.where(known, stderr, 1.0)))
    weight = known.astype(np.float64)
    coefficients = np.zeros(3)
    for _ in range(20):
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(basis * root[:, None], log * root, rcond=None)[0]
        weight = np.where(known, 1 / np.maximum(1e-3, np.abs(log - basis @ coefficients)), 0.0)
    return np.asarray(np.exp(basis @ coefficients / 2))


def _basis(scales: Array, terms: int, shape: Callable[[Array], Array]) -> Array:
    """[S, K]"""
    bent, most = (s**2 / (s**2 + BEND**2) for s in (scales, LARGEST_SCALE))
    return np.asarray(
        shape(scales)[:, None] * np.polynomial.chebyshev.chebvander(2 * bent / most - 1, terms - 1)
    )
