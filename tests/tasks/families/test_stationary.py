"""Arithmetic that is rounded alike everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synbench_fast.tasks.families.stationary import total


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 2**15])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0, 60.0])
def test_a_total_is_rounded_once_in_any_order(count: int, spread: float) -> None:
    """Values of very different sizes, some of which cancel: the sum is Python's exactly rounded one."""
    random = np.random.default_rng(count)
    values = random.standard_normal(count) * np.exp(spread * random.standard_normal(count))
    for one in (values, values**2, np.concatenate([values, -values, [5e-324, 1.0]])):
        assert total(one) == math.fsum(one.tolist()) == total(random.permutation(one))


def test_totals_of_matrices_and_of_nothing() -> None:
    assert total(np.full((3, 5), 0.1)) == 1.5
    assert total(np.zeros((2, 2))) == 0.0
