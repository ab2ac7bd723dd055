"""One cell of an inheritance benchmark: one encoder, fine-tuned on one data set by one method with one seed.

Plain data: what the protocol measures, what the statistic and the reports read. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from synbench_fast.results.codec import nan_field
from synbench_fast.studies.cells import CellStore

__all__ = [
    "PRETRAINING",
    "Agreement",
    "Cell",
    "FailedCell",
    "ScoreSummary",
    "TrainingSummary",
    "mean_change",
    "open_store",
]

# The key of the pre-training data's validation part; no data set may have this name.
PRETRAINING = "pre-training"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What single samples of one data set do, as fractions of its samples.

    Attributes:
        same: the prediction before fine-tuning equals the prediction after it.
        both_correct: both are the label.
        lost: correct before, wrong after.
        won: wrong before, correct after.
    """

    same: float
    both_correct: float
    lost: float
    won: float


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """SynBench score of an encoder at one budget and threshold, with its standard error."""

    eps: float
    threshold: float
    score: float
    stderr: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """How the fine-tuning went: optimiser steps, the last epoch's mean loss (NaN without training), seconds."""

    steps: int
    loss: float = nan_field()
    seconds: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (encoder, data set fine-tuned on, method, seed).

    Attributes:
        encoder: its name.
        fine_tuned_on: name of data set i.
        method: name of the method, as the command line has it ("ft", "wise?alpha=0.5", ...).
        seed: of training: order of the samples, added weights, sampled labels.
        accuracy_before, accuracy_after: data set name -> accuracy, of every data set of the suite, i included.
        pretraining_before, pretraining_after: accuracy on the pre-training data set's validation part.
        agreement: data set name -> Agreement, of the same data sets and of PRETRAINING.
        score_before, score_after: SynBench scores of the encoder with the same samples, or None where it was not scored;
            the second is None too where fine-tuning left features that allow none, such as constants.
        distance: name -> distance from data set i to it, of the other data sets and of PRETRAINING; None if not measured.
        training: how the fine-tuning went.
    """

    encoder: str
    fine_tuned_on: str
    method: str
    seed: int
    accuracy_before: dict[str, float]
    accuracy_after: dict[str, float]
    pretraining_before: float
    pretraining_after: float
    agreement: dict[str, Agreement]
    score_before: ScoreSummary | None
    score_after: ScoreSummary | None
    distance: dict[str, float] | None
    training: TrainingSummary

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the data sets j != i, in the order of the suite."""
        return tuple(name for name in self.accuracy_before if name != self.fine_tuned_on)

    @property
    def robustness_improvement(self) -> float:
        """RI_i = mean over j != i of accuracy_after(j) - accuracy_before(j), a fraction."""
        return mean_change(self.accuracy_before, self.accuracy_after, self.others)

    @property
    def pretraining_change(self) -> float:
        """pretraining_after - pretraining_before: negative where fine-tuning forgets."""
        return self.pretraining_after - self.pretraining_before

    @property
    def ood_before(self) -> float:
        """Mean over j != i of accuracy_before(j)."""
        return statistics.fmean(self.accuracy_before[name] for name in self.others)

    @property
    def ood_after(self) -> float:
        """Mean over j != i of accuracy_after(j)."""
        return statistics.fmean(self.accuracy_after[name] for name in self.others)


@dataclass(frozen=True, kw_only=True)
class FailedCell:
    """A cell without numbers, because its fine-tuning did not stay finite; `reason` is one line."""

    encoder: str
    fine_tuned_on: str
    method: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.encoder}: {self.method} on {self.fine_tuned_on}, seed {self.seed}: {self.reason}"


def mean_change(before: dict[str, float], after: dict[str, float], names: tuple[str, ...]) -> float:
    """Mean over `names` of after - before."""
    return statistics.fmean(after[name] - before[name] for name in names)


def open_store(folder: Path | None) -> CellStore[Cell]:
    """The cells of one folder; None keeps nothing."""
    return CellStore(folder, Cell, "inheritance-cell", named=("fine_tuned_on", "method", "seed"))
