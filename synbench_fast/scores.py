"""From the points of all scales to scores: what a run reports, and the raw data's optimum it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.averages import Area, Averages, over_fit, over_sampled
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.margins import GROUP, gaussianity
from synbench_fast.ops.score_auc import Integral, score_auc
from synbench_fast.results import CurvePoint, Influence, RobustArea, ScaleFit, ScalePoint, Score
from synbench_fast.smooth import FEWEST_SCALES
from synbench_fast.task import GaussianTask, spread_scales

__all__ = ["Curve", "Scoring", "averaged_scales", "check_average"]

AREA_NODES = 8  # Gauss-Legendre nodes of the integral over eps in [0, 1]: Phi is smooth, error < 1e-6
CONFIDENCE_95 = 1.959963984540054
NOT_GAUSSIAN = 1e-3  # p-value below which margins are called so
NOTICEABLE = 0.002  # difference in accuracy that is worth a warning
NOT_SMOOTH = 1e-4  # p-value below which t(s) is said not to follow its fit
PUBLISHED_SCALES = 49
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
        self.average = check_average(average, estimator, len(task.scale_values))
        scales = averaged_scales(average)
        self._averaged = task if scales is None else replace(task, scales=scales)
        nodes, weights = np.polynomial.legendre.leggauss(AREA_NODES)
        self._nodes = tuple((nodes + 1) / 2)
        self._quadrature = weights / 2
        # Computed before any feature, so that a mistake in `integral` or `backend` does not cost a run.
        self._raw_sampled = task.raw(self.budgets)
        self._raw_accuracy, self._raw_robust, self._raw_bound = self._averaged.raw(self.budgets)
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

    def _raw_area(self, integral: Integral) -> Tensor:
        """[E, A]"""
        return self._area_of(integral)(self._raw_accuracy, self._raw_bound)

    def curve(self, points: list[CurvePoint]) -> Curve:
        """Scores, curve and robust area from the points of all scales, in their order."""
        scales = self.task.scale_values
        found = self.averages(points)
        warnings = _warnings(points, scales, self._raw_sampled[0][:, : len(self.eps)], min(self.thresholds))
        scores, covariance = self._scores(found, warnings)
        warnings += self._not_smooth(found)
        warnings += self._not_gaussian(points)
        return Curve(
            scores=scores,
            curve=self._curve(points),
            score_covariance=covariance,
            influence=self._influence(points),
            robust_area=self._robust_area(found),
            fits=self._fits(found),
            warnings=warnings,
        )

    def averages(self, points: list[CurvePoint]) -> Averages:
        """Areas and their errors from the points of all scales."""
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64)
        common = (thresholds, len(self.eps), self._quadrature, self.task.prior)
        if self.average == "sampled":
            return over_sampled(points, self._area_of(self.integral), *common)
        scales = self.task.scale_values
        return over_fit(points, scales, self._averaged.scale_values, self._area_of(self.integral), *common)

    def _scores(self, found: Averages, warnings: list[str]) -> tuple[list[Score], list[list[float]] | None]:
        raw = self._raw_area(self.integral)
        score = found.area / raw
        # The grid sum has the exact integral's errors times the number of its points per unit of accuracy.
        unit = self._raw_area("exact")
        stderr = found.variance.sum(0).sqrt() / unit
        covariance = found.covariance
        if covariance is not None:
            covariance = covariance / torch.outer(unit.reshape(-1), unit.reshape(-1))
        commoner = max(self.task.prior, 1 - self.task.prior)
        if min(self.thresholds) < commoner and self.task.prior != 0.5:
            warnings.append(
                f"thresholds below {commoner:g}: naming the commoner class alone exceeds them, so scales with "
                "next to no signal, whose bound is next to infinite, dominate their scores"
            )
        for a, column in zip(self.thresholds, raw.T, strict=True):
            if not bool((column > 0).all()):
                warnings.append(
                    f"threshold {a:g}: the raw data exceed this accuracy at no scale, so there is no score above it"
                )
        scores = [
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
        known = covariance is not None and bool(torch.isfinite(covariance).all())
        return scores, covariance.tolist() if known and covariance is not None else None

    def _fits(self, found: Averages) -> list[ScaleFit] | None:
        if found.fits is None:
            return None
        return [
            ScaleFit(eps=eps, coefficients=fit.coefficients.tolist(), p_value=fit.p_value)
            for eps, fit in zip(self.eps, found.fits, strict=True)
        ]

    def _not_smooth(self, found: Averages) -> list[str]:
        worst = min(
            zip(found.fits or [], self.eps, strict=False), key=lambda one: one[0].p_value, default=None
        )
        if worst is None or worst[0].p_value > NOT_SMOOTH:
            return []
        return [
            f"t does not follow its fit over the scales (p = {worst[0].p_value:.1g} at eps {worst[1]:g}), or has "
            "larger errors than stated; average sampled takes the scales as they are"
        ]

    def variances(self, points: list[CurvePoint]) -> Tensor:
        """[S, E, A] what each sampled scale adds to the variance of the scores; NaN where that is not known."""
        return self.averages(points).variance / self._raw_area("exact").square()

    def _influence(self, points: list[CurvePoint]) -> Influence | None:
        values = [p.influence[: len(self.eps)] for p in points if p.influence is not None]
        if len(values) < len(points):
            return None
        digits = [[[float(f"{v:.5g}") for v in row] for row in one] for one in values]
        return Influence(group=GROUP, t=digits)

    def _not_gaussian(self, points: list[CurvePoint]) -> list[str]:
        """A warning for the budget at which counting the margins differs most from taking them as Gaussian."""
        if points[0].estimator != "consistent" or any(p.counted_accuracy is None for p in points):
            return []
        found = []
        counts = torch.tensor([p.count for p in points], dtype=torch.float64)
        for e, eps in enumerate(self.eps):
            t, t_rob, counted = (
                torch.tensor([getattr(p, name)[e] for p in points], dtype=torch.float64)
                for name in ("t", "t_rob", "counted_accuracy")
            )
            k = gaussian.threshold_shift(gaussian.log_prior_offset(self.task.prior), t_rob.square())
            check = gaussianity(counted, t, k, self.task.prior, counts)
            if check is not None:
                found.append((check.p_value, eps, check, float(points[check.scale].accuracy[e])))
        p_value, eps, check, expected = min(found, key=lambda one: one[0], default=(1.0, 0.0, None, 0.0))
        if check is None or p_value > NOT_GAUSSIAN or abs(check.largest) < NOTICEABLE:
            return []
        return [
            f"the margins are not Gaussian (p = {p_value:.1g}): at scale "
            f"{self.task.scale_values[check.scale]:g}, eps {eps:g} their count gives accuracy "
            f"{expected + check.largest:.4f} in place of {expected:.4f}"
        ]

    def _curve(self, points: list[CurvePoint]) -> list[ScalePoint]:
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
                counted_accuracy=math.nan
                if point.counted_accuracy is None
                else float(point.counted_accuracy[e]),
                raw_accuracy=float(self._raw_sampled[0][s, e]),
                raw_bound=float(self._raw_sampled[2][s, e]),
            )
            for s, (scale, point) in enumerate(zip(self.task.scale_values, points, strict=True))
            for e, eps in enumerate(self.eps)
        ]

    def _robust_area(self, found: Averages) -> RobustArea:
        raw = float(np.mean(self._raw_robust[:, len(self.eps) :].numpy() @ self._quadrature))
        return RobustArea(
            value=float(found.robust_area),
            raw=raw,
            ratio=float(found.robust_area / raw),
            stderr=float(found.robust_area_stderr),
        )


def averaged_scales(average: str) -> tuple[float, ...] | None:
    """The scales that a mean runs over; None for those that were sampled."""
    return None if average == "sampled" else spread_scales(PUBLISHED_SCALES)


def check_average(average: str, estimator: str, scales: int) -> str:
    """`average` if it is one that the estimator and this number of sampled scales allow."""
    if average not in AVERAGES:
        raise SynbenchError(
            f"average: expected one of {list(AVERAGES)}, got {average!r}{suggest(str(average), AVERAGES)}"
        )
    if average == "published" and estimator != "consistent":
        raise SynbenchError(f"average: expected sampled with estimator {estimator}, got published")
    if average == "published" and scales < FEWEST_SCALES:
        raise SynbenchError(
            f"scales: expected at least {FEWEST_SCALES} for the published average, whose t is fitted, got {scales}"
        )
    return average


def _warnings(points: list[CurvePoint], scales: Sequence[float], raw: Tensor, lowest: float) -> list[str]:
    """Scales without a signal, where the raw data have one that counts: accuracy above the lowest threshold."""
    silent = [
        f"{scale:g}"
        for scale, point, optimum in zip(scales, points, raw, strict=True)
        if bool((point.t[: len(optimum)] <= 0).any()) and bool((optimum > lowest).any())
    ]
    if not silent:
        return []
    return [f"no signal found (t <= 0) at {len(silent)} of {len(points)} scales: {', '.join(silent[:8])}"]
