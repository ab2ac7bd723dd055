"""The two estimators of the accuracy-robustness curve: moments and features of one scale in, CurvePoint out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.checks import Estimator
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.feature_stats import FeatureStats
from synbench_fast.ops.robust_solve import Enqueued, RobustSolution, enqueue
from synbench_fast.ops.score_sweep import PUBLISHED_GROUP, SweepTotals, score_sweep
from synbench_fast.results import CurvePoint

__all__ = [
    "consistent_point",
    "paper_point",
    "robust_area_stderr",
    "splits",
    "start_consistent",
    "start_paper",
    "term_stderr",
]


def splits(estimator: Estimator) -> int:
    """How many independent sample sets the estimator reads per scale."""
    return 2 if estimator == "paper" else 1


def _check_stats(stats: FeatureStats, role: str) -> None:
    for label, count in enumerate(stats.count.tolist()):
        if count == 0:
            raise SynbenchError(f"{role} labels: expected samples of both classes, got none of class {label}")
    if stats.dof < 1:
        raise SynbenchError(f"{role} samples: expected at least 3, got {stats.dof + 2}")


def _shift(t_rob: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """k and dk/dt_rob: t_rob^2 is w'Cw, so an estimate of t_rob is one of k, too."""
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), t_rob.square())
    return k, torch.where(t_rob > 0, -k / t_rob, 0.0)


def _propagate(by_t: Tensor, by_t_rob: Tensor, t_var: Tensor, t_rob_var: Tensor, cross: Tensor) -> Tensor:
    """Standard error of a function of t and t_rob with these derivatives."""
    # A derivative of 0 counts nothing, also beside an infinite one (the bound's at t = 0).
    mixed = torch.where(by_t_rob == 0, 0.0, 2 * by_t * by_t_rob * cross)
    return (by_t.square() * t_var + mixed + by_t_rob.square() * t_rob_var).clamp_min(0).sqrt()


def start_consistent(
    stats: FeatureStats, eps: Sequence[float], *, prior: float = 0.5, backend: str = "auto"
) -> Callable[[], CurvePoint]:
    """`consistent_point` in two halves: this one enqueues the work, calling what it returns waits for it.

    On a GPU nothing here waits for the device; errors in the features come with the second half.
    """
    _check_stats(stats, "train")
    solving = enqueue(
        stats.half_difference,
        stats.covariance,
        torch.tensor(list(eps), dtype=torch.float64).to(stats.mean.device, non_blocking=True),
        estimator="consistent",
        dof=stats.dof,
        c0=stats.c0,
        weights=False,
        backend=backend,
    )
    return lambda: _consistent_curve(solving.solution(), stats, eps, prior)


def start_paper(
    stats: FeatureStats,
    test_x: Tensor,
    test_y: Tensor,
    eps: Sequence[float],
    *,
    test_count: tuple[int, int] | None = None,
    prior: float = 0.5,
    group: int = PUBLISHED_GROUP,
    backend: str = "auto",
) -> Callable[[], CurvePoint]:
    """`paper_point` in two halves, like `start_consistent`; test_count as `count` in `score_sweep`."""
    _check_stats(stats, "train")
    budgets = torch.tensor(list(eps), dtype=torch.float64).to(stats.mean.device, non_blocking=True)
    solving = enqueue(
        stats.half_difference,
        stats.covariance,
        budgets,
        estimator="plugin",
        dof=stats.dof,
        weights=True,
        backend=backend,
    )

    def sweep(solving: Enqueued) -> tuple[Tensor, SweepTotals]:
        robust_margin = budgets * solving.mean_norm * solving.weights.norm(dim=1)
        totals = score_sweep(
            test_x,
            test_y,
            solving.weights,
            stats.midpoint,
            signal=solving.signal,
            robust_margin=robust_margin,
            offset=gaussian.log_prior_offset(prior),
            group=group,
            count=test_count,
            backend=backend,
        )
        return robust_margin, totals

    swept = sweep(solving)

    def finish() -> CurvePoint:
        robust_margin, totals = swept
        solved = solving
        while (again := solved.again()) is not None:
            solved = again
            robust_margin, totals = sweep(solved)
        return _paper_curve(solved.solution(), stats, totals.cpu(), robust_margin.cpu(), eps)

    return finish


def consistent_point(
    stats: FeatureStats, eps: Sequence[float], *, prior: float = 0.5, backend: str = "auto"
) -> CurvePoint:
    """Population curve from training moments alone, corrected for finite N.

    t and its covariance over eps come from `robust_solve(estimator="consistent")`; accuracy, robust accuracy
    and bound are those of Gaussian margins with that t (see `gaussian`). Standard errors follow by the
    delta method; they assume Gaussian features along the classifier, as the estimate itself does.

    Args:
        stats: moments of N labelled features, N - 2 > rank of the features.
        eps: E budgets in [0, 1).
        prior: tau of the task.
        backend: of `robust_solve`.

    Raises:
        SynbenchError: a class without samples, N too small, features that are all constant.
    """
    return start_consistent(stats, eps, prior=prior, backend=backend)()


def _consistent_curve(
    solution: RobustSolution, stats: FeatureStats, eps: Sequence[float], prior: float
) -> CurvePoint:
    t, t_rob = solution.t.cpu(), solution.t_rob.cpu()
    t_cov, t_rob_cov, cross_cov = solution.t_cov.cpu(), solution.t_rob_cov.cpu(), solution.cross_cov.cpu()
    k, by_t_rob = _shift(t_rob, prior)
    spread = (t_cov.diagonal(), t_rob_cov.diagonal(), cross_cov.diagonal())
    accuracy_by_t_rob = gaussian.accuracy_shift_slope(t, k, prior) * by_t_rob
    bound_by_t_rob = torch.where(t > 0, gaussian.bound_shift_slope(t, k, prior) * by_t_rob, 0.0)
    robust_slope = gaussian.accuracy_slope(t_rob, k, prior)
    robust_slope += gaussian.accuracy_shift_slope(t_rob, k, prior) * by_t_rob
    bound_stderr = _propagate(gaussian.bound_slope(t, k, prior), bound_by_t_rob, *spread)
    return CurvePoint(
        eps=np.asarray(eps, dtype=np.float64),
        accuracy=gaussian.accuracy(t, k, prior).numpy(),
        robust_accuracy=gaussian.accuracy(t_rob, k, prior).numpy(),
        bound=gaussian.bound(t, k, prior).numpy(),
        t=t.numpy(),
        t_rob=t_rob.numpy(),
        stderr=t_cov.diagonal().sqrt().numpy(),
        accuracy_stderr=_propagate(gaussian.accuracy_slope(t, k, prior), accuracy_by_t_rob, *spread).numpy(),
        robust_accuracy_stderr=(robust_slope.abs() * t_rob_cov.diagonal().sqrt()).numpy(),
        bound_stderr=torch.where(t > 0, bound_stderr, torch.nan).numpy(),
        ridge=solution.ridge.cpu().numpy(),
        kappa=solution.kappa.cpu().numpy(),
        count=int(stats.count.sum()),
        feature_dim=stats.mean.shape[1],
        rank=solution.rank,
        estimator="consistent",
        t_cov=t_cov.numpy(),
        t_rob_cov=t_rob_cov.numpy(),
        cross_cov=cross_cov.numpy(),
    )


def paper_point(
    stats: FeatureStats,
    test_x: Tensor,
    test_y: Tensor,
    eps: Sequence[float],
    *,
    prior: float = 0.5,
    group: int = PUBLISHED_GROUP,
    backend: str = "auto",
) -> CurvePoint:
    """The published protocol: classifiers from training moments, counted on a test half.

    w = (C + gI)^-1 m with C divided by N - 2 and eigenvalues <= 1e-6 dropped; accuracy is the fraction of
    test samples on the right side; the bound is |margin| / |m'w| averaged over the correct samples of each
    run of `group` samples, then over the runs (the script's batches). t is that of the test margins. Errors
    are those of the test half for the given classifiers: the training half's share is not in them.

    Args:
        stats: moments of the training half.
        test_x: float32 or float64 [N, F].
        test_y: [N], labels 0/1.
        eps: E budgets in [0, 1).
        prior: tau of the task; the log-prior term enters unless tau = 1/2 (the published script omits it).
        group: samples per run of the bound average.
        backend: of `robust_solve` and `score_sweep`.

    Raises:
        SynbenchError: a class without samples in either half, features that are all constant.
    """
    return start_paper(stats, test_x, test_y, eps, prior=prior, group=group, backend=backend)()


def _paper_curve(
    solution: RobustSolution,
    stats: FeatureStats,
    totals: SweepTotals,
    robust_margin: Tensor,
    eps: Sequence[float],
) -> CurvePoint:
    for label, count in enumerate(totals.count.tolist()):
        if count == 0:
            raise SynbenchError(f"test labels: expected samples of both classes, got none of class {label}")
    n = int(totals.count.sum())
    accuracy, robust, t = totals.accuracy, totals.robust_accuracy, totals.t
    reduction = robust_margin / totals.margin_deviation
    t_rob = t - torch.where(torch.isfinite(reduction), reduction, 0.0)
    return CurvePoint(
        eps=np.asarray(eps, dtype=np.float64),
        accuracy=accuracy.numpy(),
        robust_accuracy=robust.numpy(),
        bound=torch.where(solution.signal.cpu() > 0, totals.grouped_bound, torch.inf).numpy(),
        t=t.numpy(),
        t_rob=t_rob.numpy(),
        stderr=((1 + t.square() / 2) / n).sqrt().numpy(),
        accuracy_stderr=(accuracy * (1 - accuracy) / n).sqrt().numpy(),
        robust_accuracy_stderr=(robust * (1 - robust) / n).sqrt().numpy(),
        bound_stderr=totals.bound_stderr.numpy(),
        ridge=solution.ridge.cpu().numpy(),
        kappa=solution.kappa.cpu().numpy(),
        count=n,
        feature_dim=stats.mean.shape[1],
        rank=solution.rank,
        estimator="paper",
    )


def term_stderr(point: CurvePoint, thresholds: Tensor, prior: float) -> Tensor:
    """Standard error of bound * max(0, accuracy - a_t), what one scale adds to the area: float64 [E, A].

    consistent: accuracy and bound are functions of one t (and, through the log-prior term, of t_rob), so the
    derivative of the product counts.
    paper: the count and the mean of the margins are taken as independent.
    NaN where t = 0 and the commoner class alone exceeds a_t, because there the bound is infinite.
    """
    a, b = torch.from_numpy(point.accuracy)[:, None], torch.from_numpy(point.bound)[:, None]
    counts = a > thresholds
    if point.t_cov is not None and point.t_rob_cov is not None and point.cross_cov is not None:
        t, t_rob = torch.from_numpy(point.t)[:, None], torch.from_numpy(point.t_rob)[:, None]
        k, by_t_rob = _shift(t_rob, prior)
        excess = a - thresholds
        slope = gaussian.bound_slope(t, k, prior) * excess + b * gaussian.accuracy_slope(t, k, prior)
        shift_slope = gaussian.bound_shift_slope(t, k, prior) * excess
        shift_slope = shift_slope + b * gaussian.accuracy_shift_slope(t, k, prior)
        spread = (
            torch.from_numpy(c).diagonal()[:, None] for c in (point.t_cov, point.t_rob_cov, point.cross_cov)
        )
        stderr = _propagate(slope, torch.where(by_t_rob == 0, 0.0, shift_slope * by_t_rob), *spread)
    else:
        a_stderr = torch.from_numpy(point.accuracy_stderr)[:, None]
        b_stderr = torch.from_numpy(point.bound_stderr)[:, None]
        stderr = torch.hypot(b * a_stderr, (a - thresholds) * b_stderr)
    return torch.where(counts, stderr, 0.0)


def robust_area_stderr(point: CurvePoint, quadrature: NDArray[np.float64], prior: float) -> float:
    """Standard error of sum_e quadrature_e * robust_accuracy_e of one scale.

    The paper estimator knows no covariance over eps; its errors are added up as if fully correlated, which
    can only overstate the sum's.
    """
    if point.t_rob_cov is None:
        return float(quadrature @ point.robust_accuracy_stderr)
    t_rob = torch.from_numpy(point.t_rob)
    k, by_t_rob = _shift(t_rob, prior)
    slope = gaussian.accuracy_slope(t_rob, k, prior)
    slope += gaussian.accuracy_shift_slope(t_rob, k, prior) * by_t_rob
    weight = quadrature * slope.numpy()
    return float(np.sqrt(max(0.0, weight @ point.t_rob_cov @ weight)))
