"""How well features separate more than two classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from synbench_fast.results.codec import TABLE, nan_field
from synbench_fast.results.documents import Document

__all__ = ["MULTICLASS_SCHEMA", "MULTICLASS_SCHEMA_VERSION", "MulticlassResult", "PairAccuracy"]

MULTICLASS_SCHEMA = "synbench-fast/multiclass"
MULTICLASS_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PairAccuracy:
    """Accuracy of the linear classifier of two classes, named by their labels, with its standard error."""

    first: int
    second: int
    accuracy: float
    stderr: float = nan_field()


@dataclass(frozen=True, kw_only=True, repr=False)
class MulticlassResult(Document):
    """Linear separability of K classes, with standard errors and 95 % intervals; all classes have the same weight.

    Attributes:
        estimator: "consistent" and "gaussian" speak of the classifier that the population has, "counted" of that which
            these samples give.
        labels, samples: the K labels in increasing order, and the number of samples of each.
        feature_dim, rank: F, and how many directions of the features vary within the classes.
        accuracy: of the linear discriminant that chooses among all K classes.
        pair_accuracy: mean over the K (K - 1)/2 pairs of classes of the accuracy of the pair's linear discriminant.
        worst_pair: the pair with the smallest estimate. Its standard error knows nothing of the choice; the interval
            worst_ci95_low to worst_ci95_high does: it is that of the smallest accuracy of all pairs.
        pairs: all pairs.
        warnings: among others, why errors or intervals are NaN.
    """

    schema: str = MULTICLASS_SCHEMA
    schema_version: int = MULTICLASS_SCHEMA_VERSION
    estimator: str
    labels: list[int]
    samples: list[int]
    feature_dim: int
    rank: int
    accuracy: float
    stderr: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()
    pair_accuracy: float
    pair_stderr: float = nan_field()
    pair_ci95_low: float = nan_field()
    pair_ci95_high: float = nan_field()
    worst_pair: PairAccuracy
    worst_ci95_low: float = nan_field()
    worst_ci95_high: float = nan_field()
    pairs: list[PairAccuracy] = field(metadata=TABLE)
    warnings: list[str]

    @property
    def chance(self) -> float:
        """1/K, the accuracy of guessing."""
        return 1 / len(self.labels)

    def summary(self) -> str:
        """The three numbers with their errors, one on each line, then the warnings."""
        worst = self.worst_pair
        lines = [
            f"{len(self.labels)} classes, {sum(self.samples)} samples, {self.feature_dim} features, {self.estimator}",
            f"accuracy:             {_with_interval(self.accuracy, self.ci95_low, self.ci95_high)}",
            f"mean pair accuracy:   {_with_interval(self.pair_accuracy, self.pair_ci95_low, self.pair_ci95_high)}",
            f"worst pair accuracy:  {_with_interval(worst.accuracy, self.worst_ci95_low, self.worst_ci95_high)}"
            f"  classes {worst.first} and {worst.second}",
        ]
        return "\n".join([*lines, *(f"warning: {one}" for one in self.warnings)])


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.4f}" + ("" if math.isnan(low) else f"  (95 % interval {low:.4f} to {high:.4f})")
