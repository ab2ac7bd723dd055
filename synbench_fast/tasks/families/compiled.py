"""Random words and the compiled renderers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from synbench_fast import _core
from synbench_fast.ops.sample_mixture import _philox
from synbench_fast.tasks.families.specification import fields, paint, roll, view, white

__all__ = ["fields", "normals", "paint", "roll", "view", "white", "words"]


def words(
    seed: int, word: int, stream: int, start: int, count: int, first: int, quads: int
) -> NDArray[np.uint32]:
    """The words of blocks first .. first + quads - 1 of each sample: [count, 4 quads]."""
    index = torch.arange(start, start + count)[:, None]
    parts = _philox(seed, torch.arange(first, first + quads), index, stream, word)
    parts = [torch.broadcast_to(part, (count, quads)) for part in parts]
    return torch.stack(parts, -1).reshape(count, 4 * quads).numpy().astype(np.uint32)


def normals(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """One normal per word, of pairs of words (radius, angle) by the transform of Box and Muller."""
    pairs = np.ascontiguousarray(words.reshape(-1, 2).T)
    z: NDArray[np.float32] = _core.normals_of_words(pairs[0], pairs[1])
    return z.reshape(words.shape[0], -1)
