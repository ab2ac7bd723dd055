"""The estimators of the accuracy-robustness curve, one class each, and the registry that finds them by name.

An estimator turns the features of one scale into a `CurvePoint`. A further one is a subclass of `Estimator` with an
instance in BUILT_IN; those of other packages are subclasses, too, and come through `plugins`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.checks import check_estimator, plugin_estimator
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.feature_stats import FeatureStats, feature_stats
from synbench_fast.ops.leave_one_out import leave_one_out
from synbench_fast.ops.robust_solve import Enqueued, enqueue
from synbench_fast.ops.score_sweep import PUBLISHED_GROUP, SweepTotals, score_sweep
from synbench_fast.stats import gaussian
from synbench_fast.stats.consistent import (
    Counts,
    Margins,
    counts,
    deviation_error,
    grouped,
    margins,
    t_influence,
    unseen,
)
from synbench_fast.stats.point import CurvePoint, checked_point, independent_covariance
from synbench_fast.stats.solve import Solved, check_sizes, check_stats, examine, start_solving

Array = NDArray[np.float64]

ROOM_FOR_HALVES = 1.5  # samples per feature in a half that is evaluated for itself

__all__ = [
    "BUILT_IN",
    "Consistent",
    "Counted",
    "Estimator",
    "Gaussian",
    "Given",
    "Paper",
    "Sample",
    "find_estimator",
]


@dataclass(frozen=True)
class Sample:
    """Labelled features of one set of samples: x [N, F], y [N] in 0 and 1 as uint8, the number of the first, and (N_0, N_1) if known."""

    x: Tensor
    y: Tensor
    start: int = 0
    count: tuple[int, int] | None = None


@dataclass(frozen=True)
class Given:
    """What an estimator may use beside the moments.

    sample: the training features themselves; None where there are their moments alone.
    test: the test half, where `halves` is 2.
    prior: probability of class 1.
    sampled: for how many of the first budgets the point has influences; None for all.
    backend: of the operations.
    """

    sample: Sample | None = None
    test: Sample | None = None
    prior: float = 0.5
    sampled: int | None = None
    backend: str = "auto"


class Estimator(ABC):
    """How the features of one scale become a point of the curve.

    Attributes:
        name: by which it is asked for.
        halves: independent sets of samples that it reads per scale.
        unbiased: whether its points are on average the same for any number of samples. Then those of several blocks of
            samples may be averaged, which is how `half_width` adds samples. Not so for a classifier that gets better
            with more samples.
        corrected: whether it takes out the noise of the classifiers, for which it needs more samples than features.
        moments: whether its classifiers take the sample's moments for the population's ("known"), or correct them for
            the sampling ("sampled"); see `robust_solve`.
        samples_per_feature: how many it is given per scale at least, where nobody says how many.
        needs_features: whether it reads the features themselves, beside their moments.
        assumes_gaussian: whether it takes the margins as Gaussian; then it has `excess` tell whether they are.
        multiclass: whether it speaks of K classes, too; see `stats.multiclass`.
    """

    name: str
    halves: int = 1
    unbiased: bool = False
    corrected: bool = False
    needs_features: bool = True
    assumes_gaussian: bool = False
    multiclass: bool = False
    moments: str = "known"
    samples_per_feature: int = 2

    @abstractmethod
    def enqueue(self, stats: FeatureStats, eps: Sequence[float], given: Given) -> Callable[[], CurvePoint]:
        """Enqueue the work on a device; calling what is returned waits for it and gives the point.

        The point has an entry for each budget. `start` puts its `eps`, `estimator`, `count` and `feature_dim`.

        Args:
            stats: moments of the training features.
            eps: E budgets in [0, 1).
            given: the rest.

        Raises:
            SynbenchError: too few samples, features that carry nothing.
        """

    def start(self, stats: FeatureStats, eps: Sequence[float], given: Given) -> Callable[[], CurvePoint]:
        """`enqueue`, with the form of its point checked.

        Raises:
            SynbenchError: as for `enqueue`; a class without samples; the point is not a `CurvePoint` of float64 arrays [E] with finite accuracies.
        """
        check_stats(stats, "train")
        with self._named():
            finish = self.enqueue(stats, eps, given)

        def checked() -> CurvePoint:
            test = given.test if self.halves == 2 else None
            count = int(stats.count.sum()) if test is None else len(test.y)
            with self._named():
                if stats.mean.device.type != "cpu":  # for which `check_stats` does not wait
                    check_sizes(stats)
                point = finish()
            return checked_point(point, self.name, eps, count, stats.mean.shape[1])

        return checked

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What an estimator of another package raises becomes one line with its name."""
        try:
            yield
        except SynbenchError:
            raise
        except Exception as error:
            if self.name in BUILT_IN:
                raise
            raise SynbenchError(f"estimator {self.name}: {first_line(error)}") from error

    def point(self, stats: FeatureStats, eps: Sequence[float], **given: Any) -> CurvePoint:
        """The point that `start` waits for; the fields of `Given` by name."""
        return self.start(stats, eps, Given(**given))()


@dataclass(frozen=True)
class _Scale:
    """What the estimators that look at left-out samples make their point of; margins and counts of them if there are any."""

    eps: Tensor
    solved: Solved
    stats: FeatureStats
    prior: float
    margins: Margins | None = None
    counts: Counts | None = None

    @property
    def closed(self) -> tuple[Tensor, Tensor, Tensor]:
        """t and t_rob [E], and their joint covariance [2 E, 2 E] for Gaussian features."""
        found = self.solved.solution
        t_cov, cross, t_rob_cov = (one.cpu() for one in (found.t_cov, found.cross_cov, found.t_rob_cov))
        joint = torch.cat([torch.cat([t_cov, cross], 1), torch.cat([cross.T, t_rob_cov], 1)])
        return found.t.cpu(), found.t_rob.cpu(), joint

    @property
    def classifiers_part(self) -> Tensor:
        """[2 E, 2 E] the part of that covariance which is the classifiers' own: without that at fixed ones, c0 + t^2/(2 N)."""
        t, t_rob, joint = self.closed
        fixed = self.stats.c0 + torch.cat([t, t_rob]).square() / (2 * int(self.stats.count.sum()))
        variance = joint.diagonal()
        share = torch.where(variance > 0, ((variance - fixed) / variance).clamp_min(0), 0.0).sqrt()
        return share[:, None] * joint * share


class _LeaveOneOut(Estimator):
    """What the estimators that look at left-out samples share."""

    unbiased = True
    corrected = True
    moments = "sampled"
    multiclass = True

    def enqueue(self, stats: FeatureStats, eps: Sequence[float], given: Given) -> Callable[[], CurvePoint]:
        if given.sample is None and self.needs_features:
            raise SynbenchError(
                f"estimator: expected the features themselves for {self.name}, got their moments alone"
            )
        solve = start_solving(stats, eps, given.backend)
        budgets = torch.tensor(list(eps), dtype=torch.float64)

        def finish() -> CurvePoint:
            scale = self._scale(solve(), stats, budgets, given)
            point = self._point(scale)
            if given.sample is not None:
                sampled = len(budgets) if given.sampled is None else given.sampled
                seen = _looked_at(self, scale, sampled, given.sample)
                point = replace(point, drift=self._drift(point, given.sample, eps, given), **seen)
            return _certain(point, scale)

        return finish

    def _drift(self, point: CurvePoint, sample: Sample, eps: Sequence[float], given: Given) -> Array | None:
        """`CurvePoint.drift`; None where half of the samples are too few for their features, and for `counted`."""
        n = len(sample.y)
        if not self.corrected or n // 2 < ROOM_FOR_HALVES * point.rank + 3:
            return None
        halves = []
        budgets = torch.tensor(list(eps), dtype=torch.float64)
        for part in (slice(0, n // 2), slice(n - n // 2, n)):
            half = Sample(sample.x[part], sample.y[part])
            stats = feature_stats(half.x, half.y, backend=given.backend)
            if int(stats.count.min()) < 2:
                return None
            seen = replace(given, sample=None if self.assumes_gaussian else half)
            scale = self._scale(start_solving(stats, eps, given.backend)(), stats, budgets, seen)
            halves.append(_certain(self._point(scale), scale))
        parts = []
        for name in ("accuracy", "reach", "robust_accuracy"):
            whole, *rest = (getattr(one, name) for one in (point, *halves))
            # A reach without a signal is infinite, and its drift unknown.
            known = np.isfinite([whole, *rest]).all(0)
            parts.append(np.where(known, whole, np.nan) - np.where(known, rest[0] + rest[1], np.nan) / 2)
        return np.concatenate(parts)

    def _scale(self, solved: Solved, stats: FeatureStats, budgets: Tensor, given: Given) -> _Scale:
        if given.sample is None:
            return _Scale(budgets, solved, stats, given.prior)
        x, y = given.sample.x, given.sample.y
        left_out = leave_one_out(
            x, y, stats, solved.solution.ridge, covariance=solved.covariance, backend=given.backend
        )
        seen = margins(unseen(left_out), y, given.prior)
        found = counts(seen, left_out, solved.solution, stats, budgets, given.prior, corrected=self.corrected)
        return _Scale(budgets, solved, stats, given.prior, seen, found)

    @abstractmethod
    def _point(self, scale: _Scale) -> CurvePoint:
        """The point of this scale, without its influences."""


class Gaussian(_LeaveOneOut):
    """Accuracy, robust accuracy and bound of Gaussian margins with the population's t, estimated without bias.

    Of all estimators it has the smallest errors where the margins are Gaussian, and a bias that no number of samples
    removes where they are not; the point's `excess` tells.
    """

    name = "gaussian"
    needs_features = False
    assumes_gaussian = True

    def _point(self, scale: _Scale) -> CurvePoint:
        t, t_rob, joint = scale.closed
        prior = scale.prior
        k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), t_rob.square())
        k_slope = torch.where(
            (t_rob > 0) & (k != 0), -k / t_rob, 0.0
        )  # t_rob^2 is w'Cw, so an estimate of it is one of k
        zero = torch.zeros_like(t)

        def slopes(by_t: Tensor, by_k: Tensor) -> Tensor:
            return torch.stack([by_t, torch.where(k_slope == 0, 0.0, by_k * k_slope)], 1)

        robust_slope = gaussian.accuracy_slope(t_rob, k, prior)
        robust_slope = robust_slope + torch.where(
            k_slope == 0, 0.0, gaussian.accuracy_shift_slope(t_rob, k, prior) * k_slope
        )
        by_t = torch.stack(
            [
                slopes(gaussian.accuracy_slope(t, k, prior), gaussian.accuracy_shift_slope(t, k, prior)),
                slopes(gaussian.reach_slope(t, k, prior), gaussian.reach_shift_slope(t, k, prior)),
                torch.stack([zero, robust_slope], 1),
            ]
        )
        return _assembled(
            scale,
            self.name,
            accuracy=gaussian.accuracy(t, k, prior),
            reach=gaussian.reach(t, k, prior),
            robust_accuracy=gaussian.accuracy(t_rob, k, prior),
            covariance=_through(by_t, joint),
            t_variance=joint.diagonal()[: len(t)],
        )


class Consistent(_LeaveOneOut):
    """Accuracy, robust accuracy and bound of the population's classifier, counted from left-out samples.

    Formulas in `consistent`. Errors are the sum of the squared influences of the samples and, for Gaussian features, the
    classifiers' own part.
    """

    name = "consistent"

    def _point(self, scale: _Scale) -> CurvePoint:
        seen, found = scale.margins, scale.counts
        assert seen is not None and found is not None
        n, size = len(seen), len(scale.eps)
        moved = torch.cat(found.influence, 1)
        covariance = moved.T @ moved + _through(found.by_t, scale.classifiers_part)
        # A count of all or none has an error, too: that of one sample.
        rates = torch.cat([found.accuracy, found.robust_accuracy])
        least = (1 / n - rates * (1 - rates)).clamp_min(0) / n
        more = torch.cat(
            [least[:size] + found.jumps[0], torch.zeros_like(found.jumps[0]), least[size:] + found.jumps[1]]
        )
        t = scale.closed[0]
        own = scale.classifiers_part.diagonal()[:size]
        return _assembled(
            scale,
            self.name,
            accuracy=found.accuracy,
            reach=found.reach,
            robust_accuracy=found.robust_accuracy,
            covariance=covariance + torch.diag(more),
            t_variance=t_influence(seen, t).square().sum(0) + own,
        )


class Counted(Consistent):
    """The same of the classifier that N samples give: what a linear discriminant trained on as many would reach.

    Nothing is assumed of the margins, and nothing is corrected, so that it grows with N.
    """

    name = "counted"
    unbiased = False
    corrected = False


def _through(by_t: Tensor, covariance: Tensor) -> Tensor:
    """[3 E, 3 E] covariance of (accuracy, reach, robust accuracy) from that of (t, t_rob) and by_t [3, E, 2]."""
    blocks = [torch.cat([torch.diag(one[:, 0]), torch.diag(one[:, 1])], 1) for one in by_t]
    slopes = torch.cat(blocks)
    known = torch.isfinite(slopes).all(1)
    safe = torch.where(known[:, None], slopes, 0.0)
    found = safe @ covariance @ safe.T
    return torch.where(known[:, None] & known, found, torch.nan)


def _assembled(
    scale: _Scale,
    name: str,
    *,
    accuracy: Tensor,
    reach: Tensor,
    robust_accuracy: Tensor,
    covariance: Tensor,
    t_variance: Tensor,
) -> CurvePoint:
    solution, size = scale.solved.solution, len(scale.eps)
    variance = covariance.diagonal()
    bound = reach / accuracy
    # b = R / a
    cross = covariance[:size, size : 2 * size].diagonal()
    bound_variance = (
        bound.square() * variance[:size] - 2 * bound * cross + variance[size : 2 * size]
    ) / accuracy.square()
    known = torch.isfinite(reach)
    return CurvePoint(
        eps=scale.eps.numpy(),
        accuracy=accuracy.numpy(),
        robust_accuracy=robust_accuracy.numpy(),
        bound=torch.where(known, bound, torch.inf).numpy(),
        t=solution.t.cpu().numpy(),
        t_rob=solution.t_rob.cpu().numpy(),
        stderr=t_variance.sqrt().numpy(),
        accuracy_stderr=variance[:size].sqrt().numpy(),
        robust_accuracy_stderr=variance[2 * size :].sqrt().numpy(),
        bound_stderr=torch.where(known, bound_variance.clamp_min(0).sqrt(), torch.nan).numpy(),
        ridge=solution.ridge.cpu().numpy(),
        kappa=solution.kappa.cpu().numpy(),
        count=int(scale.stats.count.sum()),
        feature_dim=scale.stats.mean.shape[1],
        rank=scale.solved.rank,
        below_cut=scale.solved.below_cut,
        estimator=name,
        covariance=covariance.numpy(),
    )


def _looked_at(estimator: _LeaveOneOut, scale: _Scale, sampled: int, sample: Sample) -> dict[str, Any]:
    """What only the samples tell: their influences, and how far the margins are from Gaussian ones."""
    seen, found = scale.margins, scale.counts
    assert seen is not None and found is not None
    t, t_rob, _ = scale.closed
    k = gaussian.threshold_shift(gaussian.log_prior_offset(scale.prior), t_rob.square())
    by_gaussian = t_influence(seen, t) * gaussian.accuracy_slope(t, k, scale.prior)
    of_accuracy, of_reach, _ = found.influence
    if estimator.assumes_gaussian:
        by_reach = torch.where(t > 0, gaussian.reach_slope(t, k, scale.prior), 0.0)
        influence = (by_gaussian, t_influence(seen, t) * by_reach)
    else:
        influence = (of_accuracy, of_reach)
    looked: dict[str, Any] = {
        "assumes_gaussian": estimator.assumes_gaussian,
        "influence": torch.stack([grouped(one[:, :sampled], sample.start) for one in influence]).numpy(),
    }
    if not estimator.corrected:
        return looked
    if not estimator.assumes_gaussian:
        undecided = torch.stack([found.undecided[0], torch.zeros_like(t), found.undecided[1]])
        looked |= {
            "correction": found.correction.reshape(-1).numpy(),
            "optimism": found.optimism.numpy(),
            "repeated": found.repeated,
            "deviation_error": deviation_error(seen).numpy(),
            "undecided": undecided.reshape(-1).numpy(),
        }
    difference = of_accuracy - by_gaussian
    return looked | {
        "excess": (found.accuracy - gaussian.accuracy(t, k, scale.prior))[:sampled].numpy(),
        "excess_stderr": (difference.square().sum(0) + found.jumps[0]).sqrt()[:sampled].numpy(),
    }


def _certain(point: CurvePoint, scale: _Scale) -> CurvePoint:
    """The point with no error at the budgets at which a direction separates the classes whatever the attack."""
    certain = scale.solved.certain
    if not certain.any():
        return point
    size, n = len(certain), point.count

    def put(values: Array, value: float) -> Array:
        return np.asarray(np.where(certain, value, values))

    rows = np.tile(certain, 3)
    assert point.covariance is not None
    covariance = np.where(rows[:, None] | rows, 0.0, point.covariance)
    # No error in n samples: as many as one could have been missed.
    missed = np.concatenate([certain / n**2, np.zeros(size), certain / n**2])
    influence = point.influence
    if influence is not None:
        influence = np.where(certain[: influence.shape[1]][None, :, None], 0.0, influence)
    return replace(
        point,
        accuracy=put(point.accuracy, 1.0),
        robust_accuracy=put(point.robust_accuracy, 1.0),
        bound=put(point.bound, 1.0),
        t=put(point.t, np.inf),
        t_rob=put(point.t_rob, np.inf),
        stderr=put(point.stderr, np.nan),
        accuracy_stderr=put(point.accuracy_stderr, 1 / n),
        robust_accuracy_stderr=put(point.robust_accuracy_stderr, 1 / n),
        bound_stderr=put(point.bound_stderr, 0.0),
        deviation_error=None if point.deviation_error is None else put(point.deviation_error, 0.0),
        covariance=covariance + np.diag(missed),
        influence=influence,
        excess=None if point.excess is None else np.where(certain[: len(point.excess)], 0.0, point.excess),
        excess_stderr=None
        if point.excess_stderr is None
        else np.where(certain[: len(point.excess_stderr)], np.nan, point.excess_stderr),
    )


class Paper(Estimator):
    """The published protocol: classifiers from training moments, counted on a test half.

    w = (C + gI)^-1 m with C divided by N - 2 and eigenvalues <= 1e-6 dropped; accuracy is the fraction of test samples
    on the right side; the bound is |margin| / |m'w| averaged over the correct samples of each run of `group` samples,
    then over the runs (the script's batches). t is that of the test margins. Errors are those of the test half for the
    given classifiers: the training half's share is not in them. The log-prior term enters unless tau = 1/2 (the
    published script omits it).

    Args:
        group: samples per run of the bound's average.
    """

    name = "paper"
    halves = 2
    samples_per_feature = 0

    def __init__(self, group: int = PUBLISHED_GROUP) -> None:
        self.group = group

    def enqueue(self, stats: FeatureStats, eps: Sequence[float], given: Given) -> Callable[[], CurvePoint]:
        test = given.test
        if test is None:
            raise SynbenchError("test_x: expected a test half for the paper estimator, got none")
        budgets = torch.tensor(list(eps), dtype=torch.float64).to(stats.mean.device, non_blocking=True)
        solving = enqueue(
            stats.half_difference,
            stats.covariance,
            budgets,
            moments="known",
            dof=stats.dof,
            weights=True,
            backend=given.backend,
        )

        def sweep(solving: Enqueued) -> tuple[Tensor, SweepTotals]:
            robust_margin = budgets * solving.mean_norm * solving.weights.norm(dim=1)
            totals = score_sweep(
                test.x,
                test.y,
                solving.weights,
                stats.midpoint,
                signal=solving.signal,
                robust_margin=robust_margin,
                offset=gaussian.log_prior_offset(given.prior),
                group=self.group,
                count=test.count,
                backend=given.backend,
            )
            return robust_margin, totals

        swept = sweep(solving)

        def finish() -> CurvePoint:
            robust_margin, totals = swept
            solved = solving
            while (again := solved.again()) is not None:
                solved = again
                robust_margin, totals = sweep(solved)
            return _published(solved, stats, totals.cpu(), robust_margin.cpu(), eps)

        return finish


def _published(
    solved: Enqueued, stats: FeatureStats, totals: SweepTotals, robust_margin: Tensor, eps: Sequence[float]
) -> CurvePoint:
    for label, count in enumerate(totals.count.tolist()):
        if count == 0:
            raise SynbenchError(f"test labels: expected samples of both classes, got none of class {label}")
    solution, n = solved.solution(), int(totals.count.sum())
    accuracy, robust, t = totals.accuracy, totals.robust_accuracy, totals.t
    reduction = robust_margin / totals.margin_deviation
    bound = torch.where(solution.signal.cpu() > 0, totals.grouped_bound, torch.inf)
    accuracy_stderr, robust_stderr = ((rate * (1 - rate) / n).sqrt().numpy() for rate in (accuracy, robust))
    return CurvePoint(
        eps=np.asarray(eps, dtype=np.float64),
        accuracy=accuracy.numpy(),
        robust_accuracy=robust.numpy(),
        bound=bound.numpy(),
        t=t.numpy(),
        t_rob=(t - torch.where(torch.isfinite(reduction), reduction, 0.0)).numpy(),
        stderr=((1 + t.square() / 2) / n).sqrt().numpy(),
        accuracy_stderr=accuracy_stderr,
        robust_accuracy_stderr=robust_stderr,
        bound_stderr=totals.bound_stderr.numpy(),
        ridge=solution.ridge.cpu().numpy(),
        kappa=solution.kappa.cpu().numpy(),
        count=n,
        feature_dim=stats.mean.shape[1],
        rank=solution.rank,
        lost_separation=solution.rank < stats.mean.shape[1] and examine(stats).separated,
        estimator="paper",
        independent=True,
        covariance=independent_covariance(
            accuracy.numpy(), bound.numpy(), accuracy_stderr, totals.bound_stderr.numpy(), robust_stderr
        ),
    )


BUILT_IN: dict[str, Estimator] = {one.name: one for one in (Consistent(), Gaussian(), Counted(), Paper())}


def find_estimator(name: str) -> Estimator:
    """The estimator of this name, of this package or of another; SynbenchError names the known ones."""
    name = check_estimator(name)
    return BUILT_IN.get(name) or plugin_estimator(name)
