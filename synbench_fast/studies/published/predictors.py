"""What stored results say of an encoder, as numbers that may predict its accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from synbench_fast.errors import SynbenchError
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SuiteResult

__all__ = ["Document", "check_alike", "first_result", "predictors_of"]

Document = Result | SuiteResult

# Other names of tasks are those of a suite.
_PUBLISHED = ("uniform", "white", 0.5, 0.5)


def first_result(document: Document) -> Result:
    """The result, or the first of a suite, which has the encoder of all."""
    return document if isinstance(document, Result) else document.results[0]


def predictors_of(document: Document) -> dict[str, float]:
    """Numbers by name; NaN where one is not known. The names of scores are those of `validate`.

    - `structure`, and `structure FAMILY` for each of its families; the label-free metrics of its images.
    - `score TASK eps=E a=A`; of a suite also the mean and the worst of the tasks, and `family TASK` of its families.
    - `robust area` and `synthetic accuracy` (at the lowest eps, the mean over the scales) of the first task.
    - `parameters` and `features`.
    """
    suite = document if isinstance(document, SuiteResult) else None
    first = first_result(document)
    found: dict[str, float] = {}
    if first.structure is not None:
        found["structure"] = first.structure.score
        found |= {f"structure {one.family}": one.score for one in first.structure.families}
        found |= {one.name: one.value for one in first.structure.metrics}
    if suite is None:
        found |= _scores(_task_name(first), first)
    else:
        for task, result in zip(suite.tasks, suite.results, strict=True):
            found |= _scores(task, result)
        for one in suite.scores if len(suite.tasks) > 1 else []:
            place = f"eps={one.eps:g} a={one.threshold:g}"
            found |= {f"score mean {place}": one.mean, f"score worst {place}": one.worst}
        found |= {f"family {one.task}": one.score for one in suite.families}
    lowest = min(first.eps)
    found["robust area"] = first.robust_area.value
    found["synthetic accuracy"] = fmean(one.accuracy for one in first.curve if one.eps == lowest)
    count = first.encoder.parameters
    found["parameters"] = math.nan if count is None else float(count)
    found["features"] = float(first.encoder.feature_dim)
    return found


def _scores(task: str, result: Result) -> dict[str, float]:
    return {f"score {task} eps={one.eps:g} a={one.threshold:g}": one.score for one in result.scores}


def _task_name(result: Result) -> str:
    task = result.task
    given = (task.pattern, task.covariance, task.prior, task.center)
    if given == _PUBLISHED:
        return "published"
    return f"{task.pattern}, {task.covariance}, prior {task.prior:g}, center {task.center:g}"


def check_alike(documents: Sequence[Document]) -> list[str]:
    """What differs between the settings of results, one line each.

    Raises:
        SynbenchError: different estimators, integrals or averages, whose scores are different quantities.
    """
    results = [first_result(one) for one in documents]
    for name, values in (
        ("estimator", {one.estimator for one in results}),
        ("integral", {one.integral for one in results}),
        ("average", {one.task.average for one in results}),
    ):
        if len(values) > 1:
            raise SynbenchError(f"results: expected one {name}, got {' and '.join(sorted(values))}")
    differing = [
        (name, len(values))
        for name, values in (
            ("seeds", {one.seed for one in results}),
            ("input shapes", {one.task.shape for one in results}),
            ("lists of scales", {tuple(one.task.scales) for one in results}),
        )
        if len(values) > 1
    ]
    return [f"the results have {count} {name}" for name, count in differing]
