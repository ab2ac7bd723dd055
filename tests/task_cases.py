"""Covariances of tasks, element by element."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def explicit_covariance(name: str, shape: tuple[int, ...]) -> Array:
    """Sigma [D, D] element by element: powers of frequencies as a sum of cosines of position differences."""
    kind, _, number = name.partition(":")
    channels = shape[0] if len(shape) > 1 else 1
    space = shape[1:] if len(shape) > 1 else shape
    positions = math.prod(space)
    if kind == "white":
        return np.eye(channels * positions)
    value = float(number)
    if kind == "channel":
        between = np.full((channels, channels), value) + (1 - value) * np.eye(channels)
        return np.kron(between, np.eye(positions))
    place = np.array(list(np.ndindex(*space)))
    frequency = np.minimum(place, np.array(space) - place) / np.array(space)
    size = np.sqrt((frequency**2).sum(1))
    size[0] = size[1:].min()
    variance = size**-value / np.mean(size**-value)
    phase = 2 * np.pi * (place[:, None] - place[None]) @ (place / np.array(space)).T
    return np.kron(np.eye(channels), (np.cos(phase) * variance).mean(2))
