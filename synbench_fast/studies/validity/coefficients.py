"""Coefficients between predictors and measured quantities, and what is left of the best of them elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synbench_fast.studies.validity.correlation import COEFFICIENTS, Bootstrap, Estimate, average_ranks
from synbench_fast.studies.validity.records import Correlation, HeldOut, Predictor, Target
from synbench_fast.studies.validity.selection import FEWEST_TO_SPLIT, choose_and_test, random_halves

__all__ = ["OVERALL", "correlations", "difference", "held_out"]

Array = NDArray[np.float64]

OVERALL = "overall"
ANY_TASK = "any task"


def correlations(
    predictors: Sequence[Predictor],
    targets: Sequence[Target],
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> list[Correlation]:
    """Every coefficient of every predictor and target, on each data set of `names` and overall."""
    bootstrap = Bootstrap(len(targets[0].values[0]), resamples=resamples, seed=seed)
    places = [*names, OVERALL] if len(names) > 1 else list(names)
    wanted = {
        (target.name, place): bootstrap.prepare(row)
        for target in targets
        for place, row in zip(places, _with_overall(target.values), strict=True)
    }
    if len(names) == 1:
        wanted |= {(target.name, OVERALL): wanted[target.name, names[0]] for target in targets}
    found = []
    for predictor in predictors:
        values = np.asarray(predictor.values)
        if predictor.sees == "nothing":
            once = bootstrap.prepare(values[0])
            prepared = dict.fromkeys((*names, OVERALL), once)
        else:
            rows = _with_overall(predictor.values)
            prepared = {place: bootstrap.prepare(row) for place, row in zip(places, rows, strict=True)}
            if len(names) == 1:
                prepared[OVERALL] = prepared[names[0]]
        for (target, place), quantity in wanted.items():
            for name in COEFFICIENTS:
                one = bootstrap.estimate(prepared[place], quantity, name)
                found.append(
                    Correlation(
                        predictor=predictor.name,
                        target=target,
                        data=place,
                        coefficient=name,
                        value=one.value,
                        ci95_low=one.ci95_low,
                        ci95_high=one.ci95_high,
                    )
                )
    return found


def _with_overall(values: Sequence[Sequence[float]]) -> list[Array]:
    """The rows of every data set, and the mean over data sets of the ranks within each."""
    rows = [np.asarray(row, dtype=np.float64) for row in values]
    return rows if len(rows) == 1 else [*rows, average_ranks(np.stack(rows)).mean(0)]


def difference(
    first: Predictor,
    second: Predictor,
    target: Target,
    place: int,
    coefficient: str,
    *,
    resamples: int,
    seed: int,
) -> Estimate:
    """By how much `first` correlates better than `second`; `place` counts the data sets, overall last."""
    bootstrap = Bootstrap(len(target.values[0]), resamples=resamples, seed=seed)

    def prepared(one: Predictor | Target) -> dict[str, tuple[Array, Array, Array]]:
        rows = one.values[:1] if isinstance(one, Predictor) and one.sees == "nothing" else one.values
        return bootstrap.prepare(_with_overall(rows)[place if len(rows) > 1 else 0])

    return bootstrap.difference(prepared(first), prepared(second), prepared(target), coefficient)


def held_out(
    predictors: Sequence[Predictor], targets: Sequence[Target], data: Sequence[str], splits: int, seed: int
) -> list[HeldOut]:
    """Choices among families of candidates, tested on other encoders and data; none of too few encoders."""
    if len(targets[0].values[0]) < FEWEST_TO_SPLIT:
        return []
    values = np.array([one.values for one in predictors])  # [C, data sets, n]
    groups: dict[str, list[int]] = {}
    for row, one in enumerate(predictors):
        if one.kind == "score":
            groups.setdefault(one.task, []).append(row)
            if one.task not in ("mean", "worst"):
                groups.setdefault(ANY_TASK, []).append(row)
    if ANY_TASK in groups:
        groups = {ANY_TASK: groups[ANY_TASK]} | groups
    groups |= {one.name: [row] for row, one in enumerate(predictors) if one.kind != "score"}
    halves = random_halves(values.shape[2], splits=splits, seed=seed)
    pairs = list(itertools.permutations(range(len(data)), 2)) or [(0, 0)]
    found = []
    for target, (a, b) in itertools.product(targets, pairs):
        measured = np.asarray(target.values)
        chosen_by = (values[:, a], measured[a])
        same = choose_and_test(chosen_by, chosen_by, groups, halves)
        other = choose_and_test(chosen_by, (values[:, b], measured[b]), groups, halves)
        for name, rows in groups.items():
            both, choices = other[name].held_out, other[name].choice.tolist()
            best = max(dict.fromkeys(choices), key=choices.count)
            found.append(
                HeldOut(
                    family=name,
                    candidates=len(rows),
                    target=target.name,
                    chosen_on=data[a],
                    tested_on=data[b],
                    apparent=float(other[name].apparent.mean()),
                    encoders=float(same[name].held_out.mean()),
                    both=float(both.mean()),
                    both_sd=float(both.std()),
                    both_low=float(np.quantile(both, 0.05)),
                    both_high=float(np.quantile(both, 0.95)),
                    choice=predictors[best].name,
                    choice_share=choices.count(best) / len(choices),
                )
            )
    return found
