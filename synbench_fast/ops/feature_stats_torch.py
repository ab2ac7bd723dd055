"""The specification of feature_stats: one sum per class, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.ops.feature_stats import FeatureStats

__all__ = ["feature_stats_torch"]


def feature_stats_torch(x: Tensor, y: Tensor, count: Tensor) -> FeatureStats:
    x = x.double()
    mean, scatter = [], torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
    for label in (0, 1):
        part = x[y == label]
        mean.append(part.sum(0) / max(1, len(part)))
        centered = part - mean[-1]
        scatter += centered.T @ centered
    return FeatureStats(count, torch.stack(mean), scatter)
