"""Correlations over cells: against the coefficients of repeated values, known models, and noise that has none."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import refused

from synbench_fast.studies.base import Table
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell, ScoreSummary, TrainingSummary
from synbench_fast.studies.inheritance.statistic import (
    CellCorrelation,
    CellCorrelations,
    _Clusters,
    correlate_cells,
    weighted_coefficients,
)
from synbench_fast.studies.validity.correlation import COEFFICIENTS, coefficient

Array = np.ndarray


def simulate(
    encoders: int,
    data_sets: int,
    methods: tuple[str, ...] = ("ft",),
    seeds: int = 1,
    *,
    slope: float = -0.01,
    noise: float = 0.01,
    score_slope: float = 0.0,
    scored: bool = True,
    seed: int = 0,
) -> list[Cell]:
    """Distances ~ N(10, 1) per encoder and data set; each change is slope * distance + noise of the cell."""
    draws = np.random.default_rng(seed)
    names = [f"set{i}" for i in range(data_sets)]
    cells = []
    for e in range(encoders):
        score = float(draws.uniform(0.2, 0.8))
        for i in names:
            distance = {j: float(draws.normal(10, 1)) for j in [*names, PRETRAINING] if j != i}
            far = distance[PRETRAINING]
            for method in methods:
                for number in range(seeds):
                    change = slope * (far - 10) + noise * draws.standard_normal()
                    after = score_slope * score + noise * draws.standard_normal()
                    cells.append(
                        Cell(
                            encoder=f"encoder{e}",
                            fine_tuned_on=i,
                            method=method,
                            seed=number,
                            accuracy_before=dict.fromkeys(names, 0.5),
                            accuracy_after=dict.fromkeys(names, 0.5 + float(after)),
                            pretraining_before=0.8,
                            pretraining_after=0.8 + float(change),
                            agreement={},
                            score_before=ScoreSummary(eps=0.0, threshold=0.7, score=score, stderr=0.01)
                            if scored
                            else None,
                            score_after=None,
                            distance=distance,
                            training=TrainingSummary(steps=1, loss=0.5, seconds=1.0),
                        )
                    )
    return cells


def row(found: CellCorrelations, predictor: str, target: str, **wanted: Any) -> CellCorrelation:
    wanted = {"method": "all", "within": "", "coefficient": "pearson", **wanted}
    (one,) = [
        one
        for one in found.correlations
        if (one.predictor, one.target) == (predictor, target)
        and all(getattr(one, name) == value for name, value in wanted.items())
    ]
    return one


FORGETTING = ("distance to pre-training", "pre-training change")


@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_repeats(ties: bool) -> None:
    draws = np.random.default_rng(3)
    x, y = draws.standard_normal((2, 30))
    if ties:
        x, y = np.round(x), np.round(x + y)
    weights = draws.integers(0, 4, (6, 30)).astype(float)
    found = weighted_coefficients(x, y, weights)
    for place, one in enumerate(weights.astype(int)):
        for name in COEFFICIENTS:
            expected = coefficient(name, np.repeat(x, one), np.repeat(y, one))
            assert abs(found[name][place] - expected) < 1e-12


def test_weights_that_leave_one_value_have_no_coefficient() -> None:
    x, y = np.array([0.1, 0.1, 0.7, 0.9]), np.array([1.0, 3.0, 2.0, 7.0])
    found = weighted_coefficients(x, y, np.array([[2.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0], [1, 0, 1, 0]]))
    for name in COEFFICIENTS:
        assert np.isnan(found[name][:3]).all()
        assert found[name][3] == pytest.approx(1.0)


def test_known_correlation_of_a_simulated_benchmark() -> None:
    """change = -0.01 distance + 0.01 noise: the correlation is -1 / sqrt(2)."""
    found = correlate_cells(simulate(20, 20), resamples=400)
    one = row(found, *FORGETTING, method="ft")
    assert abs(one.value + math.sqrt(0.5)) < 0.06
    assert one.ci95_low < -math.sqrt(0.5) < one.ci95_high
    assert one.ci95_high < -0.5
    assert (one.cells, one.encoders, one.data_sets) == (400, 20, 20)


def test_exact_relations_and_signs() -> None:
    found = correlate_cells(simulate(6, 5, noise=0.0), resamples=200)
    for name in COEFFICIENTS:
        one = row(found, *FORGETTING, method="ft", coefficient=name)
        assert one.value == pytest.approx(-1.0)
        assert one.ci95_high == pytest.approx(-1.0)


def test_score_with_accuracy_after() -> None:
    found = correlate_cells(simulate(15, 4, slope=0.0, score_slope=0.5), resamples=400)
    one = row(found, "score before", "other sets after", method="ft")
    assert one.value > 0.95
    assert 0.9 < one.ci95_low <= one.value <= one.ci95_high
    assert row(found, "score before", "pre-training after", method="ft").ci95_low < 0


def coverage(encoders: int, data_sets: int, repeats: int, shared: float, trials: int) -> float:
    """Share of Pearson's intervals that hold 0 for predictor and target without relation.

    Both have effects of encoders and of data sets of size `shared`, beside noise of size 1: of the pair for the
    predictor, of the cell for the target.
    """
    e = np.repeat(np.arange(encoders), data_sets * repeats)
    d = np.tile(np.repeat(np.arange(data_sets), repeats), encoders)
    held = 0
    for trial in range(trials):
        draws = np.random.default_rng(trial)

        def effects(noise: Array, draws: np.random.Generator = draws) -> Array:
            of_encoder, of_data = draws.standard_normal(encoders), draws.standard_normal(data_sets)
            return shared * of_encoder[e] + shared * of_data[d] + noise

        x = effects(draws.standard_normal((encoders, data_sets))[e, d])
        y = effects(draws.standard_normal(len(e)))
        one = _Clusters([(e, encoders), (d, data_sets)], 300, trial).estimates(x, y)["pearson"]
        held += one.ci95_low <= 0 <= one.ci95_high
    return held / trials


def test_intervals_of_noise_hold_0_at_about_the_stated_rate() -> None:
    """150 trials: the standard error of a rate of 0.95 is 0.018."""
    assert 0.89 <= coverage(10, 10, 2, 1.0, 150) <= 0.99


def test_intervals_that_ignore_clusters_would_not() -> None:
    """What the resampling of encoders and data sets is for: the same noise, cells taken as independent."""
    held = 0
    trials = 100
    e, d = np.repeat(np.arange(8), 16), np.tile(np.repeat(np.arange(8), 2), 8)
    for trial in range(trials):
        draws = np.random.default_rng(trial)
        x, y = (draws.standard_normal(8)[e] + draws.standard_normal(8)[d] for _ in range(2))
        x, y = (one + 0.3 * draws.standard_normal(len(e)) for one in (x, y))
        alone = _Clusters([(np.arange(len(e)), len(e)), (np.zeros(len(e), dtype=int), 1)], 200, trial)
        one = alone.estimates(x, y)["pearson"]
        held += one.ci95_low <= 0 <= one.ci95_high
    assert held / trials < 0.8


def test_repeated_seeds_add_no_certainty() -> None:
    """Copies of every cell under other seeds: the same coefficient and the same interval."""
    cells = simulate(6, 6)
    copies = [dataclasses.replace(one, seed=number) for one in cells for number in range(4)]
    few, many = (
        row(correlate_cells(one, resamples=300), *FORGETTING, method="ft") for one in (cells, copies)
    )
    assert many.value == pytest.approx(few.value)
    assert (many.ci95_low, many.ci95_high) == pytest.approx((few.ci95_low, few.ci95_high))
    assert (few.cells, many.cells) == (36, 144)


def test_within_encoders_units_do_not_matter() -> None:
    """Distances in other units for every encoder hide the relation from the pooled coefficient only."""
    moved = []
    for one in simulate(6, 8, noise=0.001):
        assert one.distance is not None
        offset = 50.0 * int(one.encoder.removeprefix("encoder"))
        distance = {name: value + offset for name, value in one.distance.items()}
        moved.append(dataclasses.replace(one, distance=distance))
    found = correlate_cells(moved, resamples=200)
    assert abs(row(found, *FORGETTING, method="ft").value) < 0.3
    assert row(found, *FORGETTING, method="ft", within="encoder").value < -0.98


def test_methods_together_and_apart() -> None:
    found = correlate_cells(simulate(5, 5, ("ft", "lp"), 2), resamples=200)
    assert found.methods == ["ft", "lp"]
    assert {one.method for one in found.correlations} == {"all", "ft", "lp"}
    assert (row(found, *FORGETTING).cells, row(found, *FORGETTING, method="lp").cells) == (100, 50)


def test_one_encoder() -> None:
    """The data sets alone are resampled, and the score, of which there is one, has no coefficient."""
    found = correlate_cells(simulate(1, 8, ("ft", "lp")), resamples=200)
    assert found.resampled == ["8 data sets"]
    assert {one.predictor for one in found.correlations} == {
        "distance to pre-training",
        "mean distance to other sets",
    }
    assert {one.within for one in found.correlations} == {""}
    assert "score before: expected at least 3 encoders, got 1" in found.warnings
    assert sum(one.startswith("score before") for one in found.warnings) == 1
    assert "1 encoder: intervals say nothing about other encoders" in found.warnings
    assert "8 data sets are few clusters: intervals are probably too narrow" in found.warnings
    assert math.isfinite(row(found, *FORGETTING).ci95_low)


def test_too_few_clusters_have_no_interval() -> None:
    found = correlate_cells(simulate(1, 3), resamples=200)
    assert math.isfinite(row(found, *FORGETTING, method="ft").ci95_low)
    pairs = _Clusters([(np.array([0, 0, 1, 1]), 2), (np.zeros(4, dtype=int), 1)], 100, 0)
    one = pairs.estimates(np.arange(4.0), np.array([1.0, 0.0, 3.0, 2.0]))["pearson"]
    assert one.value == pytest.approx(0.6)
    assert math.isnan(one.ci95_low)
    assert math.isnan(one.ci95_high)


def test_cells_without_distance_or_score_are_left_out() -> None:
    cells = simulate(4, 4)
    cells[0] = dataclasses.replace(cells[0], distance=None, score_before=None)
    cells[1] = dataclasses.replace(cells[1], distance={PRETRAINING: 3.0})
    found = correlate_cells(cells, resamples=100)
    assert row(found, *FORGETTING, method="ft").cells == 15
    assert row(found, "mean distance to other sets", "robustness improvement", method="ft").cells == 14
    assert row(found, "score before", "other sets after", method="ft").cells == 15


def test_document_and_table() -> None:
    found = correlate_cells(simulate(1, 4, ("ft", "lp"), scored=False), resamples=100, seed=5)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (document["cells"], document["encoders"], document["data_sets"]) == (8, 1, 4)
    assert (document["resamples"], document["seed"], len(document["correlations"])) == (100, 5, 27)
    table, *lines = found.tables(coefficient="kendall")
    assert isinstance(table, Table) and table.columns[-1] == "kendall"
    assert len([row for row in table.rows if row[0] == "distance to pre-training"]) == 6
    assert (
        "95 % BCa intervals of 100 resamples of 4 data sets; 8 cells, 1 encoder, 4 data sets; seed 5" in lines
    )
    assert lines[-1] == "4 data sets are few clusters: intervals are probably too narrow"
    again = correlate_cells(simulate(1, 4, ("ft", "lp"), scored=False), resamples=100, seed=5)
    assert again == found
    with refused("coefficient: expected one of", "got 'kendal', did you mean kendall?"):
        list(found.tables(coefficient="kendal"))


def without_distance(cells: list[Cell]) -> list[Cell]:
    return [dataclasses.replace(one, distance=None, score_before=None) for one in cells]


def infinite(cells: list[Cell]) -> list[Cell]:
    return [dataclasses.replace(cells[0], pretraining_after=math.inf), *cells[1:]]


def constant(cells: list[Cell]) -> list[Cell]:
    return [dataclasses.replace(one, distance={PRETRAINING: 1.0}, score_before=None) for one in cells]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: cells[:2], "cells: expected at least 3, got 2"),
        (
            lambda cells: [*cells, cells[0]],
            "cells: expected every cell once, got encoder0, set0, ft, 0 twice",
        ),
        (without_distance, "got nothing to correlate"),
        (infinite, "pre-training change: expected finite values, got inf"),
        (constant, "distance to pre-training: expected values that differ between cells, got equal ones"),
    ],
)
def test_mistakes(change: Callable[[list[Cell]], list[Cell]], message: str) -> None:
    with refused(message):
        correlate_cells(change(simulate(3, 3)))


def test_too_few_resamples() -> None:
    with refused("resamples: expected at least 100, got 99"):
        correlate_cells(simulate(3, 3), resamples=99)


def test_no_coefficient_is_beyond_1() -> None:
    """Where rounding alone would put it."""
    draws = np.random.default_rng(0)
    x = draws.standard_normal(40)
    weights = draws.integers(0, 3, (500, 40)).astype(float)
    for y, sign in ((3 * x + 1, 1.0), (-x, -1.0)):
        for values in weighted_coefficients(x, y, weights).values():
            np.testing.assert_allclose(values, sign, atol=1e-9)
            assert np.abs(values).max() == 1.0


def test_methods_and_factors_are_told_apart() -> None:
    """Two methods of opposite relation: each has its own coefficient, and both together nearly none."""
    cells = [
        dataclasses.replace(one, pretraining_after=0.8 + sign * (one.pretraining_after - 0.8))
        for one in simulate(6, 6, ("ft", "lp"), noise=0.001)
        for sign in (1 if one.method == "ft" else -1,)
    ]
    found = correlate_cells(cells, resamples=200)
    assert row(found, *FORGETTING, method="ft").value < -0.9
    assert row(found, *FORGETTING, method="lp").value > 0.9
    assert abs(row(found, *FORGETTING).value) < 0.1
    assert found.resampled == ["6 encoders", "6 data sets"]
    assert found.warnings[-2:] == [
        "6 encoders are few clusters: intervals are probably too narrow",
        "6 data sets are few clusters: intervals are probably too narrow",
    ]
    assert not correlate_cells(simulate(10, 10), resamples=100).warnings


def test_what_is_the_same_within_every_encoder_is_named() -> None:
    """Distances that differ between encoders alone have a coefficient over all cells, and none within."""
    cells = [
        dataclasses.replace(one, distance={PRETRAINING: float(one.encoder.removeprefix("encoder"))})
        for one in simulate(4, 4, scored=False)
    ]
    found = correlate_cells(cells, resamples=100)
    assert {one.within for one in found.correlations} == {""}
    assert (
        "distance to pre-training: expected values that differ between cells, got equal ones within every encoder"
        in found.warnings
    )
