"""Results that the tests of reports share."""

from __future__ import annotations

import dataclasses
from typing import Any

from result_example import example

from synbench_fast.results.records import Result
from synbench_fast.results.structure import FamilyResult, FamilyScore, StructureScore
from synbench_fast.results.suite import SuiteResult, combine

HOSTILE = "</script><img src=x onerror=alert(1)>"


def suite(spec: str = "builtin:conv", shift: float = 0.0) -> SuiteResult:
    """A suite of two tasks with made-up numbers."""
    one = example(spec)
    two = dataclasses.replace(
        one,
        task=dataclasses.replace(one.task, pattern="random"),
        scores=[dataclasses.replace(s, score=s.score - 0.2 - shift) for s in one.scores],
    )
    results = [one, two]
    scores = []
    for index, s in enumerate(one.scores):
        values = [r.scores[index].score for r in results]
        scores.append(
            combine(values, [0.01, 0.01], noise=[0, 0], names=["a", "b"], eps=s.eps, threshold=s.threshold)
        )
    return SuiteResult(
        suite="two", tasks=["a", "b"], scores=scores, results=results, warnings=["b: few"], command="run"
    )


def structured(one: Result, score: float, stderr: float = 0.01) -> Result:
    """The result with this structure score, of one family."""
    return dataclasses.replace(one, structure=StructureScore(**_family_fields(score, stderr)))


def family(task: str, score: float, optimum: float) -> FamilyResult:
    """A task of a family with made-up numbers."""
    return FamilyResult(**_family_fields(score, 0.01), task=task, samples=26, optimum=optimum)


def _family_fields(score: float, stderr: float) -> dict[str, Any]:
    one = FamilyScore(
        family="texture", level=0.33, score=score, stderr=stderr, accuracy=0.05 + 0.95 * score, pair_accuracy=0.75,
        worst_pair=0.5, classes=20,
    )  # fmt: skip
    half = 1.959964 * stderr
    return {
        "score": score, "stderr": stderr, "ci95_low": score - half, "ci95_high": score + half, "families": [one],
        "images": 520, "seconds": 1.0,
    }  # fmt: skip
