"""The specification of leave_one_out: one inverse for each ridge, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.ops.feature_stats import FeatureStats
from synbench_fast.ops.leave_one_out import CUT, LeaveOneOut, margins_of_forms

__all__ = ["leave_one_out_torch"]


def leave_one_out_torch(
    x: Tensor, y: Tensor, stats: FeatureStats, ridge: Tensor, covariance: Tensor
) -> LeaveOneOut:
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > CUT * len(values) * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    inverses = [vectors @ torch.diag(1 / (values + g)) @ vectors.T for g in ridge]
    signal = vectors.T @ stats.half_difference
    weights = torch.stack([vectors.T @ (inverse @ stats.half_difference) for inverse in inverses], 1)

    def forms(centred: Tensor) -> tuple[Tensor, Tensor]:
        linear = [centred @ (inverse @ stats.half_difference) for inverse in inverses]
        square = [((centred @ inverse) * centred).sum(1) / stats.dof for inverse in inverses]
        return torch.stack(linear, 1), torch.stack(square, 1)

    return margins_of_forms(x, y, stats, ridge, values, signal, weights, forms)
