"""Whether the transport distance, or the SynBench score, goes with what fine-tuning leaves: coefficients over cells.

A cell is one (encoder, data set, method, seed). Cells of one encoder share its weights and its score, and cells of
one encoder and data set share a distance, so they are far from independent draws. Intervals resample encoders and
data sets, independently of each other and with replacement; a cell counts as often as its encoder times its data
set was drawn (the pigeonhole bootstrap: Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1 (2007), 386). Methods
and seeds are not resampled. Ends are BCa, with the acceleration of the jackknife over encoders and data sets. A factor with
one level is not resampled, and the interval then says nothing about other ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.codec import encode, nan_field
from synbench_fast.studies.base import Table
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell
from synbench_fast.studies.validity.correlation import COEFFICIENTS, FEWEST, Bootstrap, Estimate

__all__ = ["ALL_METHODS", "CellCorrelation", "CellCorrelations", "correlate_cells"]

Array = NDArray[np.float64]

ALL_METHODS = "all"
FEW_CLUSTERS = 10  # below it percentile-type intervals of clusters are known to be too narrow
_ROUNDING = 1e-12  # of the variance: what is left of one where all drawn values are equal


@dataclass(frozen=True, kw_only=True)
class CellCorrelation:
    """One coefficient of a predictor with a target, and the ends of its 95 % interval; NaN ends if there is none.

    within: "encoder" where the encoder's mean is taken from both first, "" where it is not. cells, encoders,
    data_sets: that the coefficient is over.
    """

    predictor: str
    target: str
    method: str
    within: str
    coefficient: str
    value: float
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()
    cells: int
    encoders: int
    data_sets: int


@dataclass(frozen=True, kw_only=True)
class CellCorrelations:
    """Coefficients of every predictor with its targets, for all methods together and for each."""

    correlations: list[CellCorrelation]
    cells: int
    encoders: int
    data_sets: int
    methods: list[str]
    resampled: list[str]
    resamples: int
    seed: int
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN is null."""
        return encode(self)

    def tables(self, *, coefficient: str = "spearman") -> Iterator[Table | str]:
        """One row per predictor, target and method, with the interval of one coefficient, and the warnings."""
        if coefficient not in COEFFICIENTS:
            raise SynbenchError(
                f"coefficient: expected one of {', '.join(COEFFICIENTS)}, got {coefficient!r}"
                f"{suggest(coefficient, COEFFICIENTS)}"
            )
        rows = [
            [
                one.predictor,
                one.target,
                one.method,
                one.within or "-",
                str(one.cells),
                str(one.encoders),
                str(one.data_sets),
                _interval(one),
            ]
            for one in self.correlations
            if one.coefficient == coefficient
        ]
        columns = ["predictor", "target", "method", "within", "cells", "encoders", "data sets", coefficient]
        yield Table(columns, rows, left=4)
        drawn = " and ".join(self.resampled) or "nothing"
        yield (
            f"95 % BCa intervals of {self.resamples} resamples of {drawn}; {self.cells} cells, "
            f"{_number(self.encoders, 'encoder')}, {_number(self.data_sets, 'data set')}; seed {self.seed}"
        )
        yield from self.warnings


def _number(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _interval(one: CellCorrelation) -> str:
    ends = "no interval"
    if math.isfinite(one.ci95_low):
        ends = f"{one.ci95_low:+.2f} to {one.ci95_high:+.2f}"
    return f"{one.value:+.2f} ({ends})"


def _to_pretraining(cell: Cell) -> float | None:
    return None if cell.distance is None else cell.distance.get(PRETRAINING)


def _to_others(cell: Cell) -> float | None:
    if cell.distance is None or any(name not in cell.distance for name in cell.others) or not cell.others:
        return None
    return math.fsum(cell.distance[name] for name in cell.others) / len(cell.others)


def _score_before(cell: Cell) -> float | None:
    return None if cell.score_before is None else cell.score_before.score


_Value = Callable[[Cell], float | None]
_TARGETS: dict[str, _Value] = {
    "pre-training change": lambda cell: cell.pretraining_change,
    "robustness improvement": lambda cell: cell.robustness_improvement,
    "other sets after": lambda cell: cell.ood_after,
    "pre-training after": lambda cell: cell.pretraining_after,
}
_PREDICTORS: dict[str, tuple[_Value, tuple[str, ...]]] = {
    "distance to pre-training": (_to_pretraining, ("pre-training change", "robustness improvement")),
    "mean distance to other sets": (_to_others, ("robustness improvement",)),
    "score before": (
        _score_before,
        ("other sets after", "pre-training after", "robustness improvement", "pre-training change"),
    ),
}
_OF_ENCODERS = "score before"  # the same in all cells of an encoder


def correlate_cells(cells: Sequence[Cell], *, resamples: int = 2000, seed: int = 0) -> CellCorrelations:
    """Pearson, Spearman and Kendall of distances and scores with what was measured after fine-tuning.

    Predictors: the distance from the data set fine-tuned on to the pre-training set, with the change of the accuracy
    there and with the mean change on the other sets (RI_i); the mean distance to the other sets, with the latter;
    the score before fine-tuning, with accuracies after it and with both changes. Distances of different encoders
    have different units, so with two encoders or more their coefficients are given within encoders as well: each
    encoder's mean is taken from both quantities first, once, before resampling.

    Args:
        cells: at least 3. A cell without a distance or a score is left out where that is the predictor.
        resamples: at least 100.
        seed: of the resamples.

    Raises:
        SynbenchError: too few cells, the same cell twice, a value that is not finite, or nothing to correlate.
    """
    if len(cells) < FEWEST:
        raise SynbenchError(f"cells: expected at least {FEWEST}, got {len(cells)}")
    if resamples < 100:
        raise SynbenchError(f"resamples: expected at least 100, got {resamples}")
    seen: set[tuple[str, str, str, int]] = set()
    for cell in cells:
        key = (cell.encoder, cell.fine_tuned_on, cell.method, cell.seed)
        if key in seen:
            raise SynbenchError(f"cells: expected every cell once, got {', '.join(map(str, key))} twice")
        seen.add(key)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    encoders = len({cell.encoder for cell in cells})
    data_sets = len({cell.fine_tuned_on for cell in cells})
    lines: list[str] = []
    found: list[CellCorrelation] = []
    for predictor, (value, targets) in _PREDICTORS.items():
        for method in [ALL_METHODS, *methods] if len(methods) > 1 else methods:
            wanted = [one for one in cells if method in (ALL_METHODS, one.method)]
            rows = [(one, number) for one in wanted if (number := value(one)) is not None]
            if not rows:
                continue
            place = "" if method == ALL_METHODS or len(methods) == 1 else f" ({method})"
            before = len(found)
            for target in targets:
                found += _correlations(predictor, target, method, place, rows, resamples, seed, lines)
            if method == ALL_METHODS and len(found) == before:
                break  # what all methods together do not allow, one of them does not either
    if not found:
        reason = f"; {lines[0]}" if lines else ""
        raise SynbenchError(
            f"cells: expected distances or scores that differ between cells, got nothing to correlate{reason}"
        )
    factors = (("encoder", encoders), ("data set", data_sets))
    resampled = [_number(count, word) for word, count in factors if count > 1]
    for word, count in factors:
        if count == 1:
            lines.append(f"1 {word}: intervals say nothing about other {word}s")
        elif count < FEW_CLUSTERS:
            lines.append(f"{count} {word}s are few clusters: intervals are probably too narrow")
    return CellCorrelations(
        correlations=found,
        cells=len(cells),
        encoders=encoders,
        data_sets=data_sets,
        methods=methods,
        resampled=resampled,
        resamples=resamples,
        seed=seed,
        warnings=list(dict.fromkeys(lines)),
    )


def _correlations(
    predictor: str,
    target: str,
    method: str,
    place: str,
    rows: list[tuple[Cell, float]],
    resamples: int,
    seed: int,
    lines: list[str],
) -> list[CellCorrelation]:
    x = np.array([number for _, number in rows], dtype=np.float64)
    y = np.array([_TARGETS[target](cell) for cell, _ in rows], dtype=np.float64)
    for name, values in ((predictor, x), (target, y)):
        if not np.isfinite(values).all():
            raise SynbenchError(f"{name}: expected finite values, got {values[~np.isfinite(values)][0]}")
    encoder, encoders = _levels([cell.encoder for cell, _ in rows])
    data, data_sets = _levels([cell.fine_tuned_on for cell, _ in rows])
    of_encoders = predictor == _OF_ENCODERS
    independent = encoders if of_encoders else len(set(zip(encoder.tolist(), data.tolist(), strict=True)))
    if independent < FEWEST:
        what = "encoders" if of_encoders else "pairs of encoder and data set"
        lines.append(f"{predictor}{place}: expected at least {FEWEST} {what}, got {independent}")
        return []
    clusters = _Clusters([(encoder, encoders), (data, data_sets)], resamples, seed)
    found = []
    for within in ("", "encoder") if encoders > 1 and not of_encoders else ("",):
        a, b = (_less_means(one, encoder) for one in (x, y)) if within else (x, y)
        constant = [name for name, one in ((predictor, a), (target, b)) if _constant(one)]
        if constant:
            inside = " within every encoder" if within else ""
            lines.append(
                f"{constant[0]}{place}: expected values that differ between cells, got equal ones{inside}"
            )
            continue
        for coefficient, estimate in clusters.estimates(a, b).items():
            found.append(
                CellCorrelation(
                    predictor=predictor,
                    target=target,
                    method=method,
                    within=within,
                    coefficient=coefficient,
                    value=estimate.value,
                    ci95_low=estimate.ci95_low,
                    ci95_high=estimate.ci95_high,
                    cells=len(rows),
                    encoders=encoders,
                    data_sets=data_sets,
                )
            )
    return found


def _levels(names: list[str]) -> tuple[NDArray[np.int64], int]:
    """The place of every name among the distinct ones, and how many these are."""
    distinct = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([distinct[name] for name in names]), len(distinct)


def _less_means(values: Array, group: NDArray[np.int64]) -> Array:
    means = np.bincount(group, values) / np.bincount(group)
    moved: Array = values - means[group]
    # Ties are to stay ties: the mean of equal values differs from them by rounding.
    largest = float(np.abs(values).max(initial=1e-300))
    rounded: Array = np.round(moved / largest, 12) * largest
    return rounded


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())


class _Factor(Bootstrap):
    """How often each of `count` clusters is drawn in every resample, and BCa ends."""

    @property
    def weights(self) -> Array:
        """[resamples, count], rows sum to count."""
        drawn = np.zeros((self.resamples, self.count))
        np.add.at(drawn, (np.arange(self.resamples)[:, None], self._rows), 1)
        return drawn

    def estimate_of(self, value: float, drawn: Array, without: Array) -> Estimate:
        return self._bca(value, drawn[np.isfinite(drawn)], without)


class _Clusters:
    """Resamples and jackknife of cells in crossed clusters, as weights of the cells."""

    def __init__(self, factors: Sequence[tuple[NDArray[np.int64], int]], resamples: int, seed: int) -> None:
        several = [one for one in factors if one[1] > 1]
        size = len(factors[0][0])
        self._drawn = np.ones((resamples, size))
        without = []
        self._factors = []
        for place, (member, count) in enumerate(several):
            # Two factors of one seed would draw the same places.
            factor = _Factor(count, resamples=resamples, seed=2 * seed + place)
            self._drawn *= factor.weights[:, member]
            without.append((member[None, :] != np.arange(count)[:, None]).astype(np.float64))
            self._factors.append(factor)
        self._without = np.concatenate(without) if without else np.ones((0, size))
        self._enough = len(self._without) >= FEWEST

    def estimates(self, x: Array, y: Array) -> dict[str, Estimate]:
        """Every coefficient with its interval; NaN ends where there are fewer than three clusters."""
        value = weighted_coefficients(x, y, np.ones((1, len(x))))
        if not self._enough:
            return {
                name: Estimate(value=float(one[0]), ci95_low=math.nan, ci95_high=math.nan)
                for name, one in value.items()
            }
        drawn, without = (weighted_coefficients(x, y, w) for w in (self._drawn, self._without))
        return {
            name: self._factors[0].estimate_of(float(value[name][0]), drawn[name], without[name])
            for name in COEFFICIENTS
        }


def weighted_coefficients(x: Array, y: Array, weights: Array) -> dict[str, Array]:
    """The coefficients [R] of x and y [n] with every cell repeated as often as weights [R, n] say; NaN if undefined.

    As `validity.correlation.coefficient` has them on the repeated values. Repeats of one cell are ties.
    """
    x, y = (one - one.mean() for one in (x, y))
    ranks = []
    signs = []
    for one in (x, y):
        less = np.sign(one[:, None] - one[None, :])  # [i, j]: 1 where j is below i
        # Below, half of the equals, and one half: the mean place of the repeats of i.
        ranks.append(weights @ ((less + 1) / 2).T + 0.5)
        signs.append(less)
    concordant, in_x, in_y = (
        np.einsum("rn,rn->r", weights @ product, weights)
        for product in (signs[0] * signs[1], signs[0] ** 2, signs[1] ** 2)
    )
    same = [np.broadcast_to(one, weights.shape) for one in (x, y)]
    return {
        "pearson": _pearson(same[0], same[1], weights),
        "spearman": _pearson(ranks[0], ranks[1], weights),
        "kendall": _ratio(concordant, in_x, in_y),
    }


def _pearson(x: Array, y: Array, weights: Array) -> Array:
    total = weights.sum(1, keepdims=True)
    total = np.where(total > 0, total, math.nan)
    scale = [np.square(one).max() * total[:, 0] * _ROUNDING for one in (x, y)]
    x, y = (one - (weights * one).sum(1, keepdims=True) / total for one in (x, y))
    products = [(weights * a * b).sum(1) for a, b in ((x, y), (x, x), (y, y))]
    squares = [np.where(one > low, one, 0.0) for one, low in zip(products[1:], scale, strict=True)]
    return _ratio(products[0], squares[0], squares[1])


def _ratio(product: Array, first: Array, second: Array) -> Array:
    length = np.sqrt(first) * np.sqrt(second)
    found: Array = np.clip(product / np.where(length > 0, length, math.nan), -1.0, 1.0)
    return found
