"""score_sweep: how a row of linear classifiers does on labelled features, without an N x E matrix."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import (
    array,
    check_device,
    check_labels,
    check_real,
    check_shape,
    class_counts,
    kind,
    thread_count,
)
from synbench_fast.ops.dispatch import Operation

__all__ = ["PUBLISHED_GROUP", "Sweep", "SweepTotals", "score_sweep", "score_sweep_cpp"]

PUBLISHED_GROUP = 256  # the published script averages the bound over batches of this many samples


@dataclass(frozen=True)
class SweepTotals:
    """Sums over samples; totals of disjoint sets of whole groups add up (`merge`)."""

    count: Tensor  # int64 [2], samples per class; on the CPU
    correct: Tensor  # int64 [E]
    robust_correct: Tensor  # int64 [E]
    groups: Tensor  # int64 [E], groups with a correct sample
    group_mean_sum: Tensor  # float64 [E], sum of the groups' mean bounds
    bound_sum: Tensor  # float64 [E], over correct samples
    bound_square_sum: Tensor  # float64 [E]
    margin_sum: Tensor  # float64 [2, E], per class
    margin_square_sum: Tensor  # float64 [2, E]

    def merge(self, other: SweepTotals) -> SweepTotals:
        return SweepTotals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def cpu(self) -> SweepTotals:
        """The same on the CPU; waits for the device."""
        return SweepTotals(*(getattr(self, f.name).cpu() for f in fields(self)))

    @property
    def _column(self) -> Tensor:
        """`count` [2, 1], where the sums are."""
        return self.count[:, None].to(self.margin_sum.device)

    @property
    def accuracy(self) -> Tensor:
        """[E], fraction correct."""
        return self.correct.double() / self.count.sum()

    @property
    def robust_accuracy(self) -> Tensor:
        """[E], fraction correct under every perturbation within the budget."""
        return self.robust_correct.double() / self.count.sum()

    @property
    def grouped_bound(self) -> Tensor:
        """[E], the published average: mean over groups of the mean bound of their correct samples.

        +inf where no sample at all is correct (the published script divides 0 by 0 there).
        """
        return torch.where(self.groups > 0, self.group_mean_sum / self.groups, torch.inf)

    @property
    def bound(self) -> Tensor:
        """[E], mean bound over all correct samples; +inf where there is none."""
        return torch.where(self.correct > 0, self.bound_sum / self.correct, torch.inf)

    @property
    def bound_stderr(self) -> Tensor:
        """[E], standard error of `bound` given the classifiers; NaN with fewer than two correct samples."""
        mean = self.bound_sum / self.correct
        variance = (self.bound_square_sum / self.correct - mean**2).clamp_min(0)
        return torch.where(self.correct > 1, (variance / (self.correct - 1)).sqrt(), torch.nan)

    @property
    def margin_deviation(self) -> Tensor:
        """[E], pooled within-class standard deviation of the margin."""
        count = self._column
        mean = self.margin_sum / count
        scatter = (self.margin_square_sum - count * mean**2).clamp_min(0).sum(0)
        return (scatter / (self.count.sum() - 2)).sqrt()

    @property
    def t(self) -> Tensor:
        """[E], half the distance of the class means of the margin over its pooled standard deviation.

        0 where the margins do not vary or a class is missing.
        """
        mean = self.margin_sum / self._column
        t = (mean[1] - mean[0]) / (2 * self.margin_deviation)
        return torch.where(torch.isfinite(t), t, 0.0)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The checked arguments of one call, as every backend takes them: see `score_sweep`."""

    x: Tensor
    y: Tensor
    weights: Tensor
    center: Tensor
    signal: Tensor
    robust_margin: Tensor
    offset: float
    group: int
    threads: int
    count: Tensor


_backends = Operation[[Sweep], SweepTotals]("score_sweep")


def score_sweep(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    center: Tensor,
    *,
    signal: Tensor,
    robust_margin: Tensor,
    offset: float = 0.0,
    group: int = PUBLISHED_GROUP,
    count: tuple[int, int] | None = None,
    threads: int = 0,
    backend: str = "auto",
) -> SweepTotals:
    """Accuracy, robust accuracy and scaled bounds of E linear classifiers on N features, in one pass.

        u[i, e] = (x_i - center)' w_e - offset,  predict 1 iff u > 0
        robustly correct: correct with |u| reduced by robust_margin[e] = r |w_e|
        bound of a correct sample: |u| / signal[e], signal = m'w

    Args:
        x: [N, F], float32 or float64.
        y: [N], integer or bool labels 0/1.
        weights: float64 [E, F].
        center: float64 [F], midpoint of the class means.
        signal: float64 [E], m'w of each classifier; 0 marks a classifier without signal (bounds count as 0).
        robust_margin: float64 [E], r |w|, in units of the margin.
        offset: margin at the decision boundary, ln((1 - tau)/tau) / 2.
        group: consecutive samples whose bounds are averaged together in `grouped_bound`.
        count: how many labels are 0 and 1, from a caller who knows; then nothing waits for a GPU.
        threads: 0 for torch's number of threads (CPU only). They do not change the result.
        backend: "auto", "cpp", "cuda" or "torch" (float64 specification, any device).

    Returns:
        SweepTotals on the device of `x`, but for `count`; without gradients. Margins are accumulated in float64.

    Raises:
        SynbenchError: shapes, dtypes or devices that do not fit, no sample, group < 1, threads < 0.

    Source: SynBench (Ko et al.), accuracy and scaled bound of the eps-robust linear classifier.
    """
    if x.ndim != 2 or x.dtype not in (torch.float32, torch.float64):
        raise SynbenchError(f"x: expected float32 or float64 [N, F], got {kind(x)}")
    n, f = x.shape
    if n == 0:
        raise SynbenchError("x: expected at least one sample, got none")
    check_labels(y, n)
    if weights.ndim != 2 or weights.shape[1] != f:
        raise SynbenchError(f"weights: expected [E, {f}], got {list(weights.shape)}")
    check_real(weights=weights, center=center, signal=signal, robust_margin=robust_margin)
    check_shape((f,), center=center)
    check_shape((len(weights),), signal=signal, robust_margin=robust_margin)
    check_device(
        "x", x.device, y=y, weights=weights, center=center, signal=signal, robust_margin=robust_margin
    )
    if group < 1:
        raise SynbenchError(f"group: expected at least 1, got {group}")
    threads = thread_count(threads)
    weights, center, signal, robust_margin = (
        one.detach().double() for one in (weights, center, signal, robust_margin)
    )
    call = Sweep(
        x.detach(), y, weights, center, signal, robust_margin, offset, group, threads, class_counts(y, count)
    )
    return _backends.on(x.device.type, backend)(call)


def score_sweep_cpp(call: Sweep) -> SweepTotals:
    from synbench_fast import _core

    totals = _core.score_sweep(
        array(call.x),
        array((call.y != 0).to(torch.uint8)),
        array(call.weights),
        array(call.center),
        array(call.signal),
        array(call.robust_margin),
        call.offset,
        call.group,
        call.threads,
    )
    return SweepTotals(
        count=call.count,
        correct=torch.from_numpy(totals["correct"]),
        robust_correct=torch.from_numpy(totals["robust_correct"]),
        groups=torch.from_numpy(totals["groups"]),
        group_mean_sum=torch.from_numpy(totals["group_mean_sum"]),
        bound_sum=torch.from_numpy(totals["bound_sum"]),
        bound_square_sum=torch.from_numpy(totals["bound_square_sum"]),
        margin_sum=torch.from_numpy(totals["margin_sum"]),
        margin_square_sum=torch.from_numpy(totals["margin_square_sum"]),
    )
