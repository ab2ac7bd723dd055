"""The streaming pipeline of one encoder: batches out, features in, result at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from synbench_fast.checks import check_eps, check_integer, check_seed, check_thresholds
from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.engine.curve import Curve, Scoring
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.dispatch import SCORING, resolve
from synbench_fast.ops.feature_stats import FeatureStats, feature_stats
from synbench_fast.ops.sample_mixture import labels
from synbench_fast.ops.score_auc import Integral
from synbench_fast.ops.streams import Lane, PhaseClock, mark
from synbench_fast.results.records import CONFIDENCE_95, Result
from synbench_fast.stats.allocation import further_samples
from synbench_fast.stats.blocks import Block, combined
from synbench_fast.stats.estimators import Given, Sample, find_estimator
from synbench_fast.stats.point import CurvePoint
from synbench_fast.tasks.task import GaussianTask

__all__ = ["Batch", "Probe"]

PENDING_SCALES = 2  # finished blocks whose statistics a GPU may still be working on
LABELS_KEPT = 8  # sets of labels, one per start and size of a block, before those in no use are dropped


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of one scale and split, normalised as the encoder reads them."""

    x: Tensor  # [B, *shape]
    y: Tensor  # uint8 [B]
    scale_index: int
    split: int  # 0: train, 1: test
    start: int  # index of the first sample within its scale and split


class _Buffer:
    """Features of one (block, split) until it is evaluated."""

    def __init__(self, count: int, features: int, like: Tensor) -> None:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        try:
            self.x = torch.empty(count, features, dtype=dtype, device=like.device)
            self.seen = torch.zeros(count, dtype=torch.bool)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise SynbenchError(
                f"memory: expected room for {features} features of {count} samples, got {first_line(error)}"
            ) from None

    @property
    def complete(self) -> bool:
        return bool(self.seen.all())


@dataclass(frozen=True)
class _Pending:
    """A complete block on a GPU whose statistics have been started and not yet waited for."""

    block: Block
    buffers: list[_Buffer]
    finite: Tensor  # bool [], on the GPU
    finish: Callable[[], CurvePoint]


class Probe:
    """Scores one encoder from batches of its features.

        probe = Probe(task, eps=(0.0, 0.2), samples=1024)
        for batch in probe.batches(batch_size=256):
            probe.update(batch, encoder(batch.x))
        curve = probe.compute()

    `to_result` has the same as a Result. Batches may be updated in any order and split in any way; every sample of every scale and split must come
    once. Only the features of unfinished scales are kept: memory is N x F (twice that for `paper`) plus a few
    F x F matrices, whatever the number of scales.

    More samples come as further blocks of a scale (`extend`), each evaluated for itself as soon as it is complete
    and combined with those before it, see `blocks`.

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
        samples: N per scale (per half for `paper`) in its first block. `consistent` needs more than F + 2.
        estimator: "consistent" (default), "gaussian", "counted" or "paper"; see docs/method.md.
        thresholds: A accuracies a_t in [0, 1); None for the paper's nine from 0.6 to 0.99.
        integral: "exact", or "grid" for the published script's sum over 100 points.
        average: "sampled" for the mean over the task's scales; "published" for that over the published 49, by a
            smooth fit over the scales, from 5 scales on and with equal priors.
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
        average: str = "sampled",
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        device: torch.device | str = "cpu",
        backend: str = "auto",
    ) -> None:
        if not isinstance(task, GaussianTask):
            raise SynbenchError(f"task: expected a GaussianTask, got {type(task).__name__}")
        self.task = task
        self.eps = check_eps(eps)
        self._estimator = find_estimator(estimator)
        self.estimator = self._estimator.name
        self.thresholds = check_thresholds(thresholds)
        self.integral = integral
        self.samples = check_integer("samples", samples, 4, "an integer of at least 4 per scale", 2**63)
        self.seed = check_seed(seed)
        self.mean, self.std = mean, std
        self.dtype, self.channels_last = dtype, channels_last
        self.device = torch.device(device)
        self.backend = backend
        for operation in SCORING:
            resolve(operation, self.device.type, backend)
        self.splits = self._estimator.halves
        self.clock = PhaseClock()
        self.begun = time.perf_counter()
        self.scoring = Scoring(
            self.task, self.eps, self.thresholds, integral, average, self.estimator, backend
        )
        self._blocks = [[Block(i, 0, self.samples)] for i in range(len(task.scale_values))]
        self._labels: dict[
            tuple[int, int], Tensor
        ] = {}  # of the blocks that are being filled, by start and count
        self._uploaded: dict[tuple[int, int, torch.device], Tensor] = {}
        self._lanes: dict[torch.device, Lane] = {}
        self._buffers: dict[tuple[Block, int], _Buffer] = {}
        self._pending: deque[_Pending] = deque()
        self._points: dict[Block, CurvePoint] = {}
        self._features: int | None = None
        self._kept: Block | None = None
        self._kept_features: list[Tensor] = []

    @property
    def blocks(self) -> list[Block]:
        """All blocks, scale by scale in the order of their samples."""
        return [block for listed in self._blocks for block in listed]

    @property
    def images(self) -> int:
        """Number of samples that a whole run draws."""
        return self.splits * sum(block.count for block in self.blocks)

    @property
    def samples_drawn(self) -> list[int]:
        """Samples per scale, of all splits together."""
        return [self.splits * listed[-1].stop for listed in self._blocks]

    def extend(self, scale_index: int, count: int) -> Block:
        """Ask for `count` more samples of a scale, evaluated together; returns their block.

        Raises SynbenchError for `paper`, whose classifiers are those of all its samples, for estimators of other
        packages that are not `unbiased`, and for fewer than 4.
        """
        if not self._estimator.unbiased:
            raise SynbenchError(f"extend: expected estimator consistent or gaussian, got {self.estimator}")
        count = check_integer("count", count, 4, "an integer of at least 4")
        block = Block(scale_index, self._blocks[scale_index][-1].stop, count)
        self._blocks[scale_index].append(block)
        return block

    def point(self, block: Block) -> CurvePoint:
        """What a complete block gave, for `add_point`; on a GPU this waits for it."""
        if block not in self._points:
            self._collect()
        if block not in self._points:
            raise SynbenchError(f"block: expected one whose samples have all come, got {block}")
        return self._points[block]

    def add_point(self, block: Block, point: CurvePoint) -> None:
        """Take the point of a block from an earlier run in place of its features.

        Raises SynbenchError for a point of other budgets, estimator, number of features or samples, and for a
        block that is not asked for or has come already.
        """
        scale = self.task.scale_values[block.scale_index]
        if block not in self.blocks or self._begun(block):
            raise SynbenchError(f"block: expected one that is still to come, got {block}")
        if tuple(point.eps) != self.scoring.budgets or point.estimator != self.estimator:
            raise SynbenchError(
                f"point: expected {self.estimator} at this run's budgets, got {point.estimator} at scale {scale:g}"
            )
        if point.count != block.count:
            raise SynbenchError(
                f"point: expected {block.count} samples at scale {scale:g}, got {point.count}"
            )
        self._check_width(point.feature_dim)
        self._points[block] = point

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
        """All samples that have not come, scale by scale; the last batch of a block may be smaller."""
        batch_size = check_integer("batch_size", batch_size, 1, "a positive integer")
        for block in [one for one in self.blocks if one not in self._points]:
            for split in range(self.splits):
                for start in range(block.start, block.stop, batch_size):
                    yield self.batch(block.scale_index, split, start, min(batch_size, block.stop - start))

    def update(self, batch: Batch, features: Tensor) -> None:
        """Take the features [B, F] of a batch; a scale is evaluated as soon as it is complete.

        Labels follow from the samples' indices; those of the batch are not read.

        Raises SynbenchError for features of another form, NaN or infinite values, samples that were seen
        before, and for a scale whose features allow no estimate; on a GPU the values are looked at later, see
        the class.
        """
        later = self._evaluated_later(features.device)
        with nullcontext() if later else self.clock.phase("statistics", features.device):
            for block in self._take(batch, features):
                if self._complete(block):
                    self._evaluate(block)

    @staticmethod
    def _evaluated_later(device: torch.device) -> bool:
        """Whether scales on `device` are evaluated beside what follows."""
        return device.type == "cuda"

    def _take(self, batch: Batch, features: Tensor) -> list[Block]:
        """The features, checked, into the buffers of the blocks that they belong to."""
        count = len(batch.y)
        known = 0 <= batch.scale_index < len(self._blocks) and 0 <= batch.split < self.splits
        last = self._blocks[batch.scale_index][-1].stop if known else self.samples
        if not (known and 0 <= batch.start <= last - count):
            raise SynbenchError(
                f"batch: expected samples of {len(self._blocks)} scales, {self.splits} splits and "
                f"{last} samples each, got {batch.start} .. {batch.start + count - 1} of split "
                f"{batch.split} of scale index {batch.scale_index}"
            )
        scale = self.task.scale_values[batch.scale_index]
        if features.ndim != 2 or len(features) != count or not features.is_floating_point():
            raise SynbenchError(
                f"features: expected floating [{count}, F] for a batch of {count}, got "
                f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
            )
        features = features.detach()
        stop = batch.start + count
        parts = [
            (block, max(block.start, batch.start), min(block.stop, stop))
            for block in self._blocks[batch.scale_index]
            if block.start < stop and block.stop > batch.start
        ]
        for block, _, _ in parts:
            if self._evaluated(block):
                raise SynbenchError(f"batch: expected samples not seen before, got scale {scale:g} again")
        self._check_width(features.shape[1])
        for block, first, end in parts:
            buffer = self._buffers.get((block, batch.split))
            if buffer is not None and bool(buffer.seen[first - block.start : end - block.start].any()):
                raise SynbenchError(
                    f"batch: expected samples not seen before, got {batch.start} .. {stop - 1} of scale "
                    f"{scale:g} again"
                )
        if not self._evaluated_later(features.device) and not bool(torch.isfinite(features).all()):
            raise self._not_finite(features, batch.start, scale)
        for block, first, end in parts:
            buffer = self._buffers.get((block, batch.split))
            if buffer is None:
                buffer = _Buffer(block.count, features.shape[1], features)
                self._buffers[block, batch.split] = buffer
                # An upload waits, so it comes before there is work to wait for.
                self._labels_on(block, features.device)
            rows = slice(first - block.start, end - block.start)
            buffer.x[rows] = features[first - batch.start : end - batch.start]
            buffer.seen[rows] = True
        return [block for block, _, _ in parts]

    def _check_width(self, features: int) -> None:
        if self._features is None:
            self._features = features
        if features != self._features:
            raise SynbenchError(
                f"features: expected F = {self._features} as in earlier batches, got {features}"
            )

    def _evaluated(self, block: Block) -> bool:
        return block in self._points or any(one.block == block for one in self._pending)

    def _begun(self, block: Block) -> bool:
        return self._evaluated(block) or any(key[0] == block for key in self._buffers)

    @staticmethod
    def _not_finite(features: Tensor, start: int, scale: float) -> SynbenchError:
        row, column = torch.nonzero(~torch.isfinite(features))[0].tolist()
        return SynbenchError(
            f"features: expected finite values, got {float(features[row, column])} in feature {column} of "
            f"sample {start + row} at scale {scale:g}"
        )

    def _complete(self, block: Block) -> bool:
        buffers = [self._buffers.get((block, split)) for split in range(self.splits)]
        return all(b is not None and b.complete for b in buffers)

    def _evaluate(self, block: Block) -> None:
        """Evaluate a complete block: at once, or on a GPU only start it and finish the one before the last."""
        buffers = [self._buffers.pop((block, split)) for split in range(self.splits)]
        if block == self._kept:
            self._kept_features = [one.x for one in buffers]
        device = buffers[0].x.device
        if not self._evaluated_later(device):
            self._points[block] = self._of_block(block, lambda: self._start(block, buffers)())
            self._forget_labels()
            return
        # The older block first: its lane is waited for, and must not have the work of this one yet.
        self._collect(PENDING_SCALES - 1)
        if device not in self._lanes:
            self._lanes[device] = Lane(device)
        lane = self._lanes[device]
        for tensor in (self._labels_on(block, device), *(one.x for one in buffers)):
            lane.uses(tensor)
        with lane.running(after=mark(device)), self.clock.phase("statistics", device):
            finite = torch.stack([torch.isfinite(one.x).all() for one in buffers]).all()
            try:
                finish = self._start(block, buffers)
            except SynbenchError as error:
                finish = _raiser(
                    error
                )  # which may come from values that are not finite: those are named first
        self._pending.append(_Pending(block, buffers, finite, finish))

    def _start(self, block: Block, buffers: list[_Buffer]) -> Callable[[], CurvePoint]:
        """Enqueue moments and classifiers of a complete block; calling the result waits for them."""
        train = Sample(
            buffers[0].x, self._labels_on(block, buffers[0].x.device), block.start, self._class_counts(block)
        )
        test = None
        if self.splits == 2:
            held = buffers[1].x
            test = replace(train, x=held, y=self._labels_on(block, held.device))
        stats = feature_stats(train.x, train.y, count=train.count, backend=self.backend)
        given = Given(train, test, self.task.prior, len(self.eps), self.backend)
        return self._estimator.start(stats, self.scoring.budgets, given)

    def _labels_of(self, block: Block) -> Tensor:
        key = (block.start, block.count)
        if key not in self._labels:
            self._labels[key] = labels(block.start, block.count, self.task.prior)
        return self._labels[key]

    def _class_counts(self, block: Block) -> tuple[int, int]:
        ones = int(self._labels_of(block).count_nonzero())
        return block.count - ones, ones

    def _labels_on(self, block: Block, device: torch.device) -> Tensor:
        key = (block.start, block.count, device)
        if key not in self._uploaded:
            self._uploaded[key] = self._labels_of(block).to(device)
        return self._uploaded[key]

    def _forget_labels(self) -> None:
        """Keep the labels of the first blocks, which all scales share, and of unfinished ones."""
        if len(self._labels) > LABELS_KEPT and not self._pending and not self._buffers:
            first = (0, self.samples)
            self._labels = {key: y for key, y in self._labels.items() if key == first}
            self._uploaded = {key: y for key, y in self._uploaded.items() if key[:2] == first}

    def _collect(self, leave: int = 0) -> None:
        """Wait for the oldest pending scales until only `leave` are left."""
        while len(self._pending) > leave:
            one = self._pending.popleft()
            # Reading a value waits for the current stream: the lane, never the encoder's.
            with self._lanes[one.finite.device].running():
                if not bool(one.finite):
                    scale = self.task.scale_values[one.block.scale_index]
                    wrong = next(b.x for b in one.buffers if not bool(torch.isfinite(b.x).all()))
                    raise self._not_finite(wrong, one.block.start, scale)
                self._points[one.block] = self._of_block(one.block, one.finish)
        self._forget_labels()

    def _of_block(self, block: Block, finish: Callable[[], CurvePoint]) -> CurvePoint:
        try:
            return finish()
        except SynbenchError as error:
            raise SynbenchError(f"{error} (at scale {self.task.scale_values[block.scale_index]:g})") from None

    def finish(self) -> None:
        """Wait until every complete block is evaluated; raises what is wrong with their features."""
        self._collect()

    def keep_features(self, block: Block) -> None:
        """Hold the features of this block beyond its evaluation, for `kept`."""
        self._kept = block

    def kept(self) -> tuple[CurvePoint, FeatureStats, Tensor, Tensor]:
        """Of the block given to `keep_features`, once, when it is complete; they are released by it.

        Returns:
            its point, its moments, the features [N, F] of its last split and the labels [N], on their device.
        """
        assert self._kept is not None and self._kept_features
        self._collect()
        features, self._kept_features = self._kept_features, []
        y = self._labels_on(self._kept, features[0].device)
        count = self._class_counts(self._kept)
        stats = feature_stats(features[0], y, count=count, backend=self.backend)
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
        """Scores, curve and robust area once every block is complete; SynbenchError before that."""
        self._collect()
        scales = self.task.scale_values
        missing = [
            f"{s:g}"
            for s, listed in zip(scales, self._blocks, strict=True)
            if any(block not in self._points for block in listed)
        ]
        if missing:
            listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise SynbenchError(
                f"compute: expected the features of all {len(scales)} scales, got {len(scales) - len(missing)}; "
                f"incomplete: {listed}"
            )
        return self.scoring.curve(self._of_scales())

    def to_result(self, name: str) -> Result:
        """`compute` as a Result, which is saved, compared and reported as those of `score`.

        Results of one task, seed and number of samples are compared by the samples that they share. The encoder is called
        `callable:NAME`; of its weights nothing is known. `cost` counts from when the probe was made.
        """
        from synbench_fast.engine.score import result_of_probe

        return result_of_probe(self, name)

    def further_samples(self, half_width: float, most: int) -> tuple[float, list[int]]:
        """The widest 95 % interval's half-width, and how many more samples of each scale would make it `half_width`.

        Of complete blocks; scores whose error is not known are left out. No scale is to exceed `most`. Where too
        little is known to plan far ahead, the numbers are those of a first step; none are needed if all are 0.
        """
        self._collect()
        points = self._of_scales()
        variance = self.scoring.variances(points).reshape(len(points), -1)
        known = np.isfinite(variance).all(0)
        if not known.any():
            return 0.0, [0] * len(points)
        found = variance[:, known]
        widest = CONFIDENCE_95 * float(found.sum(0).max()) ** 0.5
        samples = np.array([one.count for one in points], dtype=np.float64)
        # A block has twice as many: more than features for the classifier, and samples of the rarer class.
        rarer = min(self.task.prior, 1 - self.task.prior)
        lost = np.array([max(one.rank + 2, 1 / rarer) for one in points], dtype=np.float64)
        return widest, further_samples(found, samples, lost, (half_width / CONFIDENCE_95) ** 2, most)

    def _of_scales(self) -> list[CurvePoint]:
        return [combined(listed, [self._points[block] for block in listed]) for listed in self._blocks]


def _raiser(error: SynbenchError) -> Callable[[], CurvePoint]:
    def finish() -> CurvePoint:
        raise error

    return finish
