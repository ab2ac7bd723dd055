"""Strokes: arrays for the renderer `paint`, and the dead-leaves pictures made of them.

Positions are [..., 2] (x, y), axes unit vectors [..., 2], all lengths in elements of the image, all float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synbench_fast.ops.renderers import HARMONICS
from synbench_fast.tasks.families.base import Draws, Floats

__all__ = ["ELLIPSE", "OUTLINE", "RECTANGLE", "join", "leaves", "stroke"]

ELLIPSE, RECTANGLE, OUTLINE = 0.0, 1.0, 2.0


def stroke(
    kind: float | Floats,
    place: Floats,
    axis: Floats,
    a: float | Floats,
    b: float | Floats,
    filling: Floats | None = None,
    reach: float | Floats = 1.0,
) -> Floats:
    """Strokes [..., len(STROKE)]; `reach` is the largest radius of an outline over a."""
    ux, uy = axis[..., 0], axis[..., 1]
    kind, a, b = (np.broadcast_to(value, ux.shape) for value in (kind, a, b))
    wide, high = np.abs(a * ux) + np.abs(b * uy), np.abs(a * uy) + np.abs(b * ux)
    half_wide, half_high = np.sqrt((a * ux) ** 2 + (b * uy) ** 2), np.sqrt((a * uy) ** 2 + (b * ux) ** 2)
    ex = np.where(kind == OUTLINE, a * reach, np.where(kind == RECTANGLE, wide, half_wide))
    ey = np.where(kind == OUTLINE, a * reach, np.where(kind == RECTANGLE, high, half_high))
    wave = np.zeros_like(place) if filling is None else filling
    columns = (kind, place[..., 0], place[..., 1], ux, uy, a, b, wave[..., 0], wave[..., 1], ex, ey)
    return np.stack(np.broadcast_arrays(*columns), -1)


def leaves(draws: Draws, number: int, extent: tuple[float, float], smallest: float, largest: float) -> Floats:
    """Discs and rectangles [count, number, len(STROKE)] at uniform places of extent (width, height).

    Their radii have the density r^-3 between two bounds: with an unbounded range and flat colours the picture would be
    scale invariant (Lee, Mumford and Huang, Occlusion models for natural images, IJCV 41, 2001).
    """
    place = draws.uniform(number, 2) * np.array(extent)
    high, low = 1 / smallest**2, 1 / largest**2
    radius = 1 / np.sqrt(high - draws.uniform(number) * (high - low))
    axis = draws.direction(number)
    round_ = draws.uniform(number) < 0.5
    narrow = np.where(round_, 1.0, draws.uniform(number, low=0.3))
    return stroke(np.where(round_, ELLIPSE, RECTANGLE), place, axis, radius, radius * narrow)


def periodic(strokes: Floats, colours: Floats, period: float) -> tuple[Floats, Floats]:
    """Strokes [S, ...] and colours of one picture with the copies that reach into [0, period)^2 from beyond it."""
    steps = np.array([[x, y] for y in (-period, 0.0, period) for x in (-period, 0.0, period)])
    places, reach = strokes[:, None, 1:3] + steps, strokes[:, None, 9:11] + 2.0
    seen = ((places + reach > 0) & (places - reach < period)).all(-1)
    which = np.nonzero(seen)[0]
    copies = strokes[which]
    copies[:, 1:3] = places[seen]
    return copies, colours[which]


def flat(colours: Floats) -> Floats:
    """Colours [..., C] of strokes without a filling, [..., 2, C]."""
    return np.repeat(colours[..., None, :], 2, axis=-2)


def join(*parts: tuple[Floats, Floats]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Strokes and colours of several layers, each over those before it, as `paint` takes them."""
    strokes = np.concatenate([part[0] for part in parts], axis=1)
    colours = np.concatenate([part[1] for part in parts], axis=1)
    return strokes.astype(np.float32), colours.astype(np.float32)


def no_outlines(strokes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outlines for strokes that have none."""
    return np.zeros((*strokes.shape[:2], 2 * len(HARMONICS)), np.float32)
