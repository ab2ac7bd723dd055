"""The three encoders of docs/linear-probe.md, as factories: one architecture, trained in three ways on digits.

synbench-fast study eps-star python:benchmarks/digit_encoders.py:standard --input-shape 1,8,8
"""

from __future__ import annotations

import torch
from torch import nn

from synbench_fast.studies import digits
from synbench_fast.studies.labelled_data import open_data, split

MEAN, STD = 0.305, 0.376  # of the digits' pixels in [0, 1]


def trained(kind: str) -> nn.Module:
    """Trained on the part of the digits that the probe trains on, so that neither has seen the rest."""
    samples = open_data("digits")
    parts = split(samples, test_fraction=0.25, most=None, seed=0)
    x = [samples.load(rows, digits.SHAPE) for rows in (parts.train, parts.test)]
    y = [torch.from_numpy(samples.y[rows]) for rows in (parts.train, parts.test)]
    data = digits.Digits(x[0], y[0], x[1], y[1], MEAN, STD)
    return digits.train(kind, data, seed=0, epochs=20, radius=0.5, steps=5)


def untrained() -> nn.Module:
    """With random weights."""
    return trained("untrained")


def standard() -> nn.Module:
    """Trained on the images as they are."""
    return trained("standard")


def adversarial() -> nn.Module:
    """Trained on l2 perturbations of 0.5."""
    return trained("adversarial")
