"""The specification of score_sweep: the N x E matrix of margins, in float64."""

from __future__ import annotations

import torch

from synbench_fast.ops.score_sweep import Sweep, SweepTotals

__all__ = ["score_sweep_torch"]


def score_sweep_torch(call: Sweep) -> SweepTotals:
    x, y, weights, signal = call.x, call.y, call.weights, call.signal
    n = len(x)
    margin = (x.double() - call.center) @ weights.T - call.offset  # [N, E]
    label = (y != 0)[:, None]
    correct = torch.where(label, margin > 0, margin <= 0)  # a NaN is on neither side
    robust = correct & torch.where(label, margin > call.robust_margin, -margin >= call.robust_margin)
    bound = torch.where(correct & (signal != 0), margin.abs() / signal, 0.0)
    member = torch.arange(n, device=x.device) // call.group
    groups = (n + call.group - 1) // call.group
    group_correct = torch.zeros(groups, weights.shape[0], dtype=torch.float64, device=x.device)
    group_bound = torch.zeros_like(group_correct)
    group_correct.index_add_(0, member, correct.double())
    group_bound.index_add_(0, member, bound)
    one_hot = torch.stack([y == 0, y != 0]).double()  # [2, N]
    return SweepTotals(
        count=call.count,
        correct=correct.sum(0),
        robust_correct=robust.sum(0),
        groups=(group_correct > 0).sum(0),
        group_mean_sum=torch.where(group_correct > 0, group_bound / group_correct, 0.0).sum(0),
        bound_sum=bound.sum(0),
        bound_square_sum=bound.square().sum(0),
        margin_sum=one_hot @ margin,
        margin_square_sum=one_hot @ margin.square(),
    )
