"""Philox4x32-10 in Python integers."""

from __future__ import annotations

from typing import Any

import numpy as np


def philox(counter: list[Any], seed: int) -> list[np.ndarray]:
    mask, c = np.uint64(0xFFFFFFFF), [np.asarray(word, dtype=np.uint64) for word in counter]
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        k0, k1 = (np.uint64(key) for key in keys)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & mask]
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return c
