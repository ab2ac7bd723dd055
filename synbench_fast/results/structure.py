"""What a result says of the structure score, and a suite of its tasks of one family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from synbench_fast.results.codec import nan_field

__all__ = [
    "LABEL_FREE",
    "FamilyResult",
    "FamilyScore",
    "FeatureMetric",
    "StructureScore",
    "are_images",
    "mean_metrics",
    "mean_score",
    "metric_cells",
]

# As in stats/label_free.py, which imports torch.
LABEL_FREE = (
    "rankme", "effective_rank", "alpha_req", "nesum", "isotropy", "uniformity", "twonn", "lidar",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FeatureMetric:
    """A label-free metric of the features of one family's images, see `stats.label_free`; NaN where it is not defined."""

    name: str
    value: float = nan_field()
    stderr: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class FamilyScore:
    """One family: `score` is (accuracy - 1/K) / (1 - 1/K), the accuracy that of K classes on left-out images.

    pair_accuracy is the mean over all pairs of classes, worst_pair the smallest of them. `metrics` are the label-free
    metrics of the same features, none where they were not asked for.
    """

    family: str
    level: float
    classes: int
    score: float
    stderr: float
    accuracy: float
    pair_accuracy: float
    worst_pair: float
    metrics: list[FeatureMetric] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StructureScore:
    """Mean of the families' scores, with its standard error and 95 % interval, and the images that it took."""

    score: float
    stderr: float
    ci95_low: float
    ci95_high: float
    images: int
    seconds: float
    families: list[FamilyScore]

    @property
    def metrics(self) -> list[FeatureMetric]:
        """Label-free metrics, each the mean over the families that have it, with its standard error; NaN is no value.

        The images of families are independent, so that errors add in quadrature. LiDAR is that of `instances` alone.
        """
        return mean_metrics([one.metrics for one in self.families])

    def summary(self) -> str:
        """One line: the score, its error, and the profile over families."""
        profile = ", ".join(f"{one.family} {one.score:.2f}" for one in self.families)
        return f"structure: {self.score:.4f} ± {self.stderr:.4f} ({profile}; {self.images} images)"


@dataclass(frozen=True, kw_only=True)
class FamilyResult(StructureScore):
    """A task of a suite whose classes are those of a family: the mean over its levels, each an entry of `families`.

    `samples` are those of each class in a block. `optimum` is the accuracy of the best possible classifier of two classes,
    the mean over the levels, to be compared with `pair_accuracy`; NaN where it is not known, see `Family.pair_optimum`.
    """

    task: str
    samples: int
    optimum: float = nan_field()

    @property
    def family(self) -> str:
        """The name of the family."""
        return self.families[0].family

    @property
    def classes(self) -> int:
        """K."""
        return self.families[0].classes

    @property
    def levels(self) -> list[float]:
        """The levels of the family."""
        return [one.level for one in self.families]

    @property
    def accuracy(self) -> float:
        """Of K classes, the mean over the levels."""
        return fmean(one.accuracy for one in self.families)

    @property
    def pair_accuracy(self) -> float:
        """The mean over all pairs of classes and over the levels."""
        return fmean(one.pair_accuracy for one in self.families)

    @property
    def worst_pair(self) -> float:
        """The pair accuracy of the pair that is told apart worst at any level."""
        return min(one.worst_pair for one in self.families)


def mean_metrics(several: Sequence[Sequence[FeatureMetric]]) -> list[FeatureMetric]:
    """Metrics by name, the mean of those of independent samples that have a value."""
    found = []
    for name in dict.fromkeys(one.name for metrics in several for one in metrics):
        those = [
            one for metrics in several for one in metrics if one.name == name and math.isfinite(one.value)
        ]
        count = len(those) or 1
        found.append(
            FeatureMetric(
                name=name,
                value=fmean(one.value for one in those) if those else math.nan,
                stderr=math.sqrt(sum(one.stderr**2 for one in those)) / count if those else math.nan,
            )
        )
    return found


def metric_cells(structure: StructureScore | None) -> dict[str, float | None]:
    """Value and standard error of every label-free metric as cells of a table; None where there is none."""
    known = {} if structure is None else {one.name: one for one in structure.metrics}
    cells: dict[str, float | None] = {}
    for name in LABEL_FREE:
        one = known.get(name, FeatureMetric(name=name, value=math.nan, stderr=math.nan))
        for column, value in ((name, one.value), (f"{name}_stderr", one.stderr)):
            cells[column] = value if math.isfinite(value) else None
    return cells


def mean_score(scores: Sequence[FamilyScore | StructureScore]) -> tuple[float, float]:
    """The mean of scores whose samples are independent given the classes, and its standard error."""
    score = float(np.mean([one.score for one in scores]))
    return score, math.sqrt(sum(one.stderr**2 for one in scores)) / len(scores)


def are_images(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape have a structure score: `STRUCTURE.refusal` without its import of torch."""
    sides = len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= 8 and max(shape) <= 4096
    return sides and math.prod(shape) <= 2**22
