"""Blocks of samples: what comes in pieces is what comes at once, and several blocks estimate the same t better."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from synbench_fast.margins import GROUP

import synbench_fast as sb
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.probe import Batch
from synbench_fast.stats.blocks import Block, combined
from synbench_fast.stats.estimators import start_consistent, start_counted
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


@pytest.mark.parametrize("estimator", ["consistent", "counted"])
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


def test_the_papers_samples_cannot_be_extended() -> None:
    with refused("extend: expected estimator consistent or counted, got paper"):
        make(estimator="paper").extend(0, 100)
    with refused("count: expected an integer of at least 4, got 3"):
        make().extend(0, 3)


def test_groups_of_influences_stay_in_place() -> None:
    """Each sample's influence lands in the group of its number, whatever the blocks are."""
    probe = extended()
    fill(probe)
    scale_1 = probe.compute().influence
    assert scale_1 is not None and scale_1.group == GROUP
    assert [len(one[0]) for one in scale_1.t] == [2, 6, 3]
    last = probe.point(Block(1, 160, 200)).influence
    assert last is not None and last.shape == (2, 4)  # samples 160 .. 359 are in groups 2 to 5
    weights = np.array(scale_1.t[1][0][4:]) / last[0, 2:]
    np.testing.assert_allclose(weights, weights[0], rtol=1e-4)
    assert 0.5 < weights[0] < 0.6  # 198 - 6 of the 98 - 6, 58 - 6 and 198 - 6 that estimation leaves


def draw(
    rng: np.random.Generator, count: int, features: int, signal: float
) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(count) % 2
    x = torch.from_numpy(rng.standard_normal((count, features)))
    x[:, 0] += signal * (2.0 * y - 1)
    return x, y.to(torch.uint8)


@pytest.mark.parametrize("estimator", ["consistent", "counted"])
def test_blocks_estimate_one_t_with_the_error_they_state(estimator: str) -> None:
    """300 repetitions of three blocks, the first hardly larger than F: unbiased, and the error is the spread."""
    rng, prior = np.random.default_rng(1), 0.5
    eps, signal, features = (0.0, 0.3), 1.2, 24
    blocks = [Block(0, 0, 36), Block(0, 36, 60), Block(0, 96, 160)]
    t, stated, single = [], [], []
    for _ in range(300):
        points: list[CurvePoint] = []
        for block in blocks:
            x, y = draw(rng, block.count, features, signal)
            stats = feature_stats(x, y)
            if estimator == "counted":
                points.append(start_counted(stats, eps, sample=(x, y))())
            else:
                points.append(start_consistent(stats, eps, sample=(x, y), start=block.start)())
        point = combined(blocks, points, prior)
        assert point.count == 256
        t.append(point.t)
        stated.append(point.stderr)
        single.append(points[-1].stderr)
    spread = np.std(t, axis=0)
    mean_error = np.sqrt(np.mean(np.square(stated), axis=0))
    assert np.all(np.abs(np.mean(t, axis=0) - signal) < 4 * spread / math.sqrt(300) + 0.01)
    # White features: every eps has the classifier of eps = 0, so the truth is the same.
    np.testing.assert_allclose(mean_error / spread, 1.0, atol=0.15)
    if estimator == "consistent":
        assert np.all(mean_error < np.sqrt(np.mean(np.square(single), axis=0)))


def test_combined_counts_are_the_counts_of_all() -> None:
    rng = np.random.default_rng(2)
    blocks = [Block(0, 0, 100), Block(0, 100, 300)]
    points = []
    for block in blocks:
        x, y = draw(rng, block.count, 4, 1.0)
        points.append(start_counted(feature_stats(x, y), (0.0,), sample=(x, y))())
    both = combined(blocks, points, 0.5)
    expected = (points[0].accuracy * 100 + points[1].accuracy * 300) / 400
    np.testing.assert_allclose(both.accuracy, expected, rtol=1e-14)
    assert both.counted_accuracy is not None and both.counted_cov is not None
    np.testing.assert_array_equal(both.counted_accuracy, both.accuracy)
    assert points[1].counted_cov is not None
    assert 0.7 < both.counted_cov[0, 0, 0] / points[1].counted_cov[0, 0, 0] < 0.8
    assert combined(blocks[:1], points[:1], 0.5) is points[0]
