"""From the points of all scales to scores: what a run reports, and the raw data's optimum it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.checks import ESTIMATORS
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.ops.score_auc import Integral, score_auc
from synbench_fast.results.records import (
    CONFIDENCE_95,
    NON_GAUSSIAN,
    WITHHELD,
    Influence,
    RobustArea,
    ScaleFit,
    ScalePoint,
    Score,
    with_error,
)
from synbench_fast.scales import spread_scales
from synbench_fast.stats.averages import Area, Averages, over_scales
from synbench_fast.stats.compare import narrowed
from synbench_fast.stats.consistent import GROUP
from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import FEWEST_SCALES
from synbench_fast.tasks.task import GaussianTask

__all__ = ["Curve", "Scoring", "check_average"]

AREA_NODES = 8  # Gauss-Legendre nodes of the integral over eps in [0, 1]: Phi is smooth, error < 1e-6
NOT_GAUSSIAN = 1e-3  # p-value below which margins are called so
NOTICEABLE = 0.002  # difference in accuracy that is worth a warning
NOT_SMOOTH = 1e-4  # p-value below which curves over the scales are said not to follow their fits
ABOVE_OPTIMUM = 4.0  # errors; an accuracy that is so far above the raw data's cannot be luck
DRIFTS = 3.0  # errors; a difference between the scores of all samples and of their halves that is no luck
PUBLISHED_SCALES = 49
PRIOR_DECIDES = (
    "naming the commoner class alone exceeds the threshold, so scales without a signal decide the score"
)
GAUSSIAN_REFUTED = "estimator gaussian takes the margins as Gaussian, and counting them refutes it"
AVERAGES = ("sampled", "published")


@dataclass(frozen=True)
class Curve:
    """Scores over (eps, threshold) and the accuracy-robustness curve behind them."""

    scores: list[Score]
    curve: list[ScalePoint]
    score_covariance: list[list[float]] | None
    influence: Influence | None
    robust_area: RobustArea
    fits: list[ScaleFit] | None
    dropped: list[int]
    warnings: list[str]


class Scoring:
    """The part of a run that knows no features: budgets, thresholds, and the raw data's curve.

    Args:
        task, eps, thresholds, integral, average, backend: as in `Probe`; eps and thresholds checked.
        estimator: whose points come.
    """

    def __init__(
        self,
        task: GaussianTask,
        eps: tuple[float, ...],
        thresholds: tuple[float, ...],
        integral: Integral,
        average: str,
        estimator: str,
        backend: str,
    ) -> None:
        self.task, self.eps, self.thresholds = task, eps, thresholds
        self.integral, self.backend = integral, backend
        self.average = check_average(average, estimator, len(task.scale_values), task.prior)
        self._wanted = None if average == "sampled" else spread_scales(PUBLISHED_SCALES)
        averaged = task if self._wanted is None else replace(task, scales=self._wanted)
        nodes, weights = np.polynomial.legendre.leggauss(AREA_NODES)
        self._nodes = tuple((nodes + 1) / 2)
        self._quadrature = weights / 2
        # Computed before any feature, so that a mistake in `integral` or `backend` does not cost a run.
        self._raw_sampled = task.raw(self.budgets)
        self._raw_accuracy, self._raw_robust, self._raw_bound = averaged.raw(self.budgets)
        self._raw_area(integral)

    @property
    def budgets(self) -> tuple[float, ...]:
        """All that points are to have: those asked for, then the nodes of the robust area."""
        return self.eps + self._nodes

    def _area_of(self, integral: Integral) -> Area:
        count, thresholds = len(self.eps), torch.tensor(self.thresholds, dtype=torch.float64)

        def area(accuracy: Tensor, bound: Tensor) -> Tensor:
            a, b = accuracy[:, :count].T, bound[:, :count].T
            return score_auc(a, b, thresholds, integral=integral, backend=self.backend)

        return area

    def _raw_area(self, integral: Integral) -> NDArray[np.float64]:
        """[E, A], NaN where the raw data exceed the threshold at no scale."""
        area = np.asarray(self._area_of(integral)(self._raw_accuracy, self._raw_bound))
        return np.where(area > 0, area, np.nan)

    def curve(self, points: list[CurvePoint]) -> Curve:
        """Scores, curve and robust area from the points of all scales, in their order."""
        found = self.averages(points)
        unit = self._raw_area("exact")
        scores = self._scores(found, unit)
        covariance = found.covariance / np.outer(unit.reshape(-1), unit.reshape(-1))
        return Curve(
            scores=scores,
            curve=self._curve(points),
            score_covariance=None
            if any(one.independent for one in points) or not np.isfinite(covariance).all()
            else covariance.tolist(),
            influence=self._influence(points, found, unit),
            robust_area=self._robust_area(found),
            fits=self._fits(found),
            dropped=[one.feature_dim - one.rank for one in points],
            warnings=[
                *self._of_withheld(found),
                *self._of_thresholds(),
                *self._of_points(points),
                *self._of_fits(found),
                *self._of_width(found, unit),
                *self._above_one(found, scores),
            ],
        )

    def averages(self, points: list[CurvePoint]) -> Averages:
        """Areas and their errors from the points of all scales, and which of them are withheld, for any reason."""
        area = self._area_of(self.integral)
        found = over_scales(
            points, self.task.scale_values, self._wanted, area, self.thresholds, self._quadrature
        )
        commoner = max(self.task.prior, 1 - self.task.prior)
        below = [a for a, level in enumerate(self.thresholds) if level <= commoner and self.task.prior != 0.5]
        reasons = {(e, a): PRIOR_DECIDES for e in range(len(self.eps)) for a in below}
        refuted = self._refuted(points)
        reasons |= {(e, a): GAUSSIAN_REFUTED for e in refuted for a in range(len(self.thresholds))}
        robust = found.robust_withheld or (GAUSSIAN_REFUTED if refuted else "")
        return replace(found, withheld=found.withheld | reasons, robust_withheld=robust)

    def variances(self, points: list[CurvePoint]) -> NDArray[np.float64]:
        """[S, E, A] what each sampled scale adds to the variance of the scores; NaN where that is not known."""
        found = self.averages(points)
        variance = np.asarray(found.variance / np.square(self._raw_area("exact")))
        for place in found.withheld:
            variance[:, *place] = np.nan
        return variance

    def _scores(self, found: Averages, unit: NDArray[np.float64]) -> list[Score]:
        """unit: raw area [E, A]; the grid sum has the exact integral's errors times its points per unit of accuracy."""
        score = found.area / self._raw_area(self.integral)
        stderr = np.sqrt(np.diagonal(found.covariance).reshape(unit.shape)) / unit
        for place in found.withheld:
            stderr[place] = np.nan
        return [
            Score(
                eps=eps,
                threshold=threshold,
                score=float(score[e, a]),
                stderr=float(stderr[e, a]),
                ci95_low=float(score[e, a] - CONFIDENCE_95 * stderr[e, a]),
                ci95_high=float(score[e, a] + CONFIDENCE_95 * stderr[e, a]),
            )
            for e, eps in enumerate(self.eps)
            for a, threshold in enumerate(self.thresholds)
        ]

    def _fits(self, found: Averages) -> list[ScaleFit] | None:
        if found.fits is None:
            return None
        return [
            ScaleFit(
                eps=eps,
                accuracy=accuracy.coefficients.tolist(),
                reach=reach.coefficients.tolist(),
                p_value=min(_tail(one.chi2, one.freedom) for one in (accuracy, reach)),
            )
            for eps, (accuracy, reach) in zip(self.eps, found.fits, strict=True)
        ]

    def _influence(
        self, points: list[CurvePoint], found: Averages, unit: NDArray[np.float64]
    ) -> Influence | None:
        count = len(self.eps)
        values = [p.influence[:, :count] for p in points if p.influence is not None]
        if len(values) < len(points):
            return None
        slopes = np.nan_to_num(found.slopes / unit, posinf=0.0, neginf=0.0)
        return Influence(
            group=GROUP,
            groups=np.array([one.shape[2] for one in values], dtype=np.int64),
            accuracy=_digits(_padded([one[0] for one in values])),
            reach=_digits(_padded([one[1] for one in values])),
            accuracy_slope=_digits(slopes[:, 0]),
            reach_slope=_digits(slopes[:, 1]),
        )

    def _curve(self, points: list[CurvePoint]) -> list[ScalePoint]:
        def of(values: NDArray[np.float64] | None, e: int) -> float:
            return math.nan if values is None else float(values[e])

        return [
            ScalePoint(
                scale=scale,
                eps=eps,
                accuracy=float(point.accuracy[e]),
                accuracy_stderr=float(point.accuracy_stderr[e]),
                robust_accuracy=float(point.robust_accuracy[e]),
                robust_accuracy_stderr=float(point.robust_accuracy_stderr[e]),
                bound=float(point.bound[e]),
                bound_stderr=float(point.bound_stderr[e]),
                t=float(point.t[e]),
                t_stderr=float(point.stderr[e]),
                t_rob=float(point.t_rob[e]),
                excess=of(point.excess, e),
                excess_stderr=of(point.excess_stderr, e),
                raw_accuracy=float(self._raw_sampled[0][s, e]),
                raw_bound=float(self._raw_sampled[2][s, e]),
            )
            for s, (scale, point) in enumerate(zip(self.task.scale_values, points, strict=True))
            for e, eps in enumerate(self.eps)
        ]

    def _robust_area(self, found: Averages) -> RobustArea:
        raw = float(np.mean(self._raw_robust[:, len(self.eps) :].numpy() @ self._quadrature))
        return RobustArea(
            value=found.robust_area,
            raw=raw,
            ratio=found.robust_area / raw,
            stderr=math.nan if found.robust_withheld else found.robust_area_stderr,
        )

    def _of_withheld(self, found: Averages) -> list[str]:
        """One warning for each reason, with the scores that have no interval for it."""
        places: dict[str, list[str]] = {}
        for (e, a), reason in found.withheld.items():
            places.setdefault(reason, []).append(f"{self.thresholds[a]:g} at eps {self.eps[e]:g}")
        said = [f"{WITHHELD} above {', '.join(some)}: {reason}" for reason, some in places.items()]
        if found.robust_withheld:
            said.append(f"{WITHHELD} of the robust area: {found.robust_withheld}")
        return said

    def _of_thresholds(self) -> list[str]:
        """Warnings that follow from what was asked for."""
        said = []
        for a, column in zip(self.thresholds, self._raw_area(self.integral).T, strict=True):
            if not (column > 0).all():
                said.append(
                    f"threshold {a:g}: the raw data exceed this accuracy at no scale, so there is no score above it"
                )
        return said

    def _of_points(self, points: list[CurvePoint]) -> list[str]:
        """Warnings that follow from the scales one by one."""
        return [
            *_no_signal(
                points, self.task.scale_values, self._raw_sampled[0][:, : len(self.eps)], min(self.thresholds)
            ),
            *_below_cut(points, self.task.scale_values),
            *self._above_optimum(points),
            *self._not_gaussian(points),
        ]

    def _above_optimum(self, points: list[CurvePoint]) -> list[str]:
        """A warning for the point that exceeds the raw data's optimum, which no representation can, by most errors."""
        worst, at = 0.0, (0, 0)
        for s, point in enumerate(points):
            raw = self._raw_sampled[0][s].numpy()[: len(self.eps)]
            excess = point.accuracy[: len(self.eps)] - raw
            # The error of a rate that is the optimum's; the estimate's own is 0 where nothing was wrong.
            error = np.maximum(point.accuracy_stderr[: len(self.eps)], np.sqrt(raw * (1 - raw) / point.count))
            with np.errstate(divide="ignore", invalid="ignore"):
                z = np.where(excess > 0, excess / error, 0.0)
            e = int(np.nanargmax(np.where(np.isnan(z), 0.0, z)))
            if z[e] > worst:
                worst, at = float(z[e]), (s, e)
        if worst <= ABOVE_OPTIMUM:
            return []
        s, e = at
        return [
            f"accuracy above the raw data's optimum, by {worst:.3g} errors: {points[s].accuracy[e]:.4f} at scale "
            f"{self.task.scale_values[s]:g}, eps {self.eps[e]:g}, where no classifier of the raw data exceeds "
            f"{float(self._raw_sampled[0][s, e]):.4f}; scores above it cannot be trusted"
        ]

    def _refuted(self, points: Sequence[CurvePoint]) -> dict[int, tuple[float, int]]:
        """The budgets at which counting refutes margins that are taken as Gaussian: p-value, and the worst scale."""
        if not points[0].assumes_gaussian:
            return {}
        found = {e: one for e in range(len(self.eps)) if (one := gaussianity(points, e)) is not None}
        return {
            e: (p_value, s)
            for e, (p_value, s) in found.items()
            if p_value <= NOT_GAUSSIAN and abs(_known(points[s].excess)[e]) >= NOTICEABLE
        }

    def _not_gaussian(self, points: list[CurvePoint]) -> list[str]:
        """A warning for the budget at which counting the margins differs most from taking them as Gaussian."""
        refuted = self._refuted(points)
        if not refuted:
            return []
        e = min(refuted, key=lambda one: refuted[one][0])
        p_value, s = refuted[e]
        accuracy = points[s].accuracy[e]
        return [
            f"{NON_GAUSSIAN} (p = {p_value:.1g}): at scale {self.task.scale_values[s]:g}, eps {self.eps[e]:g} their "
            f"count gives accuracy {accuracy + _known(points[s].excess)[e]:.4f} in place of {accuracy:.4f}; "
            "estimator consistent counts them"
        ]

    def _of_width(self, found: Averages, unit: NDArray[np.float64]) -> list[str]:
        """A warning where half of the samples give another score by more than chance."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.nan_to_num(np.abs(found.drift) / found.drift_stderr, posinf=0.0)
        t = np.where(unit > 0, t, 0.0)
        e, a = np.unravel_index(int(t.argmax()), t.shape)
        scales = len(found.slopes)
        # The error is an estimate, too: that of von Neumann's mean square of successive differences.
        if scales < 2 or narrowed(float(t[e, a]), 2 * (scales - 1) ** 2 / (3 * scales - 4)) < DRIFTS:
            return []
        drift, error = found.drift[e, a] / unit[e, a], found.drift_stderr[e, a] / unit[e, a]
        return [
            f"scores move with the number of samples: above {self.thresholds[a]:g} at eps {self.eps[e]:g} by {drift:+.3f} "
            f"+- {error:.3f} from half of them to all; the intervals are widened by as much, more samples narrow them"
        ]

    def _above_one(self, found: Averages, scores: list[Score]) -> list[str]:
        """A warning for each reason why whole intervals lie above 1, with the number of the score farthest above."""
        raw_bound = self._raw_bound[:, : len(self.eps)]
        area = self._area_of(self.integral)(torch.from_numpy(found.accuracy), raw_bound)
        same_bound = (np.asarray(area) / self._raw_area(self.integral)).reshape(-1)
        above = [(one, float(same)) for one, same in zip(scores, same_bound, strict=True) if one.ci95_low > 1]
        by_bound = [(one, same) for one, same in above if same - 1 <= (one.score - 1) / 2]
        by_accuracy = [pair for pair in above if pair not in by_bound]
        said = []
        for some, reason in (
            (by_bound, "because the bound, not the accuracy, exceeds that of the raw data"),
            (
                by_accuracy,
                "because estimated accuracies exceed the raw data's optimum, which true ones cannot",
            ),
        ):
            if some:
                one, same = max(some, key=lambda pair: pair[0].score)
                places = ", ".join(f"{each.threshold:g} at eps {each.eps:g}" for each, _ in some)
                said.append(
                    f"score above 1 for threshold {places}, {reason}: {with_error(one.score, one.stderr)} would be "
                    f"{same:.4f} with the raw data's bound"
                )
        return said

    def _of_fits(self, found: Averages) -> list[str]:
        named = zip(self._fits(found) or [], self.eps, strict=False)
        worst = min(named, key=lambda one: one[0].p_value, default=None)
        if worst is None or worst[0].p_value > NOT_SMOOTH:
            return []
        return [
            f"accuracies do not follow their fit over the scales (p = {worst[0].p_value:.1g} at eps {worst[1]:g}), or "
            "have larger errors than stated; errors were widened by as much, and average sampled takes the scales as "
            "they are"
        ]


def gaussianity(points: Sequence[CurvePoint], e: int) -> tuple[float, int] | None:
    """p-value of Gaussian margins over the scales at budget number e, and the scale that deviates by most.

    The sum of the squares of excess / error is chi-squared with as many degrees of freedom as there are scales that can
    tell: five samples are to be expected on either side. None without such a scale.
    """
    found = []
    for s, point in enumerate(points):
        if point.excess is None or point.excess_stderr is None or not point.excess_stderr[e] > 0:
            continue
        counted = point.accuracy[e] + (point.excess[e] if point.assumes_gaussian else 0.0)
        if min(counted, 1 - counted) * point.count >= 5:
            found.append((s, float(point.excess[e]), float(point.excess_stderr[e])))
    if not found:
        return None
    statistic = sum((excess / error) ** 2 for _, excess, error in found)
    return _tail(statistic, len(found)), max(found, key=lambda one: abs(one[1]))[0]


def _known(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert values is not None  # where a p-value follows from them
    return values


def _tail(value: float, freedom: int) -> float:
    """Chance that chi-squared with this many degrees of freedom exceeds the value."""
    if freedom < 1:
        return 1.0
    half = torch.tensor([freedom, value], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(half[0], half[1]))


def _digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Five digits of every number."""
    return np.array([float(f"{v:.5g}") for v in values.reshape(-1)]).reshape(values.shape)


def _padded(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[S, E, G] of arrays [E, G], with zeros where a scale has fewer groups."""
    most = max(one.shape[1] for one in values)
    return np.stack([np.pad(one, ((0, 0), (0, most - one.shape[1]))) for one in values])


def check_average(average: str, estimator: str, scales: int, prior: float) -> str:
    """`average` if it is one that the estimator, this number of sampled scales and the prior allow."""
    if average not in AVERAGES:
        raise SynbenchError(
            f"average: expected one of {list(AVERAGES)}, got {average!r}{suggest(str(average), AVERAGES)}"
        )
    if average == "sampled":
        return average
    if estimator not in ESTIMATORS:
        raise SynbenchError(f"average: expected sampled with estimator {estimator}, got published")
    if scales < FEWEST_SCALES:
        raise SynbenchError(
            f"scales: expected at least {FEWEST_SCALES} for the published average, whose curves are fitted, got {scales}"
        )
    if prior != 0.5:
        raise SynbenchError(
            f"average: expected sampled with prior {prior:g}, got published, which needs prior 0.5"
        )
    return average


def _no_signal(points: list[CurvePoint], scales: Sequence[float], raw: Tensor, lowest: float) -> list[str]:
    """Scales without a signal, where the raw data have one that counts: accuracy above the lowest threshold."""
    silent = [
        f"{scale:g}"
        for scale, point, optimum in zip(scales, points, raw, strict=True)
        if bool((point.t[: len(optimum)] <= 0).any()) and bool((optimum > lowest).any())
    ]
    if not silent:
        return []
    return [f"no signal found (t <= 0) at {len(silent)} of {len(points)} scales: {', '.join(silent[:8])}"]


def _below_cut(points: list[CurvePoint], scales: Sequence[float]) -> list[str]:
    """Directions that carry something and were dropped."""
    said = []
    lost = max(range(len(points)), key=lambda s: points[s].below_cut)
    if points[lost].below_cut:
        said.append(
            f"{points[lost].below_cut} of {points[lost].feature_dim} directions of the features vary at scale "
            f"{scales[lost]:g} and were dropped, because another one is more than a million times as large; what they "
            "know is not in the score"
        )
    separated = [s for s, one in enumerate(points) if one.lost_separation]
    if separated:
        said.append(
            f"at {len(separated)} of {len(points)} scales, from {scales[separated[0]]:g}, a direction without variance "
            "tells the classes apart without error, and the published protocol drops it; estimator consistent does not"
        )
    return said
