"""t as a smooth function of the scale: a fit to the scales that were sampled gives t at those that were not.

Exchanging the classes turns scale s into -s and leaves the representation's separation as it is, so t(s) is odd:
s times an even function. Near 0 it is proportional to s, and smoothed by the noise of the samples it has no sharp
turns; where it bends, it does so at small scales, as units saturate. With c_k from weighted least squares, and T_k
the Chebyshev polynomials,

    t(s) = s sum_k c_k T_k(2 v(s)/v(4.9) - 1),   v(s) = s^2 / (s^2 + 2.5^2),   k = 0 .. K - 1

and K = 3, or more where the data ask for it.

Everything that follows is linear in the t that were measured, apart from the choice of K and the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from synbench_fast.task import LARGEST_SCALE

__all__ = ["FEWEST_SCALES", "Fit", "fit_scales"]

Array = NDArray[np.float64]

BEND = 2.5
FEWEST_TERMS, MOST_TERMS = 3, 8
FEWEST_SCALES = FEWEST_TERMS + 2
# One more term lowers chi-squared by 1 on average where it is not needed, and by more than this in 5 % of the runs.
COST_OF_TERM = 4.0


@dataclass(frozen=True)
class Fit:
    """Fitted t at some scales.

    value: [J]; matrix: [J, S], value = matrix @ the measured t; coefficients: c_k [K]; p_value: chance of residuals
    like these if t(s) has this form.
    """

    value: Array
    matrix: Array
    coefficients: Array
    p_value: float


def fit_scales(scales: Array, t: Array, stderr: Array, wanted: Array) -> Fit:
    """Fit t [S], measured with errors stderr [S] at `scales` [S], and evaluate it at the scales `wanted` [J].

    The number of terms K minimises chi-squared + 4 K. A larger t has a larger error, 1 + t^2/2 in proportion; a
    weight that went by the t it weighs would favour those that came out small, so it goes by the fitted one.
    """
    known = np.isfinite(stderr) & (stderr > 0)
    error = np.where(known, stderr, np.inf)
    best: tuple[float, Array, Array, float, int] | None = None
    for terms in range(FEWEST_TERMS, min(MOST_TERMS, len(scales) - 1) + 1):
        if best is not None and best[0] <= COST_OF_TERM * terms:
            break  # no residual left that more terms could take away
        basis = _basis(scales, terms)
        weight = np.where(known, 1 / np.where(known, error, 1.0), 0.0)
        for _ in range(2):
            inverse = np.linalg.pinv(basis * weight[:, None]) * weight
            fitted = basis @ (inverse @ t)
            weight = np.where(known, np.sqrt((1 + t**2 / 2) / (1 + fitted**2 / 2)) / error, 0.0)
        inverse = np.asarray(np.linalg.pinv(basis * weight[:, None]) * weight)
        chi2 = float(np.sum(np.square((t - basis @ (inverse @ t)) * weight)))
        freedom = int(known.sum()) - terms
        if best is None or chi2 + COST_OF_TERM * terms < best[0]:
            p_value = _chi_squared_tail(chi2, freedom)
            best = (
                chi2 + COST_OF_TERM * terms,
                np.asarray(inverse, dtype=np.float64),
                np.asarray(inverse @ t, dtype=np.float64),
                p_value,
                terms,
            )
    assert best is not None  # FEWEST_SCALES scales have been asked for
    _, inverse, coefficients, p_value, terms = best
    matrix = _basis(wanted, terms) @ inverse
    return Fit(matrix @ t, matrix, coefficients, p_value)


def _basis(scales: Array, terms: int) -> Array:
    """[S, K]"""
    values = np.polynomial.chebyshev.chebvander(2 * _bent(scales) / _bent(LARGEST_SCALE) - 1, terms - 1)
    return np.asarray(scales[:, None] * values)


def _bent(scales: Array | float) -> Array:
    squares = np.square(scales)
    return np.asarray(squares / (squares + BEND**2))


def _chi_squared_tail(value: float, freedom: int) -> float:
    if freedom < 1:
        return 1.0
    half = torch.tensor([freedom, value], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(half[0], half[1]))
