"""The package's random numbers by their definition: words of Philox4x32-10, and normals of them in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["box_muller", "normals", "philox4x32"]

_MASK = 0xFFFFFFFF


def normals(count: int, *, seed: int, stream: int = 0, purpose: int = 0) -> Tensor:
    """The first `count` normals of sample 0 by the specification, float64 [count] on the CPU."""
    quads = torch.arange((count + 3) // 4)
    w = philox4x32(seed, quads, torch.zeros_like(quads), stream, purpose)
    return torch.stack([*box_muller(w[0], w[1]), *box_muller(w[2], w[3])], -1).flatten()[:count]


def philox4x32(seed: int, *counter: Tensor | int) -> list[Tensor]:
    """Philox4x32-10 on int64 tensors that hold 32-bit words and broadcast."""
    c = [torch.as_tensor(word) for word in counter]
    key0, key1 = seed & _MASK, seed >> 32
    for _ in range(10):
        high0, low0 = _product(0xD2511F53, c[0])
        high1, low1 = _product(0xCD9E8D57, c[2])
        c = [high1 ^ c[1] ^ key0, low1, high0 ^ c[3] ^ key1, low0]
        key0, key1 = (key0 + 0x9E3779B9) & _MASK, (key1 + 0xBB67AE85) & _MASK
    return c


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a b, through 16-bit halves: no intermediate exceeds 49 bits."""
    low = (b & 0xFFFF) * a
    high = (b >> 16) * a + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    r = torch.sqrt(-2.0 * torch.log((radius.to(torch.float64) + 0.5) / 2.0**32))
    phi = angle.to(torch.float64) * (2.0 * math.pi / 2.0**32)
    return r * torch.cos(phi), r * torch.sin(phi)
