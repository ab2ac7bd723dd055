"""Tolerances, shapes and stored reference outputs that several test files use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

# Fixtures of several files, each in a module beside what it is about.
pytest_plugins = ["browser_fixtures", "cli_fixtures", "emulation", "pipeline_fixtures"]

# What a run of CI tries is the same every time; elsewhere every run tries something else.
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

GOLDEN = Path(__file__).parent / "golden"
ONE_SCALE = ("k16_n512", "k64_n1024", "k64_prior03_n1024", "k192_n1024", "k192_n128_rankdef")

# Relative to the largest entry of the expected tensor: where each backend may differ from the float64 specification.
TOLERANCE = {
    "filter_spectrum": 2e-6,  # float32 transforms
    "feature_stats": 1e-12,  # the order of float64 sums
    "robust_solve": 1e-9,  # conditioning of the spectrum
    "score_sweep": 1e-12,
    "score_auc": 1e-14,
    "nuclear_norm": 1e-13,
}


def load_golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """max |actual - expected| <= tolerance * max(1, max |expected|), NaN and inf where NaN and inf are."""
    a = torch.as_tensor(actual, dtype=torch.float64)
    b = torch.as_tensor(expected, dtype=torch.float64)
    assert a.shape == b.shape
    finite = torch.isfinite(b)
    assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a[b.isinf()], b[b.isinf()])
    if finite.any():
        error = (a[finite] - b[finite]).abs().max()
        assert error <= tolerance * max(1.0, float(b[finite].abs().max())), float(error)


@pytest.fixture(params=ONE_SCALE)
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return load_golden(request.param)
