"""What a suite returns: the mean and the worst score over its tasks with their errors, and all results."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.codec import TABLE, Mismatch, nan_field
from synbench_fast.results.documents import Document
from synbench_fast.results.records import CONFIDENCE_95, EncoderRecord, Result, with_error
from synbench_fast.results.structure import FamilyResult, mean_score

__all__ = ["SUITE_COLUMNS", "SUITE_SCHEMA", "SUITE_SCHEMA_VERSION", "SuiteResult", "SuiteScore", "combine"]

SUITE_SCHEMA = "synbench-fast/suite"
SUITE_SCHEMA_VERSION = 4
SUITE_COLUMNS = (
    "task", "pattern", "covariance", "family", "level", "classes", "accuracy", "pair_accuracy", "worst_pair", "optimum",
)  # fmt: skip
"""Columns in front of those of a result: what tells tasks apart, and what only tasks of families have."""
_TAIL = 0.025  # of each end of a 95 % interval


@dataclass(frozen=True, kw_only=True)
class SuiteScore:
    """Mean and worst score over the tasks at one budget and threshold; NaN where a task has none there.

    `worst_stderr` is that of the task named; it knows nothing of the choice, the interval does.
    """

    eps: float
    threshold: float
    mean: float = nan_field()
    mean_stderr: float = nan_field()
    mean_ci95_low: float = nan_field()
    mean_ci95_high: float = nan_field()
    worst: float = nan_field()
    worst_task: str
    worst_stderr: float = nan_field()
    worst_ci95_low: float = nan_field()
    worst_ci95_high: float = nan_field()


def combine(
    score: Sequence[float] | NDArray[np.float64],
    stderr: Sequence[float] | NDArray[np.float64],
    noise: Sequence[int],
    *,
    names: Sequence[str],
    eps: float,
    threshold: float,
) -> SuiteScore:
    """Mean and minimum of the scores of n tasks, with 95 % intervals.

    Mean: the errors of tasks that share noise are added as if fully correlated, those of different noise in
    quadrature; the interval is +- 1.96 of it.

    Worst: with z(p) the normal quantile, the interval of the smallest true score is

        low = min_i (score_i - z(0.975) stderr_i),   high = min_i (score_i + z(1 - 0.025/n) stderr_i).

    low exceeds the smallest true score only if it exceeds that of the very task that is worst, which happens
    with probability 0.025; high falls below it only if one of the n upper bounds fails, with at most
    n (0.025/n) (Bonferroni). Both hold whatever the dependence between tasks.

    A standard error of 0 is that of a task of which no scale exceeded the threshold: its score is 0 as far as
    seen, and nothing is known of how far above 0 it may be. It takes no part in `high`, which is NaN if no task
    is left; the mean's error has nothing of it, so the mean's interval is then too narrow.

    Args:
        score, stderr: of each task.
        noise: a number for each task, equal where tasks share noise.
        names: of the tasks.
    """
    s, error, count = np.asarray(score, dtype=float), np.asarray(stderr, dtype=float), len(names)
    normal = NormalDist()
    one_sided, simultaneous = normal.inv_cdf(1 - _TAIL), normal.inv_cdf(1 - _TAIL / count)
    shared: dict[int, list[int]] = {}
    for place, word in enumerate(noise):
        shared.setdefault(word, []).append(place)
    together = [float(error[places].sum()) for places in shared.values()]
    mean, mean_stderr = float(s.mean()), math.sqrt(sum(one * one for one in together)) / count
    known = bool(np.isfinite(s).all())
    worst = int(s.argmin()) if known else 0
    upper = float(np.where(error == 0, np.inf, s + simultaneous * error).min())
    return SuiteScore(
        eps=eps,
        threshold=threshold,
        mean=mean,
        mean_stderr=mean_stderr if known else math.nan,
        mean_ci95_low=mean - one_sided * mean_stderr,
        mean_ci95_high=mean + one_sided * mean_stderr,
        worst=float(s[worst]) if known else math.nan,
        worst_task=names[worst] if known else "",
        worst_stderr=float(error[worst]) if known else math.nan,
        worst_ci95_low=float((s - one_sided * error).min()),
        worst_ci95_high=upper if math.isfinite(upper) else math.nan,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class SuiteResult(Document):
    """Scores of one encoder on a suite of tasks.

    `tasks` are the names of those of two Gaussian classes, `results` their results in that order, and `scores` the mean
    and the worst of them. `families` are the results of the tasks whose classes are those of a family.
    """

    schema: str = SUITE_SCHEMA
    schema_version: int = SUITE_SCHEMA_VERSION
    suite: str
    tasks: list[str]
    scores: list[SuiteScore] = field(metadata=TABLE)
    results: list[Result]
    families: list[FamilyResult] = field(default_factory=list)
    warnings: list[str]
    command: str

    def parts(self) -> list[tuple[str, Document]]:
        return [(f"results[{place}].", one) for place, one in enumerate(self.results)]

    def check(self) -> None:
        if not self.results or len(self.tasks) != len(self.results):
            raise Mismatch(
                "results",
                "one per task and at least one",
                f"{len(self.results)} for {len(self.tasks)} tasks",
            )
        for place, result in enumerate(self.results):
            try:
                result.check()
            except Mismatch as error:
                raise error.inside(f"results[{place}]") from None
        for place, one in enumerate(self.families):
            if not one.families:
                raise Mismatch(f"families[{place}].families", "at least one level", "none")
        first = self.results[0]
        grid = [(eps, threshold) for eps in first.eps for threshold in first.thresholds]
        if [(one.eps, one.threshold) for one in self.scores] != grid:
            raise Mismatch("scores", "one for every eps, then threshold", f"{len(self.scores)} others")

    @property
    def encoder(self) -> EncoderRecord:
        """The encoder, the same in all results."""
        return self.results[0].encoder

    @property
    def family_mean(self) -> tuple[float, float]:
        """Mean score of the tasks of families, with its standard error; of the suite `structure` the structure score.

        Families and levels draw samples of their own, so that the errors add in quadrature. NaN without such tasks.
        """
        return mean_score(self.families) if self.families else (math.nan, math.nan)

    def result(self, task: str) -> Result:
        """The result of one task of two Gaussian classes, by its name."""
        if task not in self.tasks:
            raise SynbenchError(
                f"task: expected one of {', '.join(self.tasks)}, got {task!r}{suggest(str(task), self.tasks)}"
            )
        return self.results[self.tasks.index(task)]

    def score(self, eps: float | None = None, threshold: float | None = None) -> SuiteScore:
        """Mean and worst at one budget and threshold; by default the first budget and the lowest threshold."""
        found = self.results[0].score(eps, threshold)
        for one in self.scores:
            if (one.eps, one.threshold) == (found.eps, found.threshold):
                return one
        raise SynbenchError(
            f"scores: expected an entry at eps {found.eps:g}, threshold {found.threshold:g}, got none"
        )

    def summary(self) -> str:
        """A few lines for a person: the tasks' scores at the lowest threshold, their mean and the worst."""
        first = self.results[0]
        lines = [f"{self.encoder.title}: suite {self.suite}, score above accuracy {min(first.thresholds):g}"]
        for name, result in zip(self.tasks, self.results, strict=True):
            scores = (result.score(eps) for eps in first.eps)
            listed = ", ".join(f"eps {one.eps:g}: {with_error(one.score, one.stderr)}" for one in scores)
            lines.append(f"  {name}: {listed}")
        for eps in first.eps:
            one = self.score(eps)
            lines.append(
                f"  eps {eps:g}: mean {with_error(one.mean, one.mean_stderr)}, worst {one.worst:.4f} "
                f"({one.worst_task}), 95 % interval {one.worst_ci95_low:.4f} to {one.worst_ci95_high:.4f}"
            )
        for family in self.families:
            known = "" if math.isnan(family.optimum) else f" (the optimum's {family.optimum:.4f})"
            lines.append(
                f"  {family.task}: {with_error(family.score, family.stderr)}, accuracy of {family.classes} classes "
                f"{family.accuracy:.4f}, of pairs {family.pair_accuracy:.4f}{known}, of the worst {family.worst_pair:.4f}"
            )
        if self.families:
            lines.append(f"  families: mean {with_error(*self.family_mean)}")
        return "\n".join(lines)

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """The rows of all results, with the columns SUITE_COLUMNS in front of the columns of each.

        Two more tasks follow: `mean`, and `worst` with the pattern and covariance of the one that is. Then come the tasks
        of families and their mean, `families`, which have no budget and no threshold.
        """
        empty = dict.fromkeys(SUITE_COLUMNS)
        rows: list[dict[str, str | int | float | None]] = [
            {
                **empty,
                "task": name,
                "pattern": result.task.pattern,
                "covariance": result.task.covariance,
                **row,
            }
            for name, result in zip(self.tasks, self.results, strict=True)
            for row in result.rows()
        ]
        for kind in ("mean", "worst"):
            for one in self.scores:
                found = self.result(one.worst_task).task if kind == "worst" and one.worst_task else None
                values = {
                    "score": getattr(one, kind),
                    "stderr": getattr(one, f"{kind}_stderr"),
                    "ci95_low": getattr(one, f"{kind}_ci95_low"),
                    "ci95_high": getattr(one, f"{kind}_ci95_high"),
                }
                rows.append(
                    {
                        **dict.fromkeys(rows[0]),
                        "task": kind,
                        "pattern": found.pattern if found else None,
                        "covariance": found.covariance if found else None,
                        "encoder": self.encoder.spec,
                        "eps": one.eps,
                        "threshold": one.threshold,
                        **{key: value if math.isfinite(value) else None for key, value in values.items()},
                    }
                )
        empty = dict.fromkeys(rows[0])
        return [*rows, *({**empty, **row} for row in self.family_rows())]

    def family_rows(self) -> list[dict[str, str | int | float | None]]:
        """A row for each task of a family, and one for their mean; without the columns that these do not have."""
        rows: list[dict[str, str | int | float | None]] = []
        if not self.families:
            return rows
        for one in self.families:
            row: dict[str, str | int | float | None] = {
                "task": one.task,
                "family": one.family,
                "level": ",".join(f"{level:g}" for level in one.levels),
                "classes": one.classes,
                "accuracy": one.accuracy,
                "pair_accuracy": one.pair_accuracy,
                "worst_pair": one.worst_pair,
                "optimum": None if math.isnan(one.optimum) else one.optimum,
                "samples": one.samples,
                "images": one.images,
                "seconds": one.seconds,
            }
            rows.append({**row, **_interval(one.score, one.stderr)})
        rows.append({"task": "families", **_interval(*self.family_mean)})
        return [{"encoder": self.encoder.spec, "seed": self.results[0].seed, **row} for row in rows]

    def file_name(self) -> str:
        """File name of this encoder, suite and configuration: a readable spec, then a hash of the rest."""
        parts: list[Any] = [self.suite, self.tasks, [one.file_name() for one in self.results]]
        if self.families:
            parts.append(
                [[one.task, one.family, one.levels, one.classes, one.samples] for one in self.families]
            )
        text = json.dumps(parts)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", self.encoder.spec).strip("._")[:100]
        return f"{readable or 'encoder'}-suite-{digest}.json"


def _interval(score: float, stderr: float) -> dict[str, float | None]:
    """The columns of a score; an unknown error is None."""
    half = CONFIDENCE_95 * stderr
    values = {"score": score, "stderr": stderr, "ci95_low": score - half, "ci95_high": score + half}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
