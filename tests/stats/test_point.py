"""What a point derives from its fields."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checks import gaussian_point


def test_reach_is_accuracy_times_bound_and_infinite_without_a_signal() -> None:
    point = gaussian_point((0.0, 0.2, 0.5), np.array([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(point.reach[[0, 2]], (point.accuracy * point.bound)[[0, 2]])
    assert point.reach[1] == np.inf
    wrong = replace(point, accuracy=np.array([0.8, 0.0, 0.9]))  # nothing right: 0 times infinity is no number
    assert wrong.reach[1] == np.inf


@pytest.mark.parametrize("estimator", ["consistent", "gaussian", "counted"])
def test_counted_accuracy_of_every_estimator(estimator: str) -> None:
    point = gaussian_point((0.0, 0.2, 0.5), 1.0, estimator=estimator, excess=np.array([0.03, -0.02]))
    if estimator == "consistent":
        point = replace(point, correction=0.05 * np.ones(9))
    expected = {
        "consistent": point.accuracy - 0.05,
        "gaussian": point.accuracy[:2] + np.array([0.03, -0.02]),
        "counted": point.accuracy,
    }[estimator]
    np.testing.assert_allclose(point.counted_accuracy, expected)
    moments = gaussian_point((0.0,), 1.0, estimator="gaussian")
    np.testing.assert_array_equal(moments.counted_accuracy, moments.accuracy)
