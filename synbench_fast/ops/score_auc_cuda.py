"""score_auc on an NVIDIA GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_fast.ops.kernels import launch
from synbench_fast.ops.score_auc import Integral

__all__ = ["score_auc_cuda"]

THREADS = 128


def score_auc_cuda(accuracy: Tensor, bound: Tensor, thresholds: Tensor, integral: Integral) -> Tensor:
    leading, scales = accuracy.shape[:-1], accuracy.shape[-1]
    rows = accuracy.reshape(-1, scales).contiguous()
    area = torch.empty(len(rows), len(thresholds), dtype=torch.float64, device=accuracy.device)
    launch(
        "score_auc_kernel", (-(-area.numel() // THREADS),), THREADS, accuracy.device,
        (
            rows, bound.reshape(-1, scales).contiguous(), len(rows), scales, thresholds.contiguous(),
            len(thresholds), int(integral == "grid"), area,
        ),
    )  # fmt: skip
    return area.reshape(*leading, len(thresholds))
