"""Is encoder A better than B? Differences of stored scores, with the errors that the samples they share leave.

Encoders scored on one task with one seed saw the same samples, so their errors are correlated and the error of
a difference is smaller than either suggests. With psi the influences of groups of samples on the scores (those
on t, stored in the results, times the derivatives of the score in t of each scale),

    rho = sum psi_A psi_B / sqrt(sum psi_A^2 sum psi_B^2),    Var(A - B) = V_A + V_B - 2 rho sqrt(V_A V_B)

and V the squared standard errors of the scores. Intervals and p-values of several differences hold together: they
come from the distribution of the largest |difference| / error of all pairs under these correlations (the
studentised range of correlated normals), simulated with a fixed seed. Where samples are few, so are the groups that rho
is known from, and normal quantiles become those of Student's t with the degrees of freedom that `freedom` finds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbench_fast.checks import as_numbers
from synbench_fast.errors import SynbenchError
from synbench_fast.printable import distinct
from synbench_fast.results.records import CONFIDENCE_95, NON_GAUSSIAN, WITHHELD, Influence, Result

__all__ = [
    "RESOLUTION",
    "Difference",
    "Differences",
    "Rank",
    "compare_scores",
    "correlation",
    "difference_error",
    "free_groups",
    "freedom",
    "narrowed",
    "standings",
    "unit_rows",
    "widened",
]

DRAWS = 20_000  # of the largest of all differences; a p-value of 0.05 is known to 0.0015
LEVEL = 0.05
# Of either score's error, independent of the other's: the decision on a single sample that lies at the boundary moves a
# score by about as much, and rounding decides it.
RESOLUTION = 0.01

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Score of `first` minus that of `second`. p_value and interval hold for all pairs together."""

    eps: float
    threshold: float
    first: str
    second: str
    difference: float
    stderr: float
    ci95_low: float
    ci95_high: float
    p_value: float
    correlation: float
    tie: bool  # the interval holds 0
    withheld: str = ""  # why the two are not comparable: one of them has no interval; errors are NaN then

    @property
    def verdict(self) -> str:
        """`tie`, which of the two is better, or why that cannot be said."""
        if self.withheld:
            return f"not comparable: {self.withheld}"
        return "tie" if self.tie else f"{self.first if self.difference > 0 else self.second} is better"


@dataclass(frozen=True, kw_only=True)
class Rank:
    """An encoder's score and the ranks it may have: 1 is best, and all intervals hold together with 95 %."""

    eps: float
    threshold: float
    encoder: str
    score: float
    stderr: float
    best_rank: int
    worst_rank: int


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Every pair at every budget and threshold asked for, and the ranking that follows.

    notes: what makes the order doubtful whatever its errors: results whose scores are not those of a classifier.
    """

    differences: list[Difference]
    ranking: list[Rank]
    notes: list[str]


def compare_scores(
    *results: Result,
    eps: Sequence[float] | float | None = None,
    thresholds: Sequence[float] | float | None = None,
    unpaired: bool = False,
) -> Differences:
    """Differences of the scores, and their ranking; arguments and errors are those of `report.comparison.compare`."""
    for one in results:
        if not isinstance(one, Result):
            raise SynbenchError(
                f"results: expected what score() returns or Result.load reads from a file, got {type(one).__name__}"
                + ("; pass the results one by one" if isinstance(one, list | tuple) else "")
            )
    if len(results) < 2:
        raise SynbenchError(f"results: expected at least two to compare, got {len(results)}")
    names = distinct([one.encoder.spec for one in results])
    _check_comparable(results, names, unpaired)
    budgets = _shared("eps", eps, [r.eps for r in results], names, every=True)
    levels = _shared("thresholds", thresholds, [r.thresholds for r in results], names, every=False)
    found = [_at(results, names, one_eps, threshold, unpaired) for one_eps in budgets for threshold in levels]
    return Differences(
        differences=[one for differences, _ in found for one in differences],
        ranking=[one for _, ranking in found for one in ranking],
        notes=_doubts(results, names),
    )


def _at(
    results: Sequence[Result], names: Sequence[str], eps: float, threshold: float, unpaired: bool
) -> tuple[list[Difference], list[Rank]]:
    """Every pair, and the ranking, at one budget and threshold; a pair without both intervals takes part in neither."""
    scores, errors = _scores(results, names, eps, threshold)
    size = len(results)
    reasons = [one.withheld(eps, threshold) for one in results]
    known = [i for i, reason in enumerate(reasons) if not reason]
    rho = np.eye(size) if unpaired else correlation(results, eps, threshold)
    covariance = _resolved(rho) * np.outer(errors, errors)
    np.fill_diagonal(covariance, np.square(errors))
    pairs = list(combinations(range(size), 2))
    some, others = np.array(pairs).T
    stderr = difference_error(errors[some], errors[others], rho[some, others])
    number = {i: place for place, i in enumerate(known)}
    counted = [(pair, error) for pair, error in zip(pairs, stderr, strict=True) if number.keys() >= {*pair}]
    largest = _largest(
        covariance[np.ix_(known, known)],
        [(number[i], number[j]) for (i, j), _ in counted],
        np.array([error for _, error in counted]),
    )
    degrees = np.full((size, size), math.inf) if unpaired else freedom(results, eps, threshold)
    alone = len(counted) <= 1
    quantile = CONFIDENCE_95 if alone else float(np.quantile(largest, 1 - LEVEL))
    better = np.zeros((size, size), dtype=bool)
    differences = []
    for (i, j), error in zip(pairs, stderr, strict=True):
        gap = scores[i] - scores[j]
        z = abs(gap) / error if error > 0 else (0.0 if gap == 0 else math.inf)
        normal, reach = narrowed(z, degrees[i, j]), widened(quantile, degrees[i, j])
        # Of draws as large as the difference, it is one itself: no p-value is 0.
        p_value = max(math.erfc(normal / math.sqrt(2)), sys.float_info.min)
        if not alone:
            p_value = float(1 + np.sum(largest >= normal)) / (1 + DRAWS)
        lacking = [f"{WITHHELD} of {names[k]}: {reasons[k]}" for k in (i, j) if reasons[k]]
        tie = not lacking and z <= reach
        better[i, j], better[j, i] = (not (tie or lacking) and sign * gap > 0 for sign in (1, -1))
        differences.append(
            Difference(
                eps=eps,
                threshold=threshold,
                first=names[i],
                second=names[j],
                difference=float(gap),
                stderr=math.nan if lacking else float(error),
                ci95_low=math.nan if lacking else float(gap - reach * error),
                ci95_high=math.nan if lacking else float(gap + reach * error),
                p_value=math.nan if lacking else p_value,
                correlation=float(rho[i, j]),
                tie=bool(tie),
                withheld="; ".join(lacking),
            )
        )
    return differences, [
        Rank(
            eps=eps,
            threshold=threshold,
            encoder=names[i],
            score=float(scores[i]),
            stderr=math.nan if reasons[i] else float(errors[i]),
            best_rank=1 + int(better[:, i].sum()),
            worst_rank=size - int(better[i].sum()),
        )
        for i in np.argsort(-scores, kind="stable")
    ]


def _doubts(results: Sequence[Result], names: Sequence[str]) -> list[str]:
    doubtful = [
        name
        for one, name in zip(results, names, strict=True)
        if any(warning.startswith(NON_GAUSSIAN) for warning in one.warnings)
    ]
    if not doubtful:
        return []
    return [
        f"{NON_GAUSSIAN} of {', '.join(doubtful)}: the score above is not that of a classifier there, and the order may "
        "be another; estimator consistent counts the margins"
    ]


def freedom(results: Sequence[Result], eps: float, threshold: float) -> Array:
    """[M, M] degrees of freedom of the errors of differences, which the groups of samples say; infinite without groups.

    With d the influences of the groups on a difference, 3 (sum d^2)^2 / sum d^4: the number of groups where they are normal,
    less where a few make up the error, and with it the correlation. Of G groups of a scale, which add up to 0, G - 1 are free.
    """
    size = len(results)
    members = _with_influence(results)
    rows = unit_rows(members, eps, threshold)
    errors = np.array([one.score(eps, threshold).stderr for one in results])
    free, all_groups = free_groups([one for _, one in members])
    found = np.full((size, size), max(1.0, free))
    rows = rows * np.nan_to_num(errors)[:, None]
    for i, row in enumerate(rows):
        square = np.square(row - rows)
        total, fourth = square.sum(1), np.square(square).sum(1)
        known = fourth > 0
        normal = 3 * np.square(total[known]) / fourth[known]
        found[i, known] = np.clip(normal * free / all_groups, 1.0, max(1.0, free))
    return found


def free_groups(influences: Sequence[Influence]) -> tuple[int, int]:
    """Groups of the result that has fewest: those whose sums are free, see `Influence.freedom`, and all of them."""
    return min((one.freedom, int(one.groups.sum())) for one in influences)


def narrowed(z: float, freedom: float) -> float:
    """The normal quantile with the tail of Student's t = z with `freedom` degrees (Wallace 1959, within 0.2 % here)."""
    if not math.isfinite(freedom) or not math.isfinite(z):
        return z
    return (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(z * z / freedom))


def widened(z: float, freedom: float) -> float:
    """The inverse of `narrowed`: the quantile of Student's t that has the tail of the normal quantile z."""
    if not math.isfinite(freedom):
        return z
    return math.sqrt(freedom * math.expm1((z * (8 * freedom + 3) / (8 * freedom + 1)) ** 2 / freedom))


def difference_error(first: ArrayLike, second: ArrayLike, rho: ArrayLike) -> Array:
    """Standard errors of the differences of scores with these errors of these correlations, see RESOLUTION."""
    a, b = np.asarray(first), np.asarray(second)
    # (a - b)^2 + 2 a b (1 - rho), in which nothing cancels
    return np.asarray(np.sqrt(np.square(a - b) + 2 * a * b * (1 - _resolved(rho))))


def _resolved(rho: ArrayLike) -> Array:
    """Correlations of different scores' errors, the part that rounding decides among them, see RESOLUTION."""
    return np.asarray(np.clip(rho, -1.0, 1.0) * (1 - RESOLUTION**2))


def _check_comparable(results: Sequence[Result], names: Sequence[str], unpaired: bool) -> None:
    first = results[0]
    for other, name in zip(results[1:], names[1:], strict=True):
        alike = {
            "estimator": (first.estimator, other.estimator),
            "integral": (first.integral, other.integral),
            "task.scales": (first.task.scales, other.task.scales),
            "task.prior": (first.task.prior, other.task.prior),
            "task.center": (first.task.center, other.task.center),
            "task.pattern": (first.task.pattern, other.task.pattern),
            "task.covariance": (first.task.covariance, other.task.covariance),
            "task.average": (first.task.average, other.task.average),
        }
        if not unpaired:
            alike |= {"seed": (first.seed, other.seed), "task.shape": (first.task.shape, other.task.shape)}
        for what, (one, two) in alike.items():
            if one != two:
                way = "; unpaired compares them" if what in ("seed", "task.shape") else ""
                raise SynbenchError(
                    f"{name}: expected {what} {_short(one)} as in {names[0]}, got {_short(two)}{way}"
                )
    for result, name in zip(results, names, strict=True):
        if not unpaired and result.influence is None:
            raise SynbenchError(
                f"{name}: expected the influences of its samples, got none (estimator "
                f"{result.estimator!r}); unpaired compares it without"
            )
        if not unpaired and not _complete(result):
            raise SynbenchError(
                f"{name}: expected points of its curve, and influences, for every scale and eps, got others"
            )


def _complete(result: Result) -> bool:
    """Whether the curve and the influences of a result have an entry for every scale and budget."""
    assert result.influence is not None
    scales, budgets = len(result.task.scales), len(result.eps)
    points = [(one.scale, one.eps) for one in result.curve]
    expected = [(s, e) for s in result.task.scales for e in result.eps]
    return points == expected and result.influence.fits(scales, budgets, len(result.thresholds))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shared(
    what: str,
    wanted: Sequence[float] | float | None,
    listed: Sequence[Sequence[float]],
    names: Sequence[str],
    *,
    every: bool,
) -> list[float]:
    common = [value for value in listed[0] if all(value in other for other in listed[1:])]
    if wanted is None:
        if not common:
            raise SynbenchError(f"{what}: expected a value that every result has, got none in common")
        return common if every else [min(common)]
    values = list(as_numbers(wanted, what))
    for value in values:
        for one, name in zip(listed, names, strict=True):
            if value not in one:
                known = ", ".join(f"{v:g}" for v in one)
                raise SynbenchError(f"{what}: expected values that {name} has ({known}), got {value:g}")
    return values


def _scores(
    results: Sequence[Result], names: Sequence[str], eps: float, threshold: float
) -> tuple[Array, Array]:
    found = [r.score(eps, threshold) for r in results]
    for one, name, result in zip(found, names, results, strict=True):
        withheld = result.withheld(eps, threshold)
        if not math.isfinite(one.score) or (math.isnan(one.stderr) and not withheld):
            raise SynbenchError(
                f"{name}: expected a score with a standard error at eps {eps:g}, threshold {threshold:g}, got "
                f"{one.score:g} +- {one.stderr:g}"
            )
    return np.array([one.score for one in found]), np.array([one.stderr for one in found])


def standings(results: Sequence[Result], eps: float, threshold: float) -> tuple[Array, Array, Array, Array]:
    """Scores [M], errors [M], their correlations and degrees of freedom [M, M], 0 and infinite between different samples.

    Raises SynbenchError as `compare_scores` for results that cannot be compared, input shapes and seeds apart.
    """
    names = distinct([one.encoder.spec for one in results])
    _check_comparable(results, names, unpaired=True)
    scores, errors = _scores(results, names, eps, threshold)
    rho, degrees = np.eye(len(results)), np.full((len(results), len(results)), math.inf)
    samples = [(one.seed, one.task.shape) for one in results]
    for kind in set(samples):
        same = [i for i, one in enumerate(samples) if one == kind and results[i].influence is not None]
        if same:
            alike, place = [results[i] for i in same], np.ix_(same, same)
            rho[place], degrees[place] = (of(alike, eps, threshold) for of in (correlation, freedom))
    return scores, errors, rho, degrees


def correlation(results: Sequence[Result], eps: float, threshold: float) -> Array:
    """rho [M, M] of the scores' errors, from the influences of the samples, each by its own slopes.

    Results with more samples had the fewer samples of the others first. All have influences.
    """
    unit = unit_rows(_with_influence(results), eps, threshold)
    rho = unit @ unit.T
    np.fill_diagonal(rho, 1.0)
    return np.asarray(rho.clip(-1.0, 1.0))


def _with_influence(results: Sequence[Result]) -> list[tuple[Result, Influence]]:
    return [(one, one.influence) for one in results if one.influence is not None]


def unit_rows(members: Sequence[tuple[Result, Influence]], eps: float, threshold: float) -> Array:
    """[M, S G] influences of the groups of samples on the score, each row of length 1; of the largest groups that any has."""
    group = math.lcm(*(influence.group for _, influence in members))
    rows = [
        influence.of_score(one.eps.index(eps), one.thresholds.index(threshold), group)
        for one, influence in members
    ]
    groups = max(one.shape[1] for one in rows)
    flat = np.stack([np.pad(one, ((0, 0), (0, groups - one.shape[1]))).reshape(-1) for one in rows])
    norms = np.sqrt((flat * flat).sum(1))
    return np.asarray(flat / np.where(norms > 0, norms, 1.0)[:, None])


def _largest(covariance: Array, pairs: Sequence[tuple[int, int]], stderr: Array) -> Array:
    """[DRAWS] largest |difference| / error over the pairs, of scores without true differences."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0.0))
    draws = np.random.default_rng(0).standard_normal((DRAWS, len(covariance))) @ root.T
    largest = np.zeros(DRAWS)
    for (i, j), error in zip(pairs, stderr, strict=True):
        if error > 0:
            np.maximum(largest, np.abs(draws[:, i] - draws[:, j]) / error, out=largest)
    return largest
