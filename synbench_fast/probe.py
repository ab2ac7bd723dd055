"""The streaming pipeline of one encoder: batches out, features in, result at the end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.area_errors import area_covariance, area_terms, robust_area_stderr
from synbench_fast.checks import check_eps, check_estimator, check_integer, check_seed, check_thresholds
from synbench_fast.errors import SynbenchError
from synbench_fast.estimators import (
    splits,
    start_consistent,
    start_counted,
    start_paper,
)
from synbench_fast.margins import GROUP, gaussianity
from synbench_fast.ops.dispatch import OPERATIONS, resolve
from synbench_fast.ops.feature_stats import FeatureStats, feature_stats
from synbench_fast.ops.sample_mixture import labels
from synbench_fast.ops.score_auc import Integral, score_auc
from synbench_fast.results import CurvePoint, Influence, RobustArea, ScalePoint, Score
from synbench_fast.streams import Lane, PhaseClock, mark
from synbench_fast.task import GaussianTask

__all__ = ["Batch", "Curve", "Probe"]

AREA_NODES = 8  # Gauss-Legendre nodes of the integral over eps in [0, 1]: Phi is smooth, error < 1e-6
CONFIDENCE_95 = 1.959963984540054
NOT_GAUSSIAN = 1e-3  # p-value below which margins are called so
NOTICEABLE = 0.002  # difference in accuracy that is worth a warning
PENDING_SCALES = 2  # finished scales whose statistics a GPU may still be working on


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of one scale and split, normalised as the encoder reads them."""

    x: Tensor  # [B, *shape]
    y: Tensor  # uint8 [B]
    scale_index: int
    split: int  # 0: train, 1: test
    start: int  # index of the first sample within its scale and split


@dataclass(frozen=True)
class Curve:
    """Scores over (eps, threshold) and the accuracy-robustness curve behind them."""

    scores: list[Score]
    curve: list[ScalePoint]
    score_covariance: list[list[float]] | None
    influence: Influence | None
    robust_area: RobustArea
    warnings: list[str]


class _Buffer:
    """Features of one (scale, split) until it is evaluated."""

    def __init__(self, samples: int, features: int, like: Tensor) -> None:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.x = torch.empty(samples, features, dtype=dtype, device=like.device)
        self.seen = torch.zeros(samples, dtype=torch.bool)

    @property
    def complete(self) -> bool:
        return bool(self.seen.all())


@dataclass(frozen=True)
class _Pending:
    """A complete scale on a GPU whose statistics have been started and not yet waited for."""

    scale_index: int
    buffers: list[_Buffer]
    finite: Tensor  # bool [], on the GPU
    finish: Callable[[], CurvePoint]


class Probe:
    """Scores one encoder from batches of its features.

        probe = Probe(task, eps=(0.0, 0.2), samples=1024)
        for batch in probe.batches(batch_size=256):
            probe.update(batch, encoder(batch.x))
        curve = probe.compute()

    Batches may be updated in any order and split in any way; every sample of every scale and split must come
    once. Only the features of unfinished scales are kept: memory is N x F (twice that for `paper`) plus a few
    F x F matrices, whatever the number of scales.

    Features on a GPU are taken without waiting for it: `update` only starts work, on the current stream and,
    once a scale is complete, on a stream of the statistics' own. All batches of a scale are to be updated from
    one stream. The features of at most two finished scales stay there beside the unfinished ones, three times
    the memory above when going scale by scale; what is wrong with a scale's features is reported up to two
    scales later, by `compute` at the latest. Elsewhere a scale is evaluated, and its mistakes are named, in
    the `update` that completes it.

    `seconds` holds the time of the phases "sample" and "statistics"; see `streams.PhaseClock`.

    Args:
        task: what to sample.
        eps: E budgets in [0, 1), relative to the half-distance of the class means.
        samples: N per scale (per half for `paper`). `consistent` needs more than F + 2.
        estimator: "consistent" (default), "counted" or "paper"; see docs/method.md.
        thresholds: A accuracies a_t in [0, 1); None for the paper's nine from 0.6 to 0.99.
        integral: "exact", or "grid" for the published script's sum over 100 points.
        seed: 64-bit seed of the samples.
        mean, std: per channel normalisation of the samples; None for none.
        dtype, channels_last, device: of the samples.
        backend: of every operation; "auto" picks the fastest for the device, "torch" is the float64
            specification.

    Raises:
        SynbenchError: any argument out of range.
    """

    def __init__(
        self,
        task: GaussianTask,
        eps: Sequence[float] | float = (0.0, 0.2),
        *,
        samples: int = 1024,
        estimator: str = "consistent",
        thresholds: Sequence[float] | float | None = None,
        integral: Integral = "exact",
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        device: torch.device | str = "cpu",
        backend: str = "auto",
    ) -> None:
        self.task = task
        self.eps = check_eps(eps)
        self.estimator = check_estimator(estimator)
        self.thresholds = check_thresholds(thresholds)
        self.integral = integral
        self.samples = check_integer("samples", samples, 4, "an integer of at least 4 per scale")
        self.seed = check_seed(seed)
        self.mean, self.std = mean, std
        self.dtype, self.channels_last = dtype, channels_last
        self.device = torch.device(device)
        self.backend = backend
        for operation in OPERATIONS:
            resolve(operation, self.device.type, backend)
        self.splits = splits(self.estimator)
        self.clock = PhaseClock()
        nodes, weights = np.polynomial.legendre.leggauss(AREA_NODES)
        self._nodes = tuple((nodes + 1) / 2)
        self._quadrature = weights / 2
        self._labels = labels(0, self.samples, task.prior)
        ones = int(self._labels.count_nonzero())
        self._count = (self.samples - ones, ones)
        self._uploaded: dict[torch.device, Tensor] = {}
        self._lanes: dict[torch.device, Lane] = {}
        self._buffers: dict[tuple[int, int], _Buffer] = {}
        self._pending: deque[_Pending] = deque()
        self._points: dict[int, CurvePoint] = {}
        self._features: int | None = None
        self._kept: int | None = None
        self._kept_features: list[Tensor] = []
        # Computed before any feature, so that a mistake in `integral` or `backend` does not cost a run.
        self._raw_accuracy, self._raw_robust, self._raw_bound = task.raw(self.eps + self._nodes)
        self._area(self._raw_accuracy, self._raw_bound, integral)

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

    @property
    def images(self) -> int:
        """Number of samples that a whole run draws."""
        return len(self.task.scale_values) * self.splits * self.samples

    def batch(
        self, scale_index: int, split: int, start: int, count: int, *, out: Tensor | None = None
    ) -> Batch:
        """Samples start .. start + count - 1 of one scale and split."""
        with self.clock.phase("sample", self.device):
            x, y = self.task.sample(
                self.task.scale_values[scale_index],
                start,
                count,
                split=split,
                seed=self.seed,
                mean=self.mean,
                std=self.std,
                dtype=self.dtype,
                channels_last=self.channels_last,
                device=self.device,
                out=out,
                backend=self.backend,
            )
        return Batch(x, y, scale_index, split, start)

    def batches(self, batch_size: int = 256) -> Iterator[Batch]:
        """All samples, scale by scale; a scale's last batch may be smaller."""
        batch_size = check_integer("batch_size", batch_size, 1, "a positive integer")
        for scale_index in range(len(self.task.scale_values)):
            for split in range(self.splits):
                for start in range(0, self.samples, batch_size):
                    yield self.batch(scale_index, split, start, min(batch_size, self.samples - start))

    def update(self, batch: Batch, features: Tensor) -> None:
        """Take the features [B, F] of a batch; a scale is evaluated as soon as it is complete.

        Labels follow from the samples' indices; those of the batch are not read.

        Raises SynbenchError for features of another form, NaN or infinite values, samples that were seen
        before, and for a scale whose features allow no estimate; on a GPU the values are looked at later, see
        the class.
        """
        later = self._evaluated_later(features.device)
        with nullcontext() if later else self.clock.phase("statistics", features.device):
            self._take(batch, features)
            if self._complete(batch.scale_index):
                self._evaluate(batch.scale_index)

    @staticmethod
    def _evaluated_later(device: torch.device) -> bool:
        """Whether scales on `device` are evaluated beside what follows."""
        return device.type == "cuda"

    def _take(self, batch: Batch, features: Tensor) -> None:
        """The features, checked, into the buffer of their scale and split."""
        count = len(batch.y)
        if not (
            0 <= batch.scale_index < len(self.task.scale_values)
            and 0 <= batch.split < self.splits
            and 0 <= batch.start <= self.samples - count
        ):
            raise SynbenchError(
                f"batch: expected samples of {len(self.task.scale_values)} scales, {self.splits} splits and "
                f"{self.samples} samples each, got {batch.start} .. {batch.start + count - 1} of split "
                f"{batch.split} of scale index {batch.scale_index}"
            )
        scale = self.task.scale_values[batch.scale_index]
        if features.ndim != 2 or len(features) != count or not features.is_floating_point():
            raise SynbenchError(
                f"features: expected floating [{count}, F] for a batch of {count}, got "
                f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
            )
        features = features.detach()
        if batch.scale_index in self._points or any(
            p.scale_index == batch.scale_index for p in self._pending
        ):
            raise SynbenchError(f"batch: expected samples not seen before, got scale {scale:g} again")
        if self._features is None:
            self._features = features.shape[1]
        if features.shape[1] != self._features:
            raise SynbenchError(
                f"features: expected F = {self._features} as in earlier batches, got {features.shape[1]}"
            )
        key = (batch.scale_index, batch.split)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = _Buffer(self.samples, self._features, features)
            self._labels_on(features.device)  # an upload waits, so it comes before there is work to wait for
        rows = slice(batch.start, batch.start + count)
        if bool(buffer.seen[rows].any()):
            raise SynbenchError(
                f"batch: expected samples not seen before, got {batch.start} .. {batch.start + count - 1} of scale "
                f"{scale:g} again"
            )
        if not self._evaluated_later(features.device) and not bool(torch.isfinite(features).all()):
            raise self._not_finite(features, batch.start, scale)
        buffer.x[rows] = features
        buffer.seen[rows] = True

    @staticmethod
    def _not_finite(features: Tensor, start: int, scale: float) -> SynbenchError:
        row, column = torch.nonzero(~torch.isfinite(features))[0].tolist()
        return SynbenchError(
            f"features: expected finite values, got {float(features[row, column])} in feature {column} of "
            f"sample {start + row} at scale {scale:g}"
        )

    def _complete(self, scale_index: int) -> bool:
        buffers = [self._buffers.get((scale_index, split)) for split in range(self.splits)]
        return all(b is not None and b.complete for b in buffers)

    def _evaluate(self, scale_index: int) -> None:
        """Evaluate a complete scale: at once, or on a GPU only start it and finish the one before the last."""
        buffers = [self._buffers.pop((scale_index, split)) for split in range(self.splits)]
        if scale_index == self._kept:
            self._kept_features = [one.x for one in buffers]
        device = buffers[0].x.device
        if not self._evaluated_later(device):
            self._points[scale_index] = self._of_scale(scale_index, lambda: self._start(buffers)())
            return
        # The older scale first: its lane is waited for, and must not have the work of this one yet.
        self._collect(PENDING_SCALES - 1)
        if device not in self._lanes:
            self._lanes[device] = Lane(device)
        lane = self._lanes[device]
        for tensor in (self._labels_on(device), *(one.x for one in buffers)):
            lane.uses(tensor)
        with lane.running(after=mark(device)), self.clock.phase("statistics", device):
            finite = torch.stack([torch.isfinite(one.x).all() for one in buffers]).all()
            try:
                finish = self._start(buffers)
            except SynbenchError as error:
                finish = _raiser(
                    error
                )  # which may come from values that are not finite: those are named first
        self._pending.append(_Pending(scale_index, buffers, finite, finish))

    def _start(self, buffers: list[_Buffer]) -> Callable[[], CurvePoint]:
        """Enqueue moments and classifiers of a complete scale; calling the result waits for them."""
        eps, prior = self.eps + self._nodes, self.task.prior
        x, y = buffers[0].x, self._labels_on(buffers[0].x.device)
        stats = feature_stats(x, y, count=self._count, backend=self.backend)
        if self.estimator == "counted":
            return start_counted(stats, eps, sample=(x, y), prior=prior, backend=self.backend)
        if self.estimator == "consistent":
            return start_consistent(
                stats, eps, sample=(x, y), sampled=len(self.eps), prior=prior, backend=self.backend
            )
        test_x = buffers[1].x
        return start_paper(
            stats,
            test_x,
            self._labels_on(test_x.device),
            eps,
            test_count=self._count,
            prior=prior,
            backend=self.backend,
        )

    def _labels_on(self, device: torch.device) -> Tensor:
        if device not in self._uploaded:
            self._uploaded[device] = self._labels.to(device)
        return self._uploaded[device]

    def _collect(self, leave: int = 0) -> None:
        """Wait for the oldest pending scales until only `leave` are left."""
        while len(self._pending) > leave:
            one = self._pending.popleft()
            # Reading a value waits for the current stream: the lane, never the encoder's.
            with self._lanes[one.finite.device].running():
                if not bool(one.finite):
                    scale = self.task.scale_values[one.scale_index]
                    wrong = next(b.x for b in one.buffers if not bool(torch.isfinite(b.x).all()))
                    raise self._not_finite(wrong, 0, scale)
                self._points[one.scale_index] = self._of_scale(one.scale_index, one.finish)

    def _of_scale(self, scale_index: int, finish: Callable[[], CurvePoint]) -> CurvePoint:
        try:
            return finish()
        except SynbenchError as error:
            raise SynbenchError(f"{error} (at scale {self.task.scale_values[scale_index]:g})") from None

    def finish(self) -> None:
        """Wait until every complete scale is evaluated; raises what is wrong with their features."""
        self._collect()

    def keep_features(self, scale_index: int) -> None:
        """Hold the features of this scale beyond its evaluation, for `kept`."""
        self._kept = scale_index

    def kept(self) -> tuple[CurvePoint, FeatureStats, Tensor, Tensor]:
        """Of the scale given to `keep_features`, once, when it is complete; they are released by it.

        Returns:
            its point, its moments, the features [N, F] of its last split and the labels [N], on their device.
        """
        assert self._kept is not None and self._kept_features
        self._collect()
        features, self._kept_features = self._kept_features, []
        y = self._labels_on(features[0].device)
        stats = feature_stats(features[0], y, count=self._count, backend=self.backend)
        return self._points[self._kept], stats, features[-1], y

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the phases "sample" and "statistics" so far; on a GPU this waits for the work."""
        return {"sample": 0.0, "statistics": 0.0} | self.clock.seconds()

    @property
    def feature_dim(self) -> int | None:
        """F, None before the first scale is complete."""
        return self._features if self._points or self._pending else None

    def compute(self) -> Curve:
        """Scores, curve and robust area once every scale is complete; SynbenchError before that."""
        self._collect()
        scales = self.task.scale_values
        missing = [f"{s:g}" for i, s in enumerate(scales) if i not in self._points]
        if missing:
            listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise SynbenchError(
                f"compute: expected the features of all {len(scales)} scales, got {len(scales) - len(missing)}; "
                f"incomplete: {listed}"
            )
        points = [self._points[i] for i in range(len(scales))]
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
        if self.estimator != "consistent" or any(p.counted_accuracy is None for p in points):
            return []
        found = []
        for e, eps in enumerate(self.eps):
            t, t_rob, counted = (
                torch.tensor([getattr(p, name)[e] for p in points], dtype=torch.float64)
                for name in ("t", "t_rob", "counted_accuracy")
            )
            k = gaussian.threshold_shift(gaussian.log_prior_offset(self.task.prior), t_rob.square())
            check = gaussianity(counted, t, k, self.task.prior, self.samples)
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


def _raiser(error: SynbenchError) -> Callable[[], CurvePoint]:
    def finish() -> CurvePoint:
        raise error

    return finish


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
