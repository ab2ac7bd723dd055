"""The specification of sample_mixture, in float64."""

from __future__ import annotations

import math
from typing import Any

import torch

from synbench_fast.ops.generator import box_muller, philox4x32
from synbench_fast.ops.sample_mixture import Mixture

__all__ = ["sample_mixture_torch"]


def sample_mixture_torch(call: Mixture) -> None:
    """Everything in float64, cast once. The layout of x is torch's business."""
    x, y = call.x, call.y
    count, dim, sample_shape = x.shape[0], math.prod(x.shape[1:]), x.shape[1:]
    like: dict[str, Any] = {"dtype": torch.float64, "device": x.device}
    per_channel = (-1, *(1 for _ in sample_shape[1:]))
    shift = torch.as_tensor(call.mean or [0.0], **like).view(per_channel)
    deviation = torch.as_tensor(call.std or [1.0], **like).view(per_channel)
    u = torch.full((dim,), dim**-0.5, **like) if call.pattern is None else call.pattern.to(torch.float64)

    quads = torch.arange((dim + 3) // 4, device=x.device)
    step = max(1, 2**22 // dim)  # bounds the temporaries
    for first in range(0, count, step):
        part = slice(first, min(first + step, count))
        index = torch.arange(call.start + part.start, call.start + part.stop, device=x.device)
        w = philox4x32(call.seed, quads, index[:, None], call.stream, call.purpose)
        z = torch.stack([*box_muller(w[0], w[1]), *box_muller(w[2], w[3])], -1).flatten(1)[:, :dim]
        sign = 2.0 * y[part, None].to(torch.float64) - 1.0
        raw = (call.center + sign * call.scale * u + z).view(-1, *sample_shape)
        x[part] = ((raw - shift) / deviation).to(x.dtype)
