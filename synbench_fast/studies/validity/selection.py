"""How much of the best of many correlations is left on encoders, and on a data set, that did not choose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.validity.correlation import FEWEST, coefficient

__all__ = ["FEWEST_TO_SPLIT", "Chosen", "choose_and_test", "random_halves"]

Array = NDArray[np.float64]

FEWEST_TO_SPLIT = 2 * FEWEST


@dataclass(frozen=True)
class Chosen:
    """Of one group of candidates, for every split: the one chosen, its coefficient there, and on the other half."""

    choice: NDArray[np.int64]
    apparent: Array
    held_out: Array


def random_halves(count: int, *, splits: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """`splits` random divisions of 0 ... count - 1 into a part of floor(count/2) that chooses and one that tests."""
    if count < FEWEST_TO_SPLIT:
        raise SynbenchError(f"encoders: expected at least {FEWEST_TO_SPLIT} to split in halves, got {count}")
    random = np.random.default_rng(seed)
    orders = (random.permutation(count) for _ in range(splits))
    return [(np.sort(one[: count // 2]), np.sort(one[count // 2 :])) for one in orders]


def choose_and_test(
    choosing: tuple[Array, Array],
    testing: tuple[Array, Array],
    groups: Mapping[str, Sequence[int]],
    halves: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    name: str = "spearman",
) -> dict[str, Chosen]:
    """For each split, the candidate of each group that correlates best on one half, and how it does on the other.

    Args:
        choosing: candidates [C, n] over n encoders, and the quantity [n] that they are chosen by.
        testing: the same candidates [C, n], and the quantity [n] that the choice is tested by; another data set's,
            or those of `choosing` again.
        groups: name -> rows of the candidates. A group of one row is not chosen, only tested.
        halves: see `random_halves`.
        name: the coefficient, see `coefficient`.

    The largest coefficient is chosen, not the largest size: a score that ranks the wrong way round is of no use. A
    coefficient that is undefined because a candidate is the same for all encoders of a half is never chosen where
    another is defined, and counts as 0: it ranks nothing.
    """
    choice = np.empty((len(groups), len(halves)), dtype=np.int64)
    apparent, held_out = np.empty(choice.shape), np.empty(choice.shape)
    for split, (first, second) in enumerate(halves):
        before = coefficient(name, choosing[0][:, first], choosing[1][first])
        after = np.nan_to_num(coefficient(name, testing[0][:, second], testing[1][second]))
        ranked = np.where(np.isfinite(before), before, -2.0)
        for group, rows in enumerate(groups.values()):
            best = rows[int(np.argmax(ranked[list(rows)]))]
            choice[group, split] = best
            apparent[group, split] = np.nan_to_num(before[best])
            held_out[group, split] = after[best]
    return {
        group: Chosen(choice[index], apparent[index], held_out[index]) for index, group in enumerate(groups)
    }
