"""Results that the tests of reports share."""

from __future__ import annotations

import dataclasses

from result_example import example

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
