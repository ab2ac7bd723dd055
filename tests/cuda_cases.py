"""Features and sample_moments that the tests of GPU kernels share."""

from __future__ import annotations

import torch

from synbench_fast.ops.feature_stats import feature_stats

EPS = [0.0, 0.05, 0.2, 0.5, 0.8, 0.97]


FIELDS = ("ridge", "kappa", "signal", "variance", "t", "t_rob", "t_cov", "t_rob_cov", "cross_cov", "weights")


def sample_moments(n: int, f: int, power: float = 0.5, seed: int = 0, dead: int = 0) -> dict:
    """Sample sample_moments of features whose spectrum falls as i^-power; the last `dead` features are constant."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, f + 1, dtype=torch.float64) ** -power
    if dead:
        scale[f - dead :] = 0
    turn = torch.linalg.qr(torch.randn(f, f, generator=generator, dtype=torch.float64))[0]
    if dead:
        turn = torch.eye(f, dtype=torch.float64)
    x = (torch.randn(n, f, generator=generator, dtype=torch.float64) * scale) @ turn
    y = torch.arange(n) % 2
    shift = (scale * torch.randn(f, generator=generator, dtype=torch.float64)) @ turn
    stats = feature_stats(x + 0.3 * (2 * y - 1)[:, None] * shift, y)
    return {
        "m": stats.half_difference,
        "covariance": stats.covariance,
        "eps": EPS,
        "dof": stats.dof,
        "c0": stats.c0,
    }


def features(n: int, f: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n + f)
    y = (torch.rand(n, generator=generator) < 0.4).to(torch.uint8)
    y[:2] = torch.tensor([0, 1])
    x = torch.randn(n, f, generator=generator, dtype=torch.float64) + 0.5 * (2.0 * y[:, None] - 1)
    return (x + 1e3).to(dtype), y
