"""The coverage of intervals of K classes: the simulated truth against the closed form, and what a cell of the table says."""

from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm


def script():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage_classes.py"
    spec = importlib.util.spec_from_file_location("coverage_of_classes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = script()


def test_truth_of_gaussian_pairs_is_the_closed_form(monkeypatch):
    """Phi(delta/2), with the distances of the means in the units of the noise, which the linear map does not change."""
    monkeypatch.setattr(coverage, "TRUTH_SAMPLES", 80_000)
    means = np.random.default_rng(0).standard_normal((3, coverage.WIDTH))
    means *= coverage.APART / np.sqrt(2 * coverage.WIDTH)
    pairs = [norm.cdf(np.linalg.norm(means[i] - means[j]) / 2) for i, j in combinations(range(3), 2)]
    _, mean, worst = coverage.truth("Gaussian", 3)
    assert mean == pytest.approx(np.mean(pairs), abs=0.005)
    assert worst == pytest.approx(min(pairs), abs=0.008)


def test_a_cell_counts_the_intervals_that_hold_the_truth():
    """Three intervals of four runs, two of which hold 0.5: one begins above it."""
    value = np.array([0.5, 0.6, 0.5, 0.4])
    low, high = np.array([0.4, 0.55, np.nan, 0.3]), np.array([0.6, 0.7, np.nan, 0.5])
    assert coverage.text(value, low, high, 0.5) == "**66.7**, 25 % withheld (+0.0000, 0.0707)"
    assert coverage.text(value[:1], low[:1], high[:1], 0.5) == "*100.0* (+0.0000, 0.0000)"
    assert coverage.text(value[2:3], low[2:3], high[2:3], 0.5) == "withheld (+0.0000, 0.0000)"
