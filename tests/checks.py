"""Independent arithmetic that several test files compare with, and the check of one-line errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from synbench_fast.errors import SynbenchError

Array = NDArray[np.float64]


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The block raises a SynbenchError of one line that contains every one of `parts`."""
    with pytest.raises(SynbenchError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def classifiers(m: Array, covariance: Array, eps: Sequence[float], cut: float = 0.0) -> tuple[Array, float]:
    """w [E, F] of the eps-robust Bayes classifiers and |m|, eigenvalues <= cut left out.

    From the definition: w = (C + g I)^-1 m with |g w| = eps |m|, by bisection on log g.
    """
    d, u = np.linalg.eigh(covariance)
    u, d = u[:, d > cut], d[d > cut]
    a = u.T @ m
    norm = float(np.linalg.norm(a))
    rows = []
    for one in eps:
        g = 0.0
        if one > 0:

            def excess(log_g: float, one: float = one) -> float:
                return float(np.linalg.norm(a * np.exp(log_g) / (d + np.exp(log_g)))) / norm - one

            g = np.exp(brentq(excess, np.log(d.min()) - 40, np.log(d.max()) + 40, xtol=1e-14, rtol=1e-14))
        rows.append(u @ (a / (d + g)))
    return np.array(rows), norm


def population(m: Array, covariance: Array, eps: Sequence[float]) -> tuple[Array, Array, Array]:
    """t, t_rob and the deviation sqrt(w'Cw) of the margin, each [E], of the robust classifiers of a known C."""
    w, norm = classifiers(m, covariance, eps)
    deviation = np.sqrt(np.einsum("ef,fg,eg->e", w, covariance, w))
    signal = w @ m
    t_rob = (signal - np.asarray(eps) * norm * np.linalg.norm(w, axis=1)) / deviation
    return signal / deviation, t_rob, deviation
