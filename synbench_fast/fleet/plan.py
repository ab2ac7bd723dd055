"""Which blocks of samples make up a scale: those that are stored, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["cover"]


def cover(stored: Iterable[tuple[int, int]], samples: int, least: int | None) -> list[tuple[int, int]]:
    """Blocks (start, count) that lie end to end from sample 0 and hold `samples` or a few more.

    Stored blocks are taken as far as they reach, from each sample on the longest that does not exceed
    `samples`; one further block holds the rest. A block of fewer than `least` samples allows no estimate: a
    shorter rest is made that long, so the scale then has more samples than asked for. `least` is None for the
    paper's estimator, whose classifiers are those of all samples: one block.

    >>> cover([(0, 1024)], 2048, 512)
    [(0, 1024), (1024, 1024)]
    >>> cover([(0, 1024)], 1030, 512)
    [(0, 1024), (1024, 512)]
    """
    if least is None:
        return [(0, samples)]
    longest: dict[int, int] = {}
    for start, count in stored:
        if start + count <= samples:
            longest[start] = max(count, longest.get(start, 0))
    blocks: list[tuple[int, int]] = []
    at = 0
    while at < samples:
        count = longest.get(at, 0)
        if count == 0:
            count = max(samples - at, least)
        blocks.append((at, count))
        at += count
    return blocks
