"""The scales s of the published protocol: half the distance of the classes in standard deviations."""

from __future__ import annotations

from synbench_fast.errors import SynbenchError

__all__ = ["LARGEST_SCALE", "SCALE_STEP", "spread_scales"]

LARGEST_SCALE = 4.9  # the published grid is 0.1, 0.2, ..., 4.9
SCALE_STEP = 1e-4  # scales are told apart to this; their sample streams are numbered by it


def spread_scales(count: int) -> tuple[float, ...]:
    """`count` equally spaced scales up to 4.9; 49 of them are the published grid.

    >>> spread_scales(7)
    (0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9)
    """
    if not 1 <= count <= LARGEST_SCALE / SCALE_STEP:
        raise SynbenchError(f"scales: expected 1 to {LARGEST_SCALE / SCALE_STEP:.0f} scales, got {count}")
    return tuple(round(LARGEST_SCALE * (i + 1) / count, 4) for i in range(count))
