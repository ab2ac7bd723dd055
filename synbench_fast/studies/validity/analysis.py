"""From measured encoders to the report: coefficients on each data set and overall, and choices tested elsewhere."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from synbench_fast.engine import environment
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.studies.validity.correlation import (
    COEFFICIENTS,
    FEWEST,
    Bootstrap,
    Estimate,
    average_ranks,
)
from synbench_fast.studies.validity.datasets import DataSet
from synbench_fast.studies.validity.measure import BASELINES, Key, Measured
from synbench_fast.studies.validity.report import (
    Correlation,
    DataSummary,
    EncoderSummary,
    HeldOut,
    Predictor,
    Target,
    ValidityReport,
)
from synbench_fast.studies.validity.selection import FEWEST_TO_SPLIT, choose_and_test, random_halves

__all__ = ["OVERALL", "analyse", "difference", "subset"]

Array = NDArray[np.float64]

OVERALL = "overall"
ANY_TASK = "any task"


def analyse(
    measured: Sequence[Measured],
    data: Sequence[DataSet],
    suite: str,
    *,
    resamples: int,
    splits: int,
    seed: int,
    begun: float,
    command: str = "",
) -> ValidityReport:
    """The report of encoders that are measured; SynbenchError if no predictor or no target differs between them."""
    warnings = [line for one in measured for line in one.warnings]
    predictors = _predictors(measured, len(data), warnings)
    targets = _targets(measured, [one.name for one in data], warnings)
    correlations = _correlations(predictors, targets, [one.name for one in data], resamples, seed)
    held_out: list[HeldOut] = []
    if len(measured) >= FEWEST_TO_SPLIT:
        held_out = _held_out(predictors, targets, [one.name for one in data], splits, seed)
    else:
        warnings.append(
            f"held-out encoders: expected at least {FEWEST_TO_SPLIT} encoders to split in halves, got {len(measured)}"
        )
    return ValidityReport(
        encoders=[
            EncoderSummary(
                name=one.name,
                spec=one.spec,
                weights_sha256=one.weights_sha256,
                parameters=one.parameters,
                features=one.features,
            )
            for one in measured
        ],
        data=[
            DataSummary(
                name=one.name,
                classes=len(one.samples.classes),
                train=len(one.split.train),
                test=len(one.split.test),
                sha256=measured[0].digests[index],
            )
            for index, one in enumerate(data)
        ],
        suite=suite,
        predictors=predictors,
        targets=targets,
        correlations=correlations,
        held_out=held_out,
        resamples=resamples,
        splits=splits,
        seed=seed,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        warnings=warnings,
        command=command,
    )


def subset(report: ValidityReport, encoders: Sequence[str]) -> ValidityReport:
    """The report of some of its encoders, named, from the values that it holds: nothing is measured again.

    Whether a coefficient hangs on which encoders were chosen is seen by leaving some out.
    """
    names = [one.name for one in report.encoders]
    for name in encoders:
        if name not in names:
            raise SynbenchError(
                f"encoders: expected ones of the report ({', '.join(names)}), got {name!r}{suggest(name, names)}"
            )
    rows = [index for index, name in enumerate(names) if name in set(encoders)]
    if len(rows) < FEWEST:
        raise SynbenchError(f"encoders: expected at least {FEWEST} to correlate over, got {len(rows)}")

    def kept(values: Sequence[Sequence[float]]) -> list[list[float]]:
        return [[row[index] for index in rows] for row in values]

    predictors = [replace(one, values=kept(one.values)) for one in report.predictors]
    predictors = [one for one in predictors if any(len(set(row)) > 1 for row in one.values)]
    targets = [replace(one, values=kept(one.values)) for one in report.targets]
    targets = [one for one in targets if all(len(set(row)) > 1 for row in one.values)]
    if not targets or not any(one.kind == "score" for one in predictors):
        raise SynbenchError(
            "encoders: expected some whose scores and accuracies differ, got the same for all"
        )
    held_out: list[HeldOut] = []
    if len(rows) >= FEWEST_TO_SPLIT:
        held_out = _held_out(
            predictors, targets, [one.name for one in report.data], report.splits, report.seed
        )
    return replace(
        report,
        encoders=[report.encoders[index] for index in rows],
        predictors=predictors,
        targets=targets,
        correlations=_correlations(
            predictors, targets, [one.name for one in report.data], report.resamples, report.seed
        ),
        held_out=held_out,
        command="",
    )


def difference(
    report: ValidityReport, first: str, second: str, target: str, data: str, coefficient: str
) -> Estimate:
    """See `ValidityReport.difference`."""
    report.correlation(first, target, data=data, coefficient=coefficient)  # refuses what the report has not
    names = [one.name for one in report.data]
    place = 0 if len(names) == 1 else [*names, OVERALL].index(data)
    bootstrap = Bootstrap(len(report.encoders), resamples=report.resamples, seed=report.seed)

    def prepared(one: Predictor | Target) -> dict[str, tuple[Array, Array, Array]]:
        rows = one.values[:1] if isinstance(one, Predictor) and one.sees == "nothing" else one.values
        return bootstrap.prepare(_with_overall(rows)[place if len(rows) > 1 else 0])

    wanted = next(one for one in report.targets if one.name == target)
    pair = (prepared(report.predictor(first)), prepared(report.predictor(second)))
    return bootstrap.difference(*pair, prepared(wanted), coefficient)


def _predictors(measured: Sequence[Measured], data: int, warnings: list[str]) -> list[Predictor]:
    keys: list[tuple[str, str, Key]] = [("score", "nothing", key) for key in measured[0].scores]
    keys += [("baseline", sees, (name, None, None)) for name, sees in BASELINES.items()]
    found, left_out = [], []
    for kind, sees, key in keys:
        task, eps, threshold = key
        if kind == "score":
            name = f"score {task} eps={eps:g} a={threshold:g}"
            columns = [[one.scores[key]] * data for one in measured]
        else:
            name = task
            columns = [one.baselines[task] for one in measured]
        rows = [list(row) for row in zip(*columns, strict=True)]
        if not np.isfinite(rows).all() or all(len(set(row)) == 1 for row in rows):
            left_out.append((kind, name))
            continue
        found.append(
            Predictor(
                name=name,
                kind=kind,
                sees=sees,
                task=task if kind == "score" else "",
                eps=eps,
                threshold=threshold,
                values=rows,
            )
        )
    if not any(one.kind == "score" for one in found):
        raise SynbenchError(
            "score: expected one that is known and differs between encoders, got none of "
            f"{sum(kind == 'score' for kind, _, _ in keys)}"
        )
    if left_out:
        listed = ", ".join(name for _, name in left_out)
        warnings.append(f"left out, the same for all encoders or unknown for some: {listed}")
    return found


def _targets(measured: Sequence[Measured], names: list[str], warnings: list[str]) -> list[Target]:
    targets = []
    for name in measured[0].targets:
        values = [list(row) for row in zip(*(one.targets[name] for one in measured), strict=True)]
        alike = [data for data, row in zip(names, values, strict=True) if len(set(row)) == 1]
        if alike:
            warnings.append(
                f"{name} accuracy: left out, the same for all encoders on {', '.join(alike)}: "
                f"{values[names.index(alike[0])][0]:g}"
            )
            continue
        targets.append(Target(name=name, values=values))
    if not targets:
        raise SynbenchError("data: expected an accuracy that differs between encoders, got the same for all")
    return targets


def _correlations(
    predictors: Sequence[Predictor],
    targets: Sequence[Target],
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> list[Correlation]:
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


def _held_out(
    predictors: Sequence[Predictor], targets: Sequence[Target], data: Sequence[str], splits: int, seed: int
) -> list[HeldOut]:
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
