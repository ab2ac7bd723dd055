"""From measured encoders to the report: predictors and targets that differ between encoders, and their coefficients."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from synbench_fast.engine import environment
from synbench_fast.errors import SynbenchError
from synbench_fast.studies.validity.coefficients import correlations, held_out
from synbench_fast.studies.validity.datasets import DataSet
from synbench_fast.studies.validity.measure import BASELINES, Key, Measured
from synbench_fast.studies.validity.records import DataSummary, EncoderSummary, Predictor, Target
from synbench_fast.studies.validity.report import ValidityReport
from synbench_fast.studies.validity.selection import FEWEST_TO_SPLIT

__all__ = ["analyse"]


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
    names = [one.name for one in data]
    predictors = _predictors(measured, len(data), warnings)
    targets = _targets(measured, names, warnings)
    if len(measured) < FEWEST_TO_SPLIT:
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
        correlations=correlations(predictors, targets, names, resamples, seed),
        held_out=held_out(predictors, targets, names, splits, seed),
        resamples=resamples,
        splits=splits,
        seed=seed,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        warnings=warnings,
        command=command,
    )


def _predictors(measured: Sequence[Measured], data: int, warnings: list[str]) -> list[Predictor]:
    keys: list[tuple[str, str, Key]] = [
        ("structure", "nothing", (name, None, None)) for name in _structure(measured, warnings)
    ]
    keys += [("score", "nothing", key) for key in measured[0].scores]
    keys += [("baseline", sees, (name, None, None)) for name, sees in BASELINES.items()]
    found, left_out = [], []
    for kind, sees, key in keys:
        task, eps, threshold = key
        if kind == "score":
            name = f"score {task} eps={eps:g} a={threshold:g}"
            columns = [[one.scores[key]] * data for one in measured]
        elif kind == "structure":
            name, columns = task, [[one.structure[task]] * data for one in measured]
        else:
            name, columns = task, [one.baselines[task] for one in measured]
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


def _structure(measured: Sequence[Measured], warnings: list[str]) -> list[str]:
    """Names of the structure score and its families; none unless every encoder has them."""
    missing = [one for one in measured if one.structure_missing]
    if missing:
        names = ", ".join(one.name for one in missing)
        warnings.append(
            f"structure: left out, {names} have no structure score: {missing[0].structure_missing}"
        )
    return list(measured[0].structure) if all(one.structure for one in measured) else []


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
