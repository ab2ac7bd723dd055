"""Labelled samples of a study, whatever they are read from, and their division into training and test part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError

__all__ = ["Samples", "Split", "labels_of", "split"]

FEWEST = 4  # samples of a class, of which at least two train and one tests


@dataclass(frozen=True)
class Samples:
    """Labels y [N] in 0 ... K - 1 of `classes`, and `load(rows, shape)`, which gives x [len(rows), *shape].

    `shape` is that of one input where the data fix it; None where they are images, which take the encoder's. `test`
    [N] marks the published test part; None where there is none.
    """

    name: str
    shape: tuple[int, ...] | None
    y: NDArray[np.int64]
    classes: list[str]
    load: Callable[[NDArray[np.int64], tuple[int, ...]], Tensor]
    test: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Split:
    """Rows of the train and of the test part."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def split(samples: Samples, *, test_fraction: float, most: int | None, seed: int) -> Split:
    """A stratified split by `seed` alone; of more than `most` samples that many are drawn first.

    Every class gives round(test_fraction * n) of its n samples, at least 1, to the test part; FEWEST is needed. Data
    with a published test part keep it, and need 2 training samples and 1 test sample of every class.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(samples.y))
    if most is not None:
        order = order[:most]
    labels = samples.y[order]
    counts = np.bincount(labels, minlength=len(samples.classes))
    if (counts > 0).sum() < 2:
        raise SynbenchError(f"data: expected at least 2 classes, got {int((counts > 0).sum())}")
    if samples.test is not None:
        return _published(samples, order)
    fewest = int(counts.argmin())
    if counts[fewest] < FEWEST:
        raise SynbenchError(
            f"data: expected at least {FEWEST} samples of every class, got {counts[fewest]} "
            f"of {samples.classes[fewest]!r}"
        )
    held = np.zeros(len(order), dtype=bool)
    for label, count in enumerate(counts):
        share = min(max(1, round(test_fraction * int(count))), int(count) - 2)
        held[np.flatnonzero(labels == label)[:share]] = True
    return Split(order[~held], order[held])


def _published(samples: Samples, order: NDArray[np.int64]) -> Split:
    """The rows in `order`, by the part that they are published in."""
    assert samples.test is not None
    held = samples.test[order]
    for rows, name, least in ((order[~held], "training", 2), (order[held], "test", 1)):
        counts = np.bincount(samples.y[rows], minlength=len(samples.classes))
        fewest = int(counts.argmin())
        if counts[fewest] < least:
            raise SynbenchError(
                f"data: expected at least {least} {name} samples of every class, got {counts[fewest]} "
                f"of {samples.classes[fewest]!r}"
            )
    return Split(order[~held], order[held])


def labels_of(values: NDArray[Any], name: str) -> tuple[NDArray[np.int64], list[str]]:
    if values.ndim != 1:
        raise SynbenchError(f"{name}: expected labels [N], got {list(values.shape)}")
    if values.dtype.kind not in "iubUS":
        raise SynbenchError(f"{name}: expected integers or text, got {values.dtype}")
    classes, y = np.unique(values, return_inverse=True)
    return y.astype(np.int64), [str(one) for one in classes]
