"""score_sweep: how a row of linear classifiers does on labelled features, without an N x E matrix."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.dispatch import implementation, resolve

__all__ = ["PUBLISHED_GROUP", "SweepTotals", "score_sweep"]

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
        raise SynbenchError(
            f"x: expected float32 or float64 [N, F], got {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
        )
    n, f = x.shape
    if n == 0:
        raise SynbenchError("x: expected at least one sample, got none")
    if y.shape != (n,) or y.is_floating_point() or y.is_complex():
        raise SynbenchError(
            f"y: expected integer labels [{n}], got {str(y.dtype).removeprefix('torch.')} {list(y.shape)}"
        )
    if weights.ndim != 2 or weights.shape[1] != f:
        raise SynbenchError(f"weights: expected [E, {f}], got {list(weights.shape)}")
    for name, value in (
        ("weights", weights), ("center", center), ("signal", signal), ("robust_margin", robust_margin),
    ):  # fmt: skip
        if value.is_complex():
            raise SynbenchError(
                f"{name}: expected real numbers, got {str(value.dtype).removeprefix('torch.')}"
            )
    for name, value, shape in (
        ("center", center, (f,)),
        ("signal", signal, (len(weights),)),
        ("robust_margin", robust_margin, (len(weights),)),
    ):
        if value.shape != shape:
            raise SynbenchError(f"{name}: expected {list(shape)}, got {list(value.shape)}")
    for name, value in (
        ("y", y), ("weights", weights), ("center", center), ("signal", signal), ("robust_margin", robust_margin),
    ):  # fmt: skip
        if value.device != x.device:
            raise SynbenchError(f"{name}: expected device {x.device} of x, got {value.device}")
    if group < 1:
        raise SynbenchError(f"group: expected at least 1, got {group}")
    if threads < 0:
        raise SynbenchError(f"threads: expected 0 (torch's number) or more, got {threads}")
    if count is None:
        ones = int(y.count_nonzero())
        count = (n - ones, ones)
    chosen = implementation("score_sweep", resolve("score_sweep", x.device.type, backend))
    totals: SweepTotals = chosen(
        x.detach(),
        y,
        weights.detach().double(),
        center.detach().double(),
        signal.detach().double(),
        robust_margin.detach().double(),
        offset,
        group,
        threads,
        torch.tensor(count),
    )
    return totals


def _torch(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    center: Tensor,
    signal: Tensor,
    robust_margin: Tensor,
    offset: float,
    group: int,
    threads: int,
    count: Tensor,
) -> SweepTotals:
    n = len(x)
    margin = (x.double() - center) @ weights.T - offset  # [N, E]
    label = (y != 0)[:, None]
    correct = torch.where(label, margin > 0, margin <= 0)  # a NaN is on neither side
    robust = correct & torch.where(label, margin > robust_margin, -margin >= robust_margin)
    bound = torch.where(correct & (signal != 0), margin.abs() / signal, 0.0)
    member = torch.arange(n, device=x.device) // group
    groups = (n + group - 1) // group
    group_correct = torch.zeros(groups, weights.shape[0], dtype=torch.float64, device=x.device)
    group_bound = torch.zeros_like(group_correct)
    group_correct.index_add_(0, member, correct.double())
    group_bound.index_add_(0, member, bound)
    one_hot = torch.stack([y == 0, y != 0]).double()  # [2, N]
    return SweepTotals(
        count=count,
        correct=correct.sum(0),
        robust_correct=robust.sum(0),
        groups=(group_correct > 0).sum(0),
        group_mean_sum=torch.where(group_correct > 0, group_bound / group_correct, 0.0).sum(0),
        bound_sum=bound.sum(0),
        bound_square_sum=bound.square().sum(0),
        margin_sum=one_hot @ margin,
        margin_square_sum=one_hot @ margin.square(),
    )


def _cpp(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    center: Tensor,
    signal: Tensor,
    robust_margin: Tensor,
    offset: float,
    group: int,
    threads: int,
    count: Tensor,
) -> SweepTotals:
    from synbench_fast import _core

    totals = _core.score_sweep(
        x.contiguous().numpy(),
        (y != 0).to(torch.uint8).contiguous().numpy(),
        weights.contiguous().numpy(),
        center.contiguous().numpy(),
        signal.contiguous().numpy(),
        robust_margin.contiguous().numpy(),
        offset,
        group,
        threads or torch.get_num_threads(),
    )
    return SweepTotals(count, **{name: torch.from_numpy(value) for name, value in totals.items()})
