"""Arithmetic that is rounded alike everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from synbench_fast.tasks.families.stationary import exp, fill_even, half_of, total, total_of_even


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


@pytest.mark.parametrize("places", [(8,), (9,), (8, 8), (9, 12), (12, 9), (11, 15)])
def test_half_of_the_frequencies_has_the_rest(places: tuple[int, ...]) -> None:
    random = np.random.default_rng(len(places))
    spectrum = np.abs(np.fft.fftn(random.standard_normal(places)))
    index = np.indices(places)
    opposite = spectrum[tuple(-one % n for one, n in zip(index, places, strict=True))]
    even = np.maximum(spectrum, opposite)  # the transform of real numbers is even but for rounding
    found = np.full(places, np.nan)
    half_of(found)[...] = half_of(even)
    fill_even(found)
    np.testing.assert_array_equal(found, even)
    assert total_of_even(half_of(even), places[0]) == total(even)


def test_the_exponential_function() -> None:
    x = np.linspace(-20, 20, 1001)
    np.testing.assert_allclose(exp(x), np.exp(x), rtol=1e-12)
