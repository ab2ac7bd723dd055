"""Blocks of samples: what comes in pieces is what comes at once, and several blocks estimate the same better."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from scipy.stats import norm

import synbench_fast as sb
from synbench_fast.engine.probe import Batch
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.stats.blocks import Block, combined
from synbench_fast.stats.consistent import GROUP
from synbench_fast.stats.estimators import Sample, find_estimator
from synbench_fast.stats.point import CurvePoint

TASK = sb.GaussianTask((12,), scales=(0.5, 1.0, 2.5))
WEIGHT = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 12)) + 0.5)


def encode(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([(WEIGHT * row.double()).sum(1) for row in x])


def make(**options: Any) -> sb.Probe:
    return sb.Probe(TASK, **{"eps": (0.0, 0.3), "samples": 100, "seed": 3, **options})


def fill(probe: sb.Probe, batch_size: int = 64) -> None:
    for batch in probe.batches(batch_size):
        probe.update(batch, encode(batch.x))


def extended(**options: Any) -> sb.Probe:
    probe = make(**options)
    fill(probe)
    assert probe.extend(1, 60) == Block(1, 100, 60)
    assert probe.extend(1, 200) == Block(1, 160, 200)
    assert probe.extend(2, 80) == Block(2, 100, 80)
    return probe


@pytest.mark.parametrize("estimator", ["consistent", "gaussian"])
def test_blocks_in_any_order_and_in_one_go(estimator: str) -> None:
    later = extended(estimator=estimator)
    assert later.samples_drawn == [100, 360, 180]
    assert later.images == 640
    fill(later)
    at_once = make(estimator=estimator)
    for scale, count in ((1, 60), (1, 200), (2, 80)):
        at_once.extend(scale, count)
    batches = list(at_once.batches(37))
    for batch in reversed(batches):
        at_once.update(batch, encode(batch.x))
    assert later.compute() == at_once.compute()


def test_only_what_is_missing_is_drawn() -> None:
    probe = extended()
    drawn = [(batch.scale_index, batch.start, len(batch.y)) for batch in probe.batches(150)]
    assert drawn == [(1, 100, 60), (1, 160, 150), (1, 310, 50), (2, 100, 80)]
    with refused("compute: expected the features of all 3 scales, got 1; incomplete: 1, 2.5"):
        probe.compute()


def test_a_batch_may_reach_over_two_blocks() -> None:
    plain, across = extended(), extended()
    fill(plain)
    for scale, start, count in ((1, 100, 200), (1, 300, 60), (2, 100, 80)):
        batch = across.batch(scale, 0, start, count)
        across.update(batch, encode(batch.x))
    assert plain.compute() == across.compute()


def test_points_of_an_earlier_run_take_the_place_of_features() -> None:
    first = extended()
    fill(first)
    again = make()
    for scale, count in ((1, 60), (1, 200), (2, 80)):
        again.extend(scale, count)
    for block in first.blocks:
        again.add_point(block, first.point(block))
    assert list(again.batches(64)) == []
    assert again.compute() == first.compute()
    assert again.feature_dim == 6


def test_points_that_do_not_belong_are_refused() -> None:
    first = make()
    fill(first)
    block = first.blocks[0]
    point = first.point(block)
    for options, words in (
        (
            {"eps": (0.0, 0.4)},
            "point: expected consistent at this run's budgets, got consistent at scale 0.5",
        ),
        ({"estimator": "counted"}, "point: expected counted at this run's budgets, got consistent"),
    ):
        with refused(words):
            make(**options).add_point(block, point)
    with refused("block: expected one that is still to come, got Block(scale_index=0, start=0, count=100)"):
        first.add_point(block, point)
    with refused("block: expected one that is still to come, got Block(scale_index=0, start=100, count=100)"):
        make().add_point(Block(0, 100, 100), point)
    with refused("point: expected 100 samples at scale 0.5, got 99"):
        make().add_point(block, dataclasses.replace(point, count=99))
    other = make()
    other.add_point(block, point)
    with refused("features: expected F = 6 as in earlier batches, got 5"):
        other.add_point(first.blocks[1], dataclasses.replace(first.point(first.blocks[1]), feature_dim=5))
    with refused("block: expected one whose samples have all come, got Block(scale_index=1"):
        make().point(Block(1, 0, 100))


def test_samples_of_a_later_block_that_come_twice_or_do_not_exist() -> None:
    probe = extended()
    batch = probe.batch(1, 0, 100, 60)
    probe.update(batch, encode(batch.x))
    with refused("batch: expected samples not seen before, got scale 1 again"):
        probe.update(batch, encode(batch.x))
    with refused(
        "batch: expected samples of 3 scales, 1 splits and 360 samples each, got 350 .. 361 of split 0"
    ):
        probe.update(Batch(torch.zeros(12, 12), torch.zeros(12), 1, 0, 350), torch.zeros(12, 6))


def test_the_samples_of_a_biased_estimator_cannot_be_extended() -> None:
    for name in ("paper", "counted"):
        with refused(f"extend: expected estimator consistent or gaussian, got {name}"):
            make(estimator=name).extend(0, 100)
    with refused("count: expected an integer of at least 4, got 3"):
        make().extend(0, 3)


def test_groups_of_influences_stay_in_place() -> None:
    """Each sample's influence lands in the group of its number, whatever the blocks are."""
    probe = extended()
    fill(probe)
    found = probe.compute().influence
    assert found is not None and found.group == GROUP
    assert found.groups.tolist() == [7, 23, 12] and found.accuracy.shape == found.reach.shape == (3, 2, 23)
    assert not found.accuracy[0, :, 7:].any() and found.accuracy[0, :, :7].all()
    last = probe.point(Block(1, 160, 200)).influence
    assert last is not None and last.shape == (2, 2, 13)  # samples 160 .. 359 are in groups 10 to 22
    left = {n: n * (n - 2 - 6) / (n - 2) for n in (100, 60, 200)}  # of a block's samples, by estimation
    for kind, table in enumerate((found.accuracy, found.reach)):
        weights = np.array(table[1][0][10:]) / last[kind, 0]
        np.testing.assert_allclose(weights, left[200] / sum(left.values()), rtol=1e-4)


def draw(
    rng: np.random.Generator, count: int, features: int, signal: float
) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(count) % 2
    x = torch.from_numpy(rng.standard_normal((count, features)))
    x[:, 0] += signal * (2.0 * y - 1)
    return x, y.to(torch.uint8)


def point_of(estimator: str, x: torch.Tensor, y: torch.Tensor, start: int = 0) -> CurvePoint:
    return find_estimator(estimator).point(feature_stats(x, y), (0.0, 0.3), sample=Sample(x, y, start=start))


@pytest.mark.parametrize("estimator", ["consistent", "gaussian"])
def test_blocks_estimate_one_quantity_with_the_error_they_state(estimator: str) -> None:
    """120 repetitions of three blocks, the first hardly larger than F: unbiased, and the error is the spread."""
    rng = np.random.default_rng(1)
    signal, features = 1.2, 24
    blocks = [Block(0, 0, 36), Block(0, 36, 60), Block(0, 96, 160)]
    found, stated, single = [], [], []
    for _ in range(120):
        points = [
            point_of(estimator, *draw(rng, block.count, features, signal), block.start) for block in blocks
        ]
        point = combined(blocks, points)
        assert point.count == 256
        found.append(np.stack([point.t, point.accuracy]))
        stated.append(np.stack([point.stderr, point.accuracy_stderr]))
        single.append(np.stack([points[-1].stderr, points[-1].accuracy_stderr]))
    # White features: every eps has the classifier of eps = 0, so the truth is the same.
    truth = np.array([signal, norm.cdf(signal)])[:, None]
    spread = np.std(found, axis=0)
    mean_error, of_one = (np.sqrt(np.mean(np.square(one), axis=0)) for one in (stated, single))
    assert np.all(np.abs(np.mean(found, axis=0) - truth) < 4 * spread / math.sqrt(120) + 0.01)
    np.testing.assert_allclose(mean_error / spread, 1.0, atol=0.3)
    assert np.all(mean_error < of_one)


def test_a_combination_is_the_weighted_mean_of_its_blocks() -> None:
    """Weights N (1 - df/nu), by hand: without a ridge df = F; with one, g/kappa."""
    rng = np.random.default_rng(2)
    blocks = [Block(0, 0, 128), Block(0, 128, 300)]
    points = [point_of("consistent", *draw(rng, block.count, 12, 1.0), block.start) for block in blocks]
    both = combined(blocks, points)
    shares = [one.ridge[1] / one.kappa[1] for one in points]
    for e, left in enumerate(([(128 - 14) / 126, (300 - 14) / 298], shares)):
        weight = np.array([128 * left[0], 300 * left[1]])
        weight /= weight.sum()
        for name in ("accuracy", "robust_accuracy", "t", "t_rob", "ridge", "kappa"):
            expected = sum(w * getattr(one, name)[e] for w, one in zip(weight, points, strict=True))
            assert getattr(both, name)[e] == pytest.approx(expected), name
        reach = sum(w * one.accuracy[e] * one.bound[e] for w, one in zip(weight, points, strict=True))
        assert both.bound[e] == pytest.approx(reach / both.accuracy[e])
        for name in ("stderr", "accuracy_stderr", "bound_stderr", "excess_stderr", "deviation_error"):
            errors = [w * getattr(one, name)[e] for w, one in zip(weight, points, strict=True)]
            assert getattr(both, name)[e] == pytest.approx(math.hypot(*errors)), name
        for name in ("correction", "drift", "undecided", "excess"):
            values = [getattr(one, name) for one in points]
            assert all(one is not None for one in values)
            expected = sum(w * one[e] for w, one in zip(weight, values, strict=True))
            assert getattr(both, name)[e] == pytest.approx(expected), name
        assert both.covariance is not None
        variances = [w**2 * np.asarray(one.covariance)[e, e] for w, one in zip(weight, points, strict=True)]
        assert both.covariance[e, e] == pytest.approx(sum(variances))
        influence = both.influence
        assert influence is not None and influence.shape == (2, 2, 27)
        for w, one, place in zip(weight, points, (slice(0, 8), slice(8, 27)), strict=True):
            np.testing.assert_allclose(influence[:, e, place], w * np.asarray(one.influence)[:, e])
    assert combined(blocks[:1], points[:1]) is points[0]


def test_what_one_block_lacks_the_combination_lacks() -> None:
    rng = np.random.default_rng(3)
    blocks = [Block(0, 0, 128), Block(0, 128, 100)]
    one, two = (point_of("consistent", *draw(rng, block.count, 4, 1.0), block.start) for block in blocks)
    for name in ("influence", "drift", "excess"):
        assert getattr(combined(blocks, [one, dataclasses.replace(two, **{name: None})]), name) is None
    # The groups of another package's estimator begin with its block, and cannot be added up where that cuts into one.
    cut = [Block(0, 0, 100), Block(0, 100, 128)]
    assert combined(cut, [dataclasses.replace(p, estimator="other") for p in (one, two)]).influence is None
    lost = dataclasses.replace(two, below_cut=3, lost_separation=True, rank=5)
    both = combined(blocks, [one, lost])
    assert (both.below_cut, both.lost_separation, both.rank) == (3, True, 5)


def test_blocks_without_an_error_add_up() -> None:
    """A separating feature: t is infinite, and so is its mean."""
    y = torch.arange(256) % 2
    x = torch.stack([2.0 * y - 1, torch.randn(256, generator=torch.Generator().manual_seed(0))], 1).double()
    blocks = [Block(0, 0, 128), Block(0, 128, 128)]
    both = combined(
        blocks, [point_of("consistent", x[b.start : b.stop], y[b.start : b.stop], b.start) for b in blocks]
    )
    assert both.accuracy.tolist() == [1.0, 1.0] == both.bound.tolist()
    assert np.all(both.t == np.inf) and np.all(both.accuracy_stderr == pytest.approx(1 / 128 / math.sqrt(2)))
