"""score_suite(): one encoder on every task of a suite, and the mean and the worst score over the tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from synbench_fast.config import ScoreConfig, described, signature_of
from synbench_fast.engine.pipeline import Progress
from synbench_fast.engine.score import score_tasks
from synbench_fast.results.records import Result
from synbench_fast.results.structure import FamilyResult
from synbench_fast.results.suite import SuiteResult, combine
from synbench_fast.tasks.structure import FamilyDefinition
from synbench_fast.tasks.suites import Suite, TaskDefinition, load_suite
from synbench_fast.tasks.task import GaussianTask

__all__ = ["collect", "score_suite"]


@described(signature_of)
def score_suite(
    encoder: str | nn.Module | Callable[[Tensor], Tensor],
    *,
    tasks: str | Suite | Sequence[TaskDefinition | FamilyDefinition] = "full",
    name: str | None = None,
    config: ScoreConfig | None = None,
    progress: Progress | bool | None = None,
    **arguments: Any,
) -> SuiteResult:
    """Scores of one encoder on every task of a suite, and their mean and minimum.

    The encoder is loaded once. Tasks draw noise of their own, except for those that differ in prior, centre or
    scales alone; the errors of the mean and of the worst score take that into account, see
    `results.suite.combine`.

    Args:
        encoder, name: as in `score`, of one encoder.
        tasks: see `load_suite`.
        config: as in `score`; prior, center and scales are those of tasks that give none.
        progress: as in `score`.
        arguments: fields of `ScoreConfig` in place of those of `config`.

    Returns:
        SuiteResult: mean and worst over (eps, threshold) of the tasks of two Gaussian classes, the Result of each of
        them, and the FamilyResult of each task whose classes are those of a family.

    Raises:
        SynbenchError: one line that names the argument, or the suite, the task and the key.
    """
    suite, config = load_suite(tasks), ScoreConfig.of(config, arguments)
    made: list[GaussianTask] = []

    def build(shape: tuple[int, ...]) -> list[GaussianTask]:
        made[:] = suite.build(
            shape,
            scales=config.scale_values,
            prior=config.prior,
            center=config.center,
            eps=config.eps,
            threshold=min(config.thresholds),
        )
        return made

    source = str(tasks) if isinstance(tasks, str | Path) else None
    done = score_tasks(encoder, config, progress, build, suite.families, source, name=name)
    return collect(suite, made, *done)


def collect(
    suite: Suite, made: Sequence[GaussianTask], results: list[Result], families: list[FamilyResult]
) -> SuiteResult:
    """The mean and worst score over the tasks of a suite, `made` from it, from the result of each."""
    names = [one.name for one in suite.gaussian]
    noise = [one.noise_word for one in made]
    scores = [
        combine(
            [one.score for one in column],
            [one.stderr for one in column],
            noise,
            names=names,
            eps=column[0].eps,
            threshold=column[0].threshold,
        )
        for column in zip(*(one.scores for one in results), strict=True)
    ]
    warnings = [
        f"{name}: {warning}" for name, one in zip(names, results, strict=True) for warning in one.warnings
    ]
    return SuiteResult(
        suite=suite.name,
        tasks=names,
        scores=scores,
        results=results,
        families=families,
        warnings=warnings,
        command=results[0].command,
    )
