"""Correlation coefficients of a predictor with a measured quantity over encoders, with bootstrap intervals.

Every coefficient is the cosine of two vectors made from x and y alone: the centred values (Pearson), the centred
average ranks (Spearman), or the signs of all pairwise differences (Kendall's tau-b). Undefined is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError, suggest

__all__ = ["COEFFICIENTS", "FEWEST", "Bootstrap", "Estimate", "average_ranks", "coefficient", "correlate"]

Array = NDArray[np.float64]

FEWEST = 3  # encoders: two always lie on a line
_TAIL = 0.025
_CHUNK = 1 << 22  # numbers of a part of the resamples
_DETERMINED = 1e-12  # of 1 - r^2: what rounding leaves of 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A coefficient and the ends of its 95 % interval."""

    value: float
    ci95_low: float
    ci95_high: float


def average_ranks(x: Array) -> Array:
    """Ranks 1 ... n along the last axis of x [..., n]; equal values share the mean of their ranks."""
    order = np.argsort(x, axis=-1, kind="stable")
    ascending = np.take_along_axis(x, order, -1)
    places = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    first, last = np.ones(x.shape, dtype=bool), np.ones(x.shape, dtype=bool)  # of their run of equal values
    first[..., 1:] = ascending[..., 1:] != ascending[..., :-1]
    last[..., :-1] = first[..., 1:]
    begins = np.maximum.accumulate(np.where(first, places, 0), axis=-1)
    ends = np.minimum.accumulate(np.where(last, places, x.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, (begins + ends) / 2 + 1, -1)
    return ranks


def _centred(x: Array) -> Array:
    moved: Array = x - x.mean(-1, keepdims=True)
    # Rounding leaves equal values a difference from their mean.
    return np.where((x == x[..., :1]).all(-1, keepdims=True), 0.0, moved)


def _signs(x: Array) -> Array:
    first, second = np.triu_indices(x.shape[-1], 1)
    signs: Array = np.sign(x[..., first] - x[..., second])
    return signs


_VECTORS: dict[str, Callable[[Array], Array]] = {
    "pearson": _centred,
    "spearman": lambda x: _centred(average_ranks(x)),
    "kendall": _signs,
}
COEFFICIENTS = tuple(_VECTORS)


def _unit(name: str, x: Array) -> Array:
    if name not in _VECTORS:
        raise SynbenchError(
            f"coefficient: expected one of {', '.join(COEFFICIENTS)}, got {name!r}{suggest(name, COEFFICIENTS)}"
        )
    vectors = _VECTORS[name](x)
    length = np.sqrt(np.square(vectors).sum(-1, keepdims=True))
    return vectors / np.where(length > 0, length, math.nan)


def _cosine(a: Array, b: Array) -> Array:
    found: Array = np.clip(np.einsum("...m,...m->...", a, b), -1.0, 1.0)
    return found


def coefficient(name: str, x: Array, y: Array) -> Array:
    """The coefficient of x and y [..., n] along the last axis; NaN where one of them is constant.

    "pearson"; "spearman", Pearson's of average ranks; "kendall", tau-b (Kendall 1945), which is
    (concordant - discordant pairs) / sqrt(pairs untied in x * pairs untied in y).
    """
    return _cosine(_unit(name, x), _unit(name, y))


def partial(xy: Array, xz: Array, yz: Array) -> Array:
    """The partial coefficient of x and y given z, from those of the pairs; NaN where z determines x or y.

    (xy - xz yz) / sqrt((1 - xz^2) (1 - yz^2)): Pearson's of the residuals of linear regressions on z, Spearman's of
    those of ranks, and Kendall's partial tau (Kendall, "Partial rank correlation", Biometrika 32, 1942, 277).
    """
    left = (1 - np.square(xz)) * (1 - np.square(yz))
    found: Array = (xy - xz * yz) / np.sqrt(np.where(left > _DETERMINED, left, math.nan))
    return np.clip(found, -1.0, 1.0)


class Bootstrap:
    """The same resamples of n encoders for every pair of quantities, drawn once from `seed`.

    A resample draws n encoders with replacement. Intervals are BCa (Efron, "Better bootstrap confidence
    intervals", J. Am. Stat. Assoc. 82, 1987, 171) with the acceleration of the jackknife over encoders; resamples
    in which a coefficient is undefined are left out.
    """

    def __init__(self, count: int, *, resamples: int = 2000, seed: int = 0) -> None:
        self.count, self.resamples = count, resamples
        self._rows = np.random.default_rng(seed).integers(count, size=(resamples, count))
        keep = ~np.eye(count, dtype=bool)
        self._without = np.array([np.flatnonzero(row) for row in keep])
        self._normal = NormalDist()

    def prepare(self, x: Array) -> dict[str, tuple[Array, Array, Array]]:
        """What `estimate` needs of x [n]: unit vectors of the sample, the resamples and the jackknife."""
        return {
            name: (_unit(name, x), _unit(name, x[self._rows]), _unit(name, x[self._without]))
            for name in COEFFICIENTS
        }

    def estimate(
        self, x: dict[str, tuple[Array, Array, Array]], y: dict[str, tuple[Array, Array, Array]], name: str
    ) -> Estimate:
        """The coefficient `name` of two prepared quantities, with its interval; NaN ends if there is none."""
        value, drawn, without = (_cosine(a, b) for a, b in zip(x[name], y[name], strict=True))
        return self._bca(float(value), drawn[np.isfinite(drawn)], without)

    def difference(
        self,
        first: dict[str, tuple[Array, Array, Array]],
        second: dict[str, tuple[Array, Array, Array]],
        y: dict[str, tuple[Array, Array, Array]],
        name: str,
    ) -> Estimate:
        """The coefficient of `first` with y less that of `second`, on the same encoders and resamples."""
        value, drawn, without = (
            _cosine(a, c) - _cosine(b, c) for a, b, c in zip(first[name], second[name], y[name], strict=True)
        )
        return self._bca(float(value), drawn[np.isfinite(drawn)], without)

    def many(
        self, x: Array, y: Array, name: str, given: Array | None = None
    ) -> tuple[list[Estimate], list[Estimate]]:
        """The coefficient of each row of x [P, n] with y [n], and the partial one given `given` [n].

        The same numbers as `estimate`, computed over parts of the resamples, so that thousands of encoders fit into
        memory. Without `given` the second list is empty.
        """
        width = x.shape[1] * (x.shape[1] - 1) // 2 if name == "kendall" else x.shape[1]
        step = max(1, _CHUNK // (width * (len(x) + 2)))

        def over(rows: NDArray[np.int64]) -> tuple[Array, Array]:
            parts = []
            for first in range(0, len(rows), step):
                chosen = rows[first : first + step]
                of_x, of_y = _unit(name, x[:, chosen]), _unit(name, y[chosen])
                plain = _cosine(of_x, of_y)
                if given is None:
                    parts.append((plain, plain[:0]))
                    continue
                of_z = _unit(name, given[chosen])
                parts.append((plain, partial(plain, _cosine(of_x, of_z), _cosine(of_y, of_z))))
            plains, partials = (np.concatenate(one, axis=1) for one in zip(*parts, strict=True))
            return plains, partials

        whole, drawn, without = (
            over(rows) for rows in (np.arange(self.count)[None, :], self._rows, self._without)
        )
        found, controlled = (
            [
                self._bca(float(value[0]), one[np.isfinite(one)], left_out)
                for value, one, left_out in zip(whole[which], drawn[which], without[which], strict=True)
            ]
            for which in (0, 1)
        )
        return found, controlled

    def _bca(self, value: float, drawn: Array, without: Array) -> Estimate:
        if not math.isfinite(value) or not len(drawn) or not np.isfinite(without).all():
            return Estimate(value=value, ci95_low=math.nan, ci95_high=math.nan)
        least = 0.5 / len(drawn)
        below = float((drawn < value).mean() + 0.5 * (drawn == value).mean())
        bias = self._normal.inv_cdf(min(max(below, least), 1 - least))
        deviation = without.mean() - without
        spread = float(np.square(deviation).sum())
        acceleration = float((deviation**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
        ends = []
        for tail in (_TAIL, 1 - _TAIL):
            z = bias + self._normal.inv_cdf(tail)
            ends.append(self._normal.cdf(bias + z / max(1 - acceleration * z, 1e-6)))
        low, high = (float(one) for one in np.quantile(drawn, ends))
        return Estimate(value=value, ci95_low=min(low, value), ci95_high=max(high, value))


def correlate(
    x: Sequence[float],
    y: Sequence[float],
    *,
    names: tuple[str, str] = ("x", "y"),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Pearson, Spearman and Kendall of two quantities over n encoders, each with a 95 % BCa interval.

    Args:
        x, y: n finite values each, one per encoder.
        names: of the two in errors.
        resamples: bootstrap resamples of the encoders.
        seed: of the resamples.

    Raises:
        SynbenchError: fewer than 3 encoders, another number of values in y, a value that is not finite, or a
            quantity that is the same for all encoders, for which no coefficient is defined.
    """
    values = [np.asarray(one, dtype=np.float64) for one in (x, y)]
    for name, one in zip(names, values, strict=True):
        if one.ndim != 1 or len(one) < FEWEST:
            raise SynbenchError(f"{name}: expected the values of at least {FEWEST} encoders, got {one.size}")
        if not np.isfinite(one).all():
            raise SynbenchError(f"{name}: expected finite values, got {one[~np.isfinite(one)][0]}")
        if (one == one[0]).all():
            raise SynbenchError(
                f"{name}: expected values that differ between encoders, got {one[0]:g} for all {len(one)}"
            )
    if len(values[0]) != len(values[1]):
        raise SynbenchError(
            f"{names[1]}: expected {len(values[0])} values as {names[0]} has, got {len(values[1])}"
        )
    bootstrap = Bootstrap(len(values[0]), resamples=resamples, seed=seed)
    a, b = (bootstrap.prepare(one) for one in values)
    return {name: bootstrap.estimate(a, b, name) for name in COEFFICIENTS}
