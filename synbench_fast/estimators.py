"""The estimators of the accuracy-robustness curve: moments and features of one scale in, CurvePoint out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.area_errors import classifier_variance, propagate, robust_slope, shift
from synbench_fast.checks import plugin_estimator
from synbench_fast.errors import SynbenchError
from synbench_fast.margins import counted, counted_covariance, grouped, influence, standard_margins
from synbench_fast.ops.feature_stats import FeatureStats
from synbench_fast.ops.robust_solve import Enqueued, RobustSolution, enqueue
from synbench_fast.ops.score_sweep import PUBLISHED_GROUP, SweepTotals, score_sweep
from synbench_fast.results import CurvePoint

__all__ = [
    "consistent_point",
    "counted_point",
    "gaussian_curve",
    "paper_point",
    "plugin_point",
    "splits",
    "start_consistent",
    "start_counted",
    "start_paper",
    "takes_blocks",
]

_MEANS = ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "ridge", "kappa")
_ERRORS = ("stderr", "accuracy_stderr", "robust_accuracy_stderr", "bound_stderr")


def splits(estimator: str) -> int:
    """How many independent sample sets the estimator reads per scale."""
    other = plugin_estimator(estimator)
    if other is not None:
        return other.splits
    return 2 if estimator == "paper" else 1


def takes_blocks(estimator: str) -> bool:
    """Whether the points of blocks of samples may be averaged, see `blocks`."""
    other = plugin_estimator(estimator)
    return estimator != "paper" if other is None else other.unbiased


def plugin_point(
    name: str,
    stats: FeatureStats,
    eps: Sequence[float],
    *,
    sample: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None,
    prior: float = 0.5,
    backend: str = "auto",
) -> CurvePoint:
    """The point of an estimator of another package, checked for its form.

    Raises:
        SynbenchError: what it returned is no CurvePoint with a number for each budget in every array, finite ones for
            accuracy, robust accuracy and t; and what it raises itself.
    """
    other = plugin_estimator(name)
    assert other is not None
    _check_stats(stats, "train")
    point = other.point(stats, eps, sample=sample, test=test, prior=prior, backend=backend)
    if not isinstance(point, CurvePoint):
        raise SynbenchError(
            f"estimator {name}: expected a CurvePoint with {len(eps)} budgets, got {type(point).__name__}"
        )
    arrays: dict[str, Any] = {"eps": np.asarray(eps, dtype=np.float64)}
    for key in (*_MEANS, *_ERRORS):
        try:
            arrays[key] = np.asarray(getattr(point, key), dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):  # the last one of tensors
            arrays[key] = np.empty((0, 0))
        if arrays[key].shape != (len(eps),):
            raise SynbenchError(
                f"estimator {name}: {key}: expected {len(eps)} numbers, one for each budget, got shape "
                f"{list(np.shape(getattr(point, key)))}"
            )
        if key in ("accuracy", "robust_accuracy", "t") and not np.isfinite(arrays[key]).all():
            raise SynbenchError(
                f"estimator {name}: {key}: expected finite values, got {arrays[key].tolist()}"
            )
    count = len((sample if test is None else test)[1])
    return replace(point, estimator=name, count=count, feature_dim=stats.mean.shape[1], **arrays)


def _check_stats(stats: FeatureStats, role: str) -> None:
    for label, count in enumerate(stats.count.tolist()):
        if count == 0:
            raise SynbenchError(f"{role} labels: expected samples of both classes, got none of class {label}")
    if stats.dof < 1:
        raise SynbenchError(f"{role} samples: expected at least 3, got {stats.dof + 2}")


def start_consistent(
    stats: FeatureStats,
    eps: Sequence[float],
    *,
    sample: tuple[Tensor, Tensor] | None = None,
    sampled: int | None = None,
    start: int = 0,
    prior: float = 0.5,
    backend: str = "auto",
) -> Callable[[], CurvePoint]:
    """`consistent_point` in two halves: this one enqueues the work, calling what it returns waits for it.

    start: number of the first sample, from which the groups of `influence` are counted.

    On a GPU nothing here waits for the device; errors in the features come with the second half.
    """
    solve = _start_solving(stats, eps, sample, len(eps) if sampled is None else sampled, backend)

    def finish() -> CurvePoint:
        solution, z, y = solve()
        point = _consistent_curve(solution, stats, eps, prior)
        if z is None or y is None:
            return point
        t, t_rob = (torch.from_numpy(one[:sampled]) for one in (point.t, point.t_rob))
        accuracy, _ = counted(z, y, t, shift(t_rob, prior)[0])
        moved = grouped(influence(z, y, t), start)
        return replace(point, influence=moved.numpy(), counted_accuracy=accuracy.numpy())

    return finish


def start_counted(
    stats: FeatureStats,
    eps: Sequence[float],
    *,
    sample: tuple[Tensor, Tensor],
    prior: float = 0.5,
    backend: str = "auto",
) -> Callable[[], CurvePoint]:
    """`counted_point` in two halves, like `start_consistent`."""
    solve = _start_solving(stats, eps, sample, len(eps), backend)

    def finish() -> CurvePoint:
        solution, z, y = solve()
        assert z is not None and y is not None
        return _counted_curve(solution, stats, z, y, eps, prior)

    return finish


def _start_solving(
    stats: FeatureStats,
    eps: Sequence[float],
    sample: tuple[Tensor, Tensor] | None,
    sampled: int,
    backend: str,
) -> Callable[[], tuple[RobustSolution, Tensor | None, Tensor | None]]:
    """Enqueue the consistent solution, and with a sample the standardised margins of the first `sampled` budgets.

    The solution, margins and labels are returned, the last two on the CPU.
    """
    _check_stats(stats, "train")
    solving = enqueue(
        stats.half_difference,
        stats.covariance,
        torch.tensor(list(eps), dtype=torch.float64).to(stats.mean.device, non_blocking=True),
        estimator="consistent",
        dof=stats.dof,
        c0=stats.c0,
        weights=sample is not None,
        backend=backend,
    )

    def margins(solving: Enqueued) -> Tensor | None:
        return (
            None if sample is None else standard_margins(*sample, solving.weights[:sampled], stats.midpoint)
        )

    standard = margins(solving)

    def finish() -> tuple[RobustSolution, Tensor | None, Tensor | None]:
        solved, z = solving, standard
        while (again := solved.again()) is not None:
            solved = again
            z = margins(solved)
        solution = solved.solution()
        return solution, None if z is None else z.cpu(), None if sample is None else sample[1].cpu()

    return finish


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
    stats: FeatureStats,
    eps: Sequence[float],
    *,
    sample: tuple[Tensor, Tensor] | None = None,
    sampled: int | None = None,
    prior: float = 0.5,
    backend: str = "auto",
) -> CurvePoint:
    """Population curve from training moments alone, corrected for finite N.

    t and its covariance over eps come from `robust_solve(estimator="consistent")`; accuracy, robust accuracy
    and bound are those of Gaussian margins with that t (see `gaussian`). Standard errors follow by the
    delta method; they assume Gaussian features along the classifier, as the estimate itself does.

    Args:
        stats: moments of N labelled features, N - 2 > rank of the features.
        eps: E budgets in [0, 1).
        sample: those features [N, F] and labels [N]; with them the point has `influence` and
            `counted_accuracy`, which tells whether the margins are Gaussian.
        sampled: for how many of the first budgets it has them; None for all.
        prior: tau of the task.
        backend: of `robust_solve`.

    Raises:
        SynbenchError: a class without samples, N too small, features that are all constant.
    """
    return start_consistent(stats, eps, sample=sample, sampled=sampled, prior=prior, backend=backend)()


def _consistent_curve(
    solution: RobustSolution, stats: FeatureStats, eps: Sequence[float], prior: float
) -> CurvePoint:
    return CurvePoint(
        eps=np.asarray(eps, dtype=np.float64),
        **gaussian_curve(
            solution.t.cpu().numpy(),
            solution.t_rob.cpu().numpy(),
            solution.t_cov.cpu().numpy(),
            solution.t_rob_cov.cpu().numpy(),
            solution.cross_cov.cpu().numpy(),
            prior,
        ),
        ridge=solution.ridge.cpu().numpy(),
        kappa=solution.kappa.cpu().numpy(),
        count=int(stats.count.sum()),
        feature_dim=stats.mean.shape[1],
        rank=solution.rank,
        estimator="consistent",
    )


def gaussian_curve(
    t: NDArray[np.float64],
    t_rob: NDArray[np.float64],
    t_cov: NDArray[np.float64],
    t_rob_cov: NDArray[np.float64],
    cross_cov: NDArray[np.float64],
    prior: float,
) -> dict[str, NDArray[np.float64]]:
    """Those fields of `CurvePoint` that follow from t and t_rob [E] and their covariances [E, E]."""
    signal, robust = torch.from_numpy(t), torch.from_numpy(t_rob)
    k, by_t_rob = shift(robust, prior)
    spread = [torch.tensor(one).diagonal() for one in (t_cov, t_rob_cov, cross_cov)]
    accuracy_by_t_rob = gaussian.accuracy_shift_slope(signal, k, prior) * by_t_rob
    bound_by_t_rob = torch.where(signal > 0, gaussian.bound_shift_slope(signal, k, prior) * by_t_rob, 0.0)
    accuracy_stderr = propagate(gaussian.accuracy_slope(signal, k, prior), accuracy_by_t_rob, *spread)
    bound_stderr = propagate(gaussian.bound_slope(signal, k, prior), bound_by_t_rob, *spread)
    return {
        "t": t,
        "t_rob": t_rob,
        "t_cov": t_cov,
        "t_rob_cov": t_rob_cov,
        "cross_cov": cross_cov,
        "stderr": spread[0].sqrt().numpy(),
        "accuracy": gaussian.accuracy(signal, k, prior).numpy(),
        "accuracy_stderr": accuracy_stderr.numpy(),
        "robust_accuracy": gaussian.accuracy(robust, k, prior).numpy(),
        "robust_accuracy_stderr": (robust_slope(robust, prior).abs() * spread[1].sqrt()).numpy(),
        "bound": gaussian.bound(signal, k, prior).numpy(),
        "bound_stderr": torch.where(signal > 0, bound_stderr, torch.nan).numpy(),
    }


def counted_point(
    stats: FeatureStats,
    eps: Sequence[float],
    *,
    sample: tuple[Tensor, Tensor],
    prior: float = 0.5,
    backend: str = "auto",
) -> CurvePoint:
    """The consistent t, with accuracy and bound counted from the training margins instead of Gaussian ones.

    For margins that are not Gaussian: t, its covariance and t_rob are those of `consistent_point`, and the
    standardised margins of the sample (see `margins`) take the place of the normal distribution in accuracy,
    robust accuracy and bound. Their errors have the count's, at fixed classifiers, and that part of the error of
    t that comes from the classifiers: Var(t) - c0 - t^2/(2 N). Accuracy is a multiple of 1/N.

    Args:
        stats, eps, prior, backend: as in `consistent_point`.
        sample: the features [N, F] and labels [N] that `stats` describes.

    Raises:
        SynbenchError: as `consistent_point`.
    """
    return start_counted(stats, eps, sample=sample, prior=prior, backend=backend)()


def _counted_curve(
    solution: RobustSolution, stats: FeatureStats, z: Tensor, y: Tensor, eps: Sequence[float], prior: float
) -> CurvePoint:
    gaussian_point = _consistent_curve(solution, stats, eps, prior)
    t, t_rob = torch.from_numpy(gaussian_point.t), torch.from_numpy(gaussian_point.t_rob)
    k, _ = shift(t_rob, prior)
    accuracy, bound = counted(z, y, t, k)
    robust, _ = counted(z, y, t_rob, k)
    covariance = counted_covariance(z, y, t, k)
    extra = classifier_variance(gaussian_point)
    k_slope = torch.where(t > 0, -k / torch.where(t > 0, t, 1.0), 0.0)  # t_rob moves in proportion
    by_t = gaussian.accuracy_slope(t, k, prior) + gaussian.accuracy_shift_slope(t, k, prior) * k_slope
    bound_by_t = gaussian.bound_slope(t, k, prior)
    bound_by_t = bound_by_t + torch.where(t > 0, gaussian.bound_shift_slope(t, k, prior) * k_slope, 0.0)
    accuracy_variance = covariance[:, 0, 0] + by_t.square() * extra
    # b = R / a, at fixed classifiers; with them b moves as the Gaussian one does.
    gradient = torch.stack([-bound / accuracy, 1 / accuracy], 1)
    bound_variance = torch.einsum("ei,eij,ej->e", gradient, covariance, gradient)
    bound_variance = bound_variance + bound_by_t.square() * extra
    t_rob_variance = torch.from_numpy(np.diagonal(np.asarray(gaussian_point.t_rob_cov)).copy())
    robust_extra = (t_rob_variance - stats.c0 - t_rob.square() / (2 * len(y))).clamp_min(0)
    robust_variance = robust * (1 - robust) / len(y)
    robust_variance = robust_variance + gaussian.accuracy_slope(t_rob, k, prior).square() * robust_extra
    return replace(
        gaussian_point,
        accuracy=accuracy.numpy(),
        robust_accuracy=robust.numpy(),
        bound=bound.numpy(),
        accuracy_stderr=accuracy_variance.sqrt().numpy(),
        robust_accuracy_stderr=robust_variance.sqrt().numpy(),
        bound_stderr=torch.where(t > 0, bound_variance.sqrt(), torch.nan).numpy(),
        counted_cov=covariance.numpy(),
        counted_accuracy=accuracy.numpy(),
        estimator="counted",
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
