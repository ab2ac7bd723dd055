"""eps*: the budget at which the score is largest, and which other budgets the samples cannot tell from it.

The score at every eps comes from the same samples, so what decides is the error of a difference,

    Var(score_i - score_j) = c_ii + c_jj - 2 c_ij,    c the sampling covariance [E, E] of the scores.

The confidence set holds eps_i if no other score is significantly above score_i:

    max_j (score_j - score_i) / se_ij <= q_i,   q_i the 95 % quantile of max_j (Z_j - Z_i) / se_ij,  Z ~ N(0, c).

If eps_i is the true maximum, every expected difference is at most 0 and the left side exceeds q_i with a
probability of at most 5 %: the set contains the true maximum with at least 95 %. (Multiple comparisons with
the best: Hsu, Annals of Statistics 9, 1981.) Where c is the spread of R runs, whose few differences say little of how
E scores move together, q_i is Bonferroni's: the quantile 1 - 0.05/(E - 1) of Student's t with R - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbench_fast.checks import check_integer
from synbench_fast.errors import SynbenchError
from synbench_fast.results.codec import nan_field
from synbench_fast.results.records import WITHHELD, Result
from synbench_fast.stats.estimators import BUILT_IN
from synbench_fast.studies.base import Report, Table, row_of
from synbench_fast.studies.inheritance.intervals import t_quantile

__all__ = ["EPS_GRID", "EPS_STAR_SCHEMA", "EPS_STAR_THRESHOLD", "EpsScore", "EpsStar", "find_eps_star"]

EPS_GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
EPS_STAR_THRESHOLD = 0.7
EPS_STAR_SCHEMA = "synbench-fast/eps-star"
EPS_STAR_SCHEMA_VERSION = 1

_LEVEL = 0.95
_DRAWS = 50_000
_MOST_EPS = 100  # the quantiles take time of the square of their number

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EpsScore:
    """The score at one budget, and whether the samples leave it a candidate for the maximum."""

    eps: float
    score: float
    stderr: float = nan_field()
    in_set: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class EpsStar(Report):
    """Where the score is largest over a grid of budgets.

    `eps_star` is the largest grid point `grid_eps`, moved to the vertex of the parabola through it and its two
    neighbours if it has two. `set_low` and `set_high` are the extremes of the 95 % confidence set, whose
    members are marked in `points`. `position` says where the largest grid point lies: "inside", "first" or
    "last". `errors` says where the covariance over eps is from: "given", "result", "repeats" (the spread of
    several runs) or "bound" (the widest differences that errors of correlation >= 0 can have). `runs` is the
    number of results.
    """

    schema: str = EPS_STAR_SCHEMA
    schema_version: int = EPS_STAR_SCHEMA_VERSION
    encoder: str
    estimator: str
    samples: int
    threshold: float
    eps_star: float
    grid_eps: float
    position: str
    set_low: float
    set_high: float
    errors: str
    runs: int
    points: list[EpsScore]
    notes: list[str]

    def summary(self) -> str:
        """One line: eps*, its 95 % set, and where the maximum lies."""
        members = ", ".join(f"{one.eps:g}" for one in self.points if one.in_set)
        return (
            f"{self.encoder}: eps* = {self.eps_star:.3g} at threshold {self.threshold:g}; "
            f"95 % set {members} ({self.estimator}, {self.samples} samples per scale)"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per budget."""
        return [{"encoder": self.encoder, **row_of(one)} for one in self.points]

    def tables(self) -> Iterator[Table | str]:
        """eps*, its 95 % set and the largest score; then what limits them."""
        members = ", ".join(f"{one.eps:g}" for one in self.points if one.in_set)
        largest = max(one.score for one in self.points)
        yield Table(
            ["encoder", "eps*", "95 % set", "score"],
            [[self.encoder, f"{self.eps_star:.3g}", members, f"{largest:.4f}"]],
        )
        yield from (f"{self.encoder}: {note}" for note in self.notes)


def find_eps_star(
    result: Result | Sequence[Result],
    *,
    threshold: float = EPS_STAR_THRESHOLD,
    covariance: ArrayLike | None = None,
    seed: int = 0,
) -> EpsStar:
    """The budget with the largest score at one threshold, with a 95 % confidence set.

    Args:
        result: a result with at least two budgets, or at least three results that differ in their seed alone.
            Of several, the scores are averaged; without covariances of their own, their spread gives the errors of
            differences, and the quantile is that of Bonferroni and Student.
        threshold: one of the result's threshold accuracies.
        covariance: [E, E] sampling covariance of the scores over the result's eps, in its order. Without it
            `result.score_covariance` is used if the result has one. Without either, the errors are taken to have
            any correlation of at least 0: the variance of a difference is then at most the sum of both variances,
            and the quantile is that of Bonferroni, z(1 - 0.05/(E - 1)). Errors of scores from the same samples are
            positively correlated, so that set is too large rather than too small.
        seed: of the draws behind the quantiles, where there is a covariance.

    Returns:
        EpsStar.

    Raises:
        SynbenchError: fewer than two budgets or one twice, a threshold the result does not have, no score above 0
            there, a covariance of another shape, not symmetric, or with a negative eigenvalue; results that do not
            belong together.
    """
    check_integer("seed", seed, 0, "an integer in [0, 2^64)", 2**64)
    results = [result] if isinstance(result, Result) else list(result)
    first = _alike(results)
    order = sorted(range(len(first.eps)), key=lambda i: first.eps[i])
    eps = np.array([first.eps[i] for i in order])
    if len(eps) < 2:
        raise SynbenchError(f"eps: expected a result with at least 2 budgets, got {len(eps)}")
    if len(set(first.eps)) < len(eps):
        raise SynbenchError(f"eps: expected distinct budgets, got {first.eps}")
    if len(eps) > _MOST_EPS:
        raise SynbenchError(f"eps: expected at most {_MOST_EPS} budgets, got {len(eps)}")
    table = np.array([[one.score(e, threshold).score for e in eps] for one in results])
    if not np.isfinite(table).all():
        raise SynbenchError(f"threshold: expected one with a defined score at every eps, got {threshold:g}")
    scores = table.mean(axis=0)
    if scores.max() <= 0:
        raise SynbenchError(
            f"threshold: expected one that {first.encoder.spec} exceeds at some scale, got {threshold:g}"
        )

    matrix, errors = _covariance(results, order, threshold, table, covariance)
    members = _members(scores, matrix, errors, len(results), seed)
    best = int(scores.argmax())
    position = "first" if best == 0 else "last" if best == len(eps) - 1 else "inside"
    deviation = np.sqrt(np.clip(matrix.diagonal(), 0, None))
    return EpsStar(
        encoder=first.encoder.spec,
        estimator=first.estimator,
        samples=max(first.task.samples),
        threshold=first.score(threshold=threshold).threshold,
        eps_star=_vertex(eps, scores, best),
        grid_eps=float(eps[best]),
        position=position,
        set_low=float(eps[members].min()),
        set_high=float(eps[members].max()),
        errors=errors,
        runs=len(results),
        points=[
            EpsScore(
                eps=float(eps[i]),
                score=float(scores[i]),
                stderr=float(deviation[i]) if math.isfinite(deviation[i]) else math.nan,
                in_set=bool(members[i]),
            )
            for i in range(len(eps))
        ],
        notes=_notes(first, eps, position, members) + _withheld(first, eps, threshold),
    )


def _covariance(
    results: list[Result], order: list[int], threshold: float, table: _Array, given: ArrayLike | None
) -> tuple[_Array, str]:
    """Covariance of the averaged scores `table` [runs, E], and where it is from.

    `order` are the places of the budgets in a result, ascending. Where only standard errors are known, the diagonal.
    """
    first = results[0]
    eps = np.array([first.eps[i] for i in order])
    deviations = np.array([[one.score(e, threshold).stderr for e in eps] for one in results])
    if given is not None:
        return _checked(given, len(order), "covariance")[np.ix_(order, order)], "given"
    if all(one.score_covariance is not None for one in results) and np.isfinite(deviations).all():
        # Of several runs, too: the spread of three says little about a covariance over many budgets.
        at = first.thresholds.index(first.score(threshold=threshold).threshold)
        rows = [i * len(first.thresholds) + at for i in order]  # eps, then thresholds
        stored = np.stack([_of_result(one)[np.ix_(rows, rows)] for one in results])
        return np.asarray(stored.sum(0) / len(results) ** 2), "result"
    if len(results) > 1 and not any(_withheld(one, eps, threshold) for one in results):
        return np.cov(table, rowvar=False) / len(results), "repeats"
    # A budget whose interval is withheld is never significantly above or below another one.
    return np.diag(np.where(np.isfinite(deviations), deviations, np.inf).max(0) ** 2), "bound"


def _withheld(result: Result, eps: _Array, threshold: float | None) -> list[str]:
    level = result.score(threshold=threshold).threshold
    reasons = {float(e): result.withheld(float(e), level) for e in eps}
    return [f"{WITHHELD} at eps {e:g}: {reason}" for e, reason in reasons.items() if reason]


def _of_result(result: Result) -> _Array:
    """`score_covariance`, whose entries are estimated one by one; what makes it no covariance is below their errors."""
    size = len(result.eps) * len(result.thresholds)
    assert result.score_covariance is not None
    if [len(row) for row in result.score_covariance] != [size] * size:
        raise SynbenchError(f"score_covariance: expected [{size}, {size}] in the result, got another shape")
    values, vectors = np.linalg.eigh(np.array(result.score_covariance))
    return np.asarray(vectors * values.clip(0) @ vectors.T)


def _alike(results: list[Result]) -> Result:
    """The first of results that may be averaged."""
    if len(results) == 2 or not results:
        raise SynbenchError(f"result: expected one result, or at least 3 to average, got {len(results)}")
    first = results[0]
    if len({one.encoder.weights_sha256 for one in results}) > 1:
        raise SynbenchError(
            f"result: expected one set of weights, got several: those of {first.encoder.spec} follow the seed"
        )
    keys = [(one.encoder, one.task, one.estimator, one.eps, one.thresholds) for one in results]
    if any(key != keys[0] for key in keys):
        raise SynbenchError("result: expected results that differ in their seed alone, got other settings")
    if len({one.seed for one in results}) < len(results):
        raise SynbenchError("result: expected results of distinct seeds, got one of them twice")
    return first


def _checked(covariance: Any, count: int, name: str) -> _Array:
    try:
        matrix = np.asarray(covariance, dtype=np.float64)
    except (TypeError, ValueError):
        raise SynbenchError(f"{name}: expected numbers [{count}, {count}], got other values") from None
    if matrix.shape != (count, count):
        raise SynbenchError(f"{name}: expected [{count}, {count}] over eps, got {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise SynbenchError(f"{name}: expected finite values, got others")
    size = float(np.abs(matrix).max())
    if float(np.abs(matrix - matrix.T).max()) > 1e-8 * size:
        raise SynbenchError(f"{name}: expected a symmetric matrix, got one that is not")
    lowest = float(np.linalg.eigvalsh(matrix)[0])
    if lowest < -1e-8 * size * count:
        raise SynbenchError(f"{name}: expected no negative eigenvalue, got {lowest:g}")
    return (matrix + matrix.T) / 2


def _members(scores: _Array, matrix: _Array, errors: str, runs: int, seed: int) -> NDArray[np.bool_]:
    """Which budgets no other one is significantly above; see the module's text. errors: see `EpsStar`."""
    count = len(scores)
    variances = matrix.diagonal()
    squares = variances[:, None] + variances[None, :]
    if errors != "bound":
        squares = np.clip(squares - 2 * matrix, 0, None)
    spread = np.sqrt(squares)
    np.fill_diagonal(spread, np.inf)
    # Differences that the covariance calls exact are exact: no quantile makes them insignificant.
    exact = spread <= 1e-12 * np.sqrt(variances.max()) if np.isfinite(variances).all() else spread == 0
    gap = scores[None, :] - scores[:, None]
    ratio = np.where(exact, np.where(gap > 0, np.inf, -np.inf), gap / np.where(exact, 1.0, spread))
    tail = (1 - _LEVEL) / (count - 1)
    if errors == "bound":
        quantile = np.full(count, NormalDist().inv_cdf(1 - tail))
    elif errors == "repeats":
        quantile = np.full(count, t_quantile(runs - 1, 1 - 2 * tail))
    else:
        quantile = _quantiles(matrix, np.where(exact, np.inf, spread), seed)
    inside: NDArray[np.bool_] = ratio.max(axis=1) <= quantile
    return inside


def _quantiles(matrix: _Array, spread: _Array, seed: int) -> _Array:
    """q_i from draws of the normal with this covariance."""
    values, vectors = np.linalg.eigh(matrix)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    noise = np.random.default_rng(seed).standard_normal((_DRAWS, len(matrix))) @ root.T
    return np.array(
        [np.quantile(((noise - noise[:, [i]]) / spread[i]).max(axis=1), _LEVEL) for i in range(len(matrix))]
    )


def _vertex(eps: _Array, scores: _Array, best: int) -> float:
    """The maximum of the parabola through the largest point and its neighbours, in Newton's form."""
    if best in (0, len(eps) - 1):
        return float(eps[best])
    (e0, e1, e2), (s0, s1, s2) = eps[best - 1 : best + 2], scores[best - 1 : best + 2]
    rise, fall = (s1 - s0) / (e1 - e0), (s2 - s1) / (e2 - e1)
    bend = (fall - rise) / (e2 - e0)
    if bend >= 0:  # three equal scores
        return float(e1)
    return float(min(max((e0 + e1) / 2 - rise / (2 * bend), e0), e2))


def _notes(result: Result, eps: _Array, position: str, members: NDArray[np.bool_]) -> list[str]:
    notes = []
    if position == "first":
        where = "0" if eps[0] == 0 else f"{eps[0]:g}, the smallest budget given"
        notes.append(f"no maximum inside: the score falls from eps = {where}")
    elif position == "last":
        notes.append(f"no maximum inside: the score is largest at {eps[-1]:g}, the largest budget given")
    if members.all():
        notes.append("every budget is in the 95 % set: these samples do not tell where the maximum is")
    estimator = BUILT_IN.get(result.estimator)
    if estimator is not None and estimator.assumes_gaussian and result.task.prior == 0.5:
        notes.append(
            f"with {estimator.name} and a threshold of at least 0.5 the score rises with eps by sampling error only"
        )
    return notes
