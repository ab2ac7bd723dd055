"""The score as a metric of torchmetrics: moments per scale as state, which merge exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_fast.checks import check_eps, check_integer, check_thresholds
from synbench_fast.engine.curve import Curve, Scoring
from synbench_fast.engine.probe import Probe
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.integrations import missing, named_numbers, number_names
from synbench_fast.ops.feature_stats import FeatureStats, feature_stats
from synbench_fast.ops.score_auc import Integral
from synbench_fast.results.records import CONFIDENCE_95
from synbench_fast.runtime.optional import optional
from synbench_fast.scales import SCALE_STEP
from synbench_fast.stats.estimators import BUILT_IN, find_estimator
from synbench_fast.tasks.task import GaussianTask

try:
    from torchmetrics import Metric
except ImportError as error:
    raise missing("torchmetrics", "torchmetrics", error) from None

__all__ = ["SynBenchScore"]


class SynBenchScore(Metric):
    """SynBench score of an encoder from its features on the synthetic task, batch by batch.

        score(eps, a_t) = sum_s b_s max(0, a_s - a_t) / the same sum for the optimum on the raw data

    The state of a scale is the number, class means and pooled scatter of its features in float64, so that it does
    not grow with the samples: 8 (F + 1)^2 bytes and a few more. States of disjoint samples merge exactly (Chan,
    Golub & LeVeque 1983), over batches, by `merge_state` and over processes. Each sample is to come once, in one
    process; `batches` deals them out. A metric cannot tell samples that come twice.

    `compute` gives a dict of scalars, as `log_dict` takes it, under the names of `synbench-fast export`:
    score_eps0_a0.6, stderr_..., ci95_low_..., ci95_high_..., robust_area, robust_area_ratio, robust_area_stderr.
    With `only` it gives one of these numbers, as MetricTracker.best_metric, MinMaxMetric and arithmetic with metrics
    need it. `result` gives the whole curve.

    One batch has no score, so that `forward` updates and returns an empty dict.

    Args:
        task: whose samples the features are of.
        feature_dim: F.
        eps: E budgets in [0, 1), relative to the half-distance of the class means.
        thresholds: A accuracies a_t in [0, 1).
        estimator: one that needs the moments alone: of the built-in ones "gaussian". Those that need the features count
            samples under classifiers that are known once the last sample of a scale has come; `Probe` has them.
        integral, average, backend: as in `Probe`.
        only: a name of the above, whose number `compute` then gives alone: a float64 scalar, NaN where the dict would
            leave it out.
        options: of torchmetrics.Metric, such as `process_group`.

    Raises:
        SynbenchError: any argument out of range.

    >>> import torch, synbench_fast as sb
    >>> from synbench_fast.integrations.torchmetrics import SynBenchScore
    >>> encoder = torch.nn.Flatten()  # the input itself
    >>> metric = SynBenchScore(sb.GaussianTask((1, 4, 4), scales=(1.0, 2.0, 3.0)), feature_dim=16)
    >>> for x, y, scale in metric.batches(samples=256):
    ...     metric.update(encoder(x), y, scale)
    >>> found = metric.compute()
    >>> abs(float(found["score_eps0_a0.6"]) - 1) < 4 * float(found["stderr_eps0_a0.6"])
    True
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        task: GaussianTask,
        feature_dim: int,
        *,
        eps: Sequence[float] | float = (0.0, 0.2),
        thresholds: Sequence[float] | float = 0.6,
        estimator: str = "gaussian",
        integral: Integral = "exact",
        average: str = "sampled",
        backend: str = "auto",
        only: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._estimator = find_estimator(estimator)
        if self._estimator.needs_features:
            known = " or ".join(name for name, one in BUILT_IN.items() if not one.needs_features)
            raise SynbenchError(
                f"estimator: expected {known}, which needs the moments of the features alone, got {estimator}; "
                "Probe has the others"
            )
        self.task = task
        self.feature_dim = check_integer("feature_dim", feature_dim, 1, "a positive integer")
        self.eps, self.thresholds = check_eps(eps), check_thresholds(thresholds)
        self.backend = backend
        names = number_names(self.eps, self.thresholds)
        if only is not None and only not in names:
            raise SynbenchError(
                f"only: expected one of {', '.join(names)}, got {only!r}{suggest(str(only), names)}"
            )
        self.only = only
        self._scoring = Scoring(task, self.eps, self.thresholds, integral, average, estimator, backend)
        self._states = [f"moments_{number}" for number in range(len(task.scale_values))]
        empty = torch.zeros(2 + 2 * self.feature_dim + self.feature_dim**2, dtype=torch.float64)
        for name in self._states:
            self.add_state(name, default=empty.clone(), dist_reduce_fx=_merged)

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override, unused-ignore]
        """Of the number that is given alone: not for standard errors. None for all of them, which have no one order."""
        return None if self.only is None else "stderr" not in self.only

    def update(self, features: Tensor, labels: Tensor, scale: float | Tensor) -> None:
        """Take features [B, F] of samples with labels 0/1 [B] of one scale, or of the scales [B].

        Raises:
            SynbenchError: features of another form, NaN or infinite values; other labels; a scale that the task
                does not have.
        """
        count = len(features) if features.ndim else 0
        if features.ndim != 2 or features.shape[1] != self.feature_dim or not features.is_floating_point():
            raise SynbenchError(
                f"features: expected floating [B, {self.feature_dim}], got {_kind(features)} {list(features.shape)}"
            )
        if labels.shape != (count,) or labels.is_floating_point() or labels.is_complex():
            raise SynbenchError(
                f"labels: expected integers [{count}], got {_kind(labels)} {list(labels.shape)}"
            )
        features, labels = features.detach(), labels.to(features.device)
        if not bool(torch.isfinite(features).all()):
            row, column = torch.nonzero(~torch.isfinite(features))[0].tolist()
            raise SynbenchError(
                f"features: expected finite values, got {float(features[row, column])} in feature {column} of row {row}"
            )
        if count and not bool(((labels == 0) | (labels == 1)).all()):
            raise SynbenchError(
                f"labels: expected 0 and 1, got values from {int(labels.min())} to {int(labels.max())}; "
                "synbench_fast.evaluate_features takes labels of K classes"
            )
        indices = self._indices(scale, count)
        parts = [indices] if isinstance(indices, int) else sorted(set(indices.tolist()))
        for index in parts:
            mine = slice(None) if isinstance(indices, int) else (indices == index).to(features.device)
            stats = feature_stats(features[mine], labels[mine], backend=self.backend)
            name = self._states[index]
            old = getattr(self, name)
            # Out of place: a state that was reset in inference mode cannot be written to outside it.
            setattr(self, name, _packed(_unpacked(old).merge(_unpacked(_packed(stats).to(old.device)))))

    def _indices(self, scale: float | Tensor, count: int) -> int | Tensor:
        """The number of the scale, or those of a batch."""
        values = torch.as_tensor(scale, dtype=torch.float64).cpu()
        if values.ndim and values.shape != (count,):
            raise SynbenchError(f"scale: expected one value or {count} values, got {list(values.shape)}")
        known = torch.tensor(self.task.scale_values, dtype=torch.float64)
        distance = (values.reshape(-1, 1) - known).abs()
        nearest = distance.min(1) if count or not values.ndim else None
        if nearest is None:
            return torch.zeros(0, dtype=torch.long)
        wrong = ~(nearest.values < SCALE_STEP / 2)
        if bool(wrong.any()):
            row = int(torch.nonzero(wrong)[0, 0])
            got, near = float(values.reshape(-1)[row]), float(known[nearest.indices[row]])
            hint = f", did you mean {near:.9g}?" if abs(got - near) <= 0.2 * near else ""
            raise SynbenchError(
                f"scale: expected one of the task's {len(known)} from {float(known[0]):g} to {float(known[-1]):g}, "
                f"got {got:.9g}{hint}"
            )
        return nearest.indices if values.ndim else int(nearest.indices[0])

    def compute(self) -> dict[str, Tensor] | Tensor:
        """Scores, errors and robust area as float64 scalars, or `only` one of them; see the class.

        Raises:
            SynbenchError: a scale without samples, with those of one class alone, or with fewer than F + 3.
        """
        curve = self._curve()
        numbers = named_numbers(curve.scores, curve.robust_area, finite=self.only is None)
        found = {
            name: torch.tensor(value, dtype=torch.float64, device=self.device)
            for name, value in numbers.items()
        }
        return found if self.only is None else found[self.only]

    def result(self) -> Curve:
        """Scores with errors and covariance, the curve behind them, robust area and warnings, of all processes.

        Every process is to call it, like `compute`.
        """
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn,
            should_sync=self.sync_on_compute and not self._is_synced,
            should_unsync=True,
        ):
            return self._curve()

    def _curve(self) -> Curve:
        scales = self.task.scale_values
        counts = [int(getattr(self, name)[:2].sum()) for name in self._states]
        absent = [f"{scale:g}" for scale, count in zip(scales, counts, strict=True) if not count]
        if absent:
            listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            raise SynbenchError(
                f"compute: expected features of all {len(scales)} scales, got {len(scales) - len(absent)}; none of {listed}"
            )
        points = []
        for scale, name in zip(scales, self._states, strict=True):
            try:
                stats = _unpacked(getattr(self, name))
                points.append(
                    self._estimator.point(
                        stats, self._scoring.budgets, prior=self.task.prior, backend=self.backend
                    )
                )
            except SynbenchError as error:
                raise SynbenchError(f"{error} (at scale {scale:g})") from None
        return self._scoring.curve(points)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """`update`; an empty dict, because one batch has no score."""
        self.update(*args, **kwargs)
        return {}

    def plot(self, val: Any = None, ax: Any = None) -> tuple[Any, Any]:
        """Draw scores and robust area, with 95 % intervals where `val` has them.

        Args:
            val: what `compute` gave, drawn as points; a list of that, or what MetricTracker.compute_all gave, drawn as
                lines over the steps; by default what `compute` gives now.
            ax: matplotlib's axes to draw on, in place of a new figure.

        Returns: the figure, None with `ax`, and the axes, as every metric of torchmetrics does.

        Raises:
            SynbenchError: matplotlib is not installed; `val` is none of these.
        """
        optional("matplotlib", "matplotlib", "demo")
        val = self.compute() if val is None else val
        if isinstance(val, dict) and any(one.ndim for one in val.values()):  # MetricTracker.compute_all
            val = [dict(zip(val, step, strict=True)) for step in zip(*val.values(), strict=True)]
        steps: Any = [val] if isinstance(val, dict | Tensor) else val
        kinds = {type(one) for one in steps} if isinstance(steps, list | tuple) else set()
        if kinds not in ({dict}, {Tensor}):
            raise SynbenchError(f"val: expected what compute gives or a list of it, got {val!r:.60}")
        if kinds == {Tensor}:
            return self._plot(val, ax)
        shown = [name for name in steps[0] if _drawn(name) and all(name in one for one in steps)]
        if not shown:
            raise SynbenchError(
                f"val: expected a score or robust_area, got {', '.join(steps[0]) or 'no number'}"
            )
        kept = [{name: one[name] for name in shown} for one in steps]
        before = 0 if ax is None else len(ax.lines)
        drawn: tuple[Any, Any] = self._plot(kept[0] if isinstance(val, dict) else kept, ax)
        axes = drawn[1]
        for name, line in zip(shown, list(axes.lines)[before:], strict=True):
            x, y = (np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in line.get_data())
            low, high = np.array([_interval(one, name) for one in steps]).T
            error = np.maximum([y - low, high - y], 0.0)
            axes.errorbar(x, y, yerr=error, fmt="none", ecolor=line.get_color(), capsize=3)
        axes.autoscale(axis="y")
        return drawn

    def batches(
        self,
        samples: int = 1024,
        batch_size: int = 256,
        *,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """x [B, *shape], y [B] and scale of all samples, on the metric's device; in a process group this one's share.

        Args:
            samples: N per scale; more than F + 2.
            batch_size: B; the last batch of a scale may be smaller.
            seed, mean, std, dtype: as in `Probe`.
            rank, world_size: in place of those of torch.distributed; every world_size-th batch belongs to a rank.
        """
        if world_size is None or rank is None:
            group = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if group else 0
            world_size = torch.distributed.get_world_size() if group else 1
        probe = Probe(
            self.task,
            self.eps,
            samples=samples,
            seed=seed,
            mean=mean,
            std=std,
            dtype=dtype,
            device=self.device,
            backend=self.backend,
        )
        size = check_integer("batch_size", batch_size, 1, "a positive integer")
        number = 0
        for block in probe.blocks:
            for start in range(block.start, block.stop, size):
                if number % world_size == rank:
                    batch = probe.batch(block.scale_index, 0, start, min(size, block.stop - start))
                    yield batch.x, batch.y, self.task.scale_values[block.scale_index]
                number += 1

    def set_dtype(self, dst_type: str | torch.dtype) -> SynBenchScore:
        """The state stays float64: moments of half precision would lose what they are there for."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        """Moves between devices, and keeps float64 where a module around it is cast to another dtype."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device) if tensor.dtype == torch.float64 else fn(tensor)

        return super()._apply(moved, exclude_state)


def _packed(stats: FeatureStats) -> Tensor:
    """One tensor [2 + 2 F + F^2], because states are reduced one by one and means need their counts."""
    count = stats.count.to(stats.mean)
    return torch.cat([count, stats.mean.flatten(), stats.scatter.flatten()])


def _unpacked(packed: Tensor) -> FeatureStats:
    width = math.isqrt(len(packed) - 1) - 1  # 2 + 2 F + F^2 = (F + 1)^2 + 1
    return FeatureStats(
        packed[:2].long().cpu(),
        packed[2 : 2 + 2 * width].view(2, width),
        packed[2 + 2 * width :].view(width, width),
    )


def _merged(states: Tensor) -> Tensor:
    """[processes, P] -> [P]"""
    merged = _unpacked(states[0])
    for one in states[1:]:
        merged = merged.merge(_unpacked(one))
    return _packed(merged)


def _drawn(name: str) -> bool:
    return name.startswith("score_") or name == "robust_area"


def _interval(numbers: dict[str, Tensor], name: str) -> tuple[float, float]:
    """The 95 % interval of a number among the others; NaN where they do not have it."""
    if name == "robust_area":
        half = CONFIDENCE_95 * float(numbers.get("robust_area_stderr", math.nan))
        return float(numbers[name]) - half, float(numbers[name]) + half
    point = name.removeprefix("score")
    return float(numbers.get(f"ci95_low{point}", math.nan)), float(numbers.get(f"ci95_high{point}", math.nan))


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
