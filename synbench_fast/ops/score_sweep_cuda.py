"""score_sweep on an NVIDIA GPU: projection and reduction in one kernel."""

from __future__ import annotations

import torch

from synbench_fast.ops.checked import dtype_name
from synbench_fast.ops.kernels import launch
from synbench_fast.ops.score_sweep import Sweep, SweepTotals

__all__ = ["score_sweep_cuda"]

# As in csrc/score_sweep_cuda.cu.
TILE_SAMPLES, TILE_BUDGETS = 16, 16
PARTIAL = 8
COUNTS, SUMS = 3, 7
TOTAL_THREADS = 128


def score_sweep_cuda(call: Sweep) -> SweepTotals:
    x, device = call.x.contiguous(), call.x.device
    y = (call.y != 0).to(torch.uint8).contiguous()
    weights, center, signal, robust_margin = (
        one.contiguous() for one in (call.weights, call.center, call.signal, call.robust_margin)
    )
    (n, features), budgets = x.shape, len(weights)
    group = min(call.group, n)
    per_group = -(-group // TILE_SAMPLES)
    tiles = -(-n // group) * per_group
    partials = torch.empty(tiles, budgets, PARTIAL, dtype=torch.float64, device=device)
    launch(
        f"score_sweep_{dtype_name(x)}_kernel",
        (tiles, -(-budgets // TILE_BUDGETS)), TILE_SAMPLES * TILE_BUDGETS, device,
        (
            x, y, n, features, weights, center, budgets, signal, robust_margin, float(call.offset), group, per_group,
            partials,
        ),
    )  # fmt: skip
    counts = torch.empty(budgets, COUNTS, dtype=torch.int64, device=device)
    sums = torch.empty(budgets, SUMS, dtype=torch.float64, device=device)
    launch(
        "score_sweep_total_kernel", (-(-budgets // (TOTAL_THREADS // 32)),), TOTAL_THREADS, device,
        (partials, tiles, per_group, budgets, counts, sums),
    )  # fmt: skip
    return SweepTotals(
        count=call.count,
        correct=counts[:, 0],
        robust_correct=counts[:, 1],
        groups=counts[:, 2],
        group_mean_sum=sums[:, 0],
        bound_sum=sums[:, 1],
        bound_square_sum=sums[:, 2],
        margin_sum=sums[:, 3:5].T,
        margin_square_sum=sums[:, 5:7].T,
    )
