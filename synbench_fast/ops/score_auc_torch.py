"""The specification of score_auc, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.ops.score_auc import GRID, Integral

__all__ = ["score_auc_torch"]


def score_auc_torch(accuracy: Tensor, bound: Tensor, thresholds: Tensor, integral: Integral) -> Tensor:
    excess = (accuracy[..., None] - thresholds).clamp_min(0)  # [..., S, A]
    if integral == "grid":
        grid = torch.linspace(*GRID, dtype=torch.float64, device=accuracy.device)
        counted = (accuracy[..., None] > grid).double() @ (grid[:, None] >= thresholds).double()
        excess = torch.where(excess > 0, counted, 0.0)
    counts = (excess > 0) & ~torch.isinf(bound[..., None])  # NaN stays NaN
    return torch.where(counts, bound[..., None] * excess, 0.0).mean(-2)
