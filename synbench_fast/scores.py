"""From the points of all scales to scores: what a run reports, and the raw data's optimum it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.area_errors import area_covariance, area_terms, robust_area_stderr
from synbench_fast.margins import GROUP, gaussianity
from synbench_fast.ops.score_auc import Integral, score_auc
from synbench_fast.results import CurvePoint, Influence, RobustArea, ScalePoint, Score
from synbench_fast.task import GaussianTask

__all__ = ["Curve", "Scoring"]

AREA_NODES = 8  # Gauss-Legendre nodes of the integral over eps in [0, 1]: Phi is smooth, error < 1e-6
CONFIDENCE_95 = 1.959963984540054
NOT_GAUSSIAN = 1e-3  # p-value below which margins are called so
NOTICEABLE = 0.002  # difference in accuracy that is worth a warning


@dataclass(frozen=True)
class Curve:
    """Scores over (eps, threshold) and the accuracy-robustness curve behind them."""

    scores: list[Score]
    curve: list[ScalePoint]
    score_covariance: list[list[float]] | None
    influence: Influence | None
    robust_area: RobustArea
    warnings: list[str]


class Scoring:
    """The part of a run that knows no features: budgets, thresholds, and the raw data's curve.

    Args:
        task, eps, thresholds, integral, backend: as in `Probe`, checked.
    """

    def __init__(
        self,
        task: GaussianTask,
        eps: tuple[float, ...],
        thresholds: tuple[float, ...],
        integral: Integral,
        backend: str,
    ) -> None:
        self.task, self.eps, self.thresholds = task, eps, thresholds
        self.integral, self.backend = integral, backend
        nodes, weights = np.polynomial.legendre.leggauss(AREA_NODES)
        self._nodes = tuple((nodes + 1) / 2)
        self._quadrature = weights / 2
        # Computed before any feature, so that a mistake in `integral` or `backend` does not cost a run.
        self._raw_accuracy, self._raw_robust, self._raw_bound = task.raw(self.budgets)
        self._area(self._raw_accuracy, self._raw_bound, integral)

    @property
    def budgets(self) -> tuple[float, ...]:
        """All that points are to have: those asked for, then the nodes of the robust area."""
        return self.eps + self._nodes

    def _area(self, accuracy: Tensor, bound: Tensor, integral: Integral) -> Tensor:
        """[S, E or more] -> [E, A]."""
        count, thresholds = len(self.eps), torch.tensor(self.thresholds, dtype=torch.float64)
        return score_auc(
            accuracy[:, :count].T,
            bound[:, :count].T,
            thresholds,
            integral=integral,
            backend=self.backend,
        )

    def curve(self, points: list[CurvePoint]) -> Curve:
        """Scores, curve and robust area from the points of all scales, in their order."""
        scales = self.task.scale_values
        warnings = _warnings(points, scales, self._raw_accuracy[:, : len(self.eps)], min(self.thresholds))
        scores, covariance = self._scores(points, warnings)
        warnings += self._not_gaussian(points)
        return Curve(
            scores=scores,
            curve=self._curve(points),
            score_covariance=covariance,
            influence=self._influence(points),
            robust_area=self._robust_area(points),
            warnings=warnings,
        )

    def _scores(
        self, points: list[CurvePoint], warnings: list[str]
    ) -> tuple[list[Score], list[list[float]] | None]:
        count = len(self.eps)
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64)
        accuracy = torch.from_numpy(np.stack([p.accuracy for p in points]))
        bound = torch.from_numpy(np.stack([p.bound for p in points]))
        raw = self._area(self._raw_accuracy, self._raw_bound, self.integral)
        # The grid sum has the exact integral's errors times the number of its points per unit of accuracy.
        exact = self._area(self._raw_accuracy, self._raw_bound, "exact")
        score = self._area(accuracy, bound, self.integral) / raw
        terms = [area_terms(p, thresholds, self.task.prior) for p in points]
        unit = len(points) * exact
        stderr = torch.stack([one.stderr[:count] for one in terms]).square().sum(0).sqrt() / unit
        covariance = area_covariance(points, terms, count)
        if covariance is not None:
            covariance /= torch.outer(unit.reshape(-1), unit.reshape(-1))
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
                raw_accuracy=float(self._raw_accuracy[s, e]),
                raw_bound=float(self._raw_bound[s, e]),
            )
            for s, (scale, point) in enumerate(zip(self.task.scale_values, points, strict=True))
            for e, eps in enumerate(self.eps)
        ]

    def _robust_area(self, points: list[CurvePoint]) -> RobustArea:
        first = len(self.eps)
        value = float(np.mean([self._quadrature @ p.robust_accuracy[first:] for p in points]))
        raw = float(np.mean(self._raw_robust[:, first:].numpy() @ self._quadrature))
        weight = np.concatenate([np.zeros(first), self._quadrature])
        errors = [robust_area_stderr(p, weight, self.task.prior) for p in points]
        return RobustArea(
            value=value,
            raw=raw,
            ratio=value / raw,
            stderr=float(np.sqrt(np.sum(np.square(errors)))) / len(points),
        )


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
