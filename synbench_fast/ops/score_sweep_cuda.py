"""score_sweep on an NVIDIA GPU: projection and reduction in one kernel, for all scales of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.ops.kernels import launch
from synbench_fast.ops.score_sweep import SweepTotals

__all__ = ["score_sweep", "sweep_batch"]

# As in csrc/score_sweep_cuda.cu.
TILE_SAMPLES, TILE_BUDGETS = 16, 16
PARTIAL = 8
COUNTS, SUMS = 3, 7
TOTAL_THREADS = 128


def sweep_batch(
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    center: Tensor,
    signal: Tensor,
    robust_margin: Tensor,
    offset: float,
    group: int,
    count: Tensor,
) -> list[SweepTotals]:
    """Totals of S scales, on the device: x [S, N, F], y [N] uint8, weights [S, E, F], center [S, F], and signal
    and robust_margin [S, E], all float64 but x (float32 or float64) and contiguous; count [2] on the CPU.
    """
    scales, n, features = x.shape
    budgets, device = weights.shape[1], x.device
    group = min(group, n)
    per_group = -(-group // TILE_SAMPLES)
    tiles = -(-n // group) * per_group
    partials = torch.empty(scales, tiles, budgets, PARTIAL, dtype=torch.float64, device=device)
    launch(
        f"score_sweep_{str(x.dtype).removeprefix('torch.')}_kernel",
        (tiles, -(-budgets // TILE_BUDGETS), scales), TILE_SAMPLES * TILE_BUDGETS, device,
        (
            x, y, n, features, weights, center, budgets, signal, robust_margin, float(offset), group, per_group,
            partials,
        ),
    )  # fmt: skip
    counts = torch.empty(scales, budgets, COUNTS, dtype=torch.int64, device=device)
    sums = torch.empty(scales, budgets, SUMS, dtype=torch.float64, device=device)
    launch(
        "score_sweep_total_kernel", (-(-budgets // (TOTAL_THREADS // 32)), scales), TOTAL_THREADS, device,
        (partials, tiles, per_group, budgets, counts, sums),
    )  # fmt: skip
    return [
        SweepTotals(
            count=count,
            correct=integers[:, 0],
            robust_correct=integers[:, 1],
            groups=integers[:, 2],
            group_mean_sum=reals[:, 0],
            bound_sum=reals[:, 1],
            bound_square_sum=reals[:, 2],
            margin_sum=reals[:, 3:5].T,
            margin_square_sum=reals[:, 5:7].T,
        )
        for integers, reals in zip(counts, sums, strict=True)
    ]


def score_sweep(
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
    def batch(value: Tensor) -> Tensor:
        return value.contiguous()[None]

    (totals,) = sweep_batch(
        batch(x),
        (y != 0).to(torch.uint8).contiguous(),
        batch(weights),
        batch(center),
        batch(signal),
        batch(robust_margin),
        offset,
        group,
        count,
    )
    return totals
