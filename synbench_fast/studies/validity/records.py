"""What a validation reports of encoders, data, predictors, measured quantities and their correlations."""

from __future__ import annotations

from dataclasses import dataclass

from synbench_fast.results.codec import nan_field

__all__ = ["Correlation", "DataSummary", "EncoderSummary", "HeldOut", "Predictor", "Target"]


@dataclass(frozen=True, kw_only=True)
class EncoderSummary:
    """One encoder; `spec` and `weights_sha256` as in a result, `parameters` None where they cannot be counted."""

    name: str
    spec: str
    weights_sha256: str
    parameters: int | None
    features: int


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """One data set and the sizes of its parts; `sha256` as in a probe's document."""

    name: str
    classes: int
    train: int
    test: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A number per encoder that is to predict its quality.

    `kind`: "structure" for the structure score and its families, "score" for published scores, or "baseline".
    `sees`: "nothing" of the data, their "inputs", or "labels" too. `task`, `eps` and `threshold` belong to scores
    and areas, and are "" and None elsewhere. `values` [data sets][encoders]: equal rows where nothing is seen.
    """

    name: str
    kind: str
    sees: str
    task: str
    eps: float | None
    threshold: float | None
    values: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A measured quantity: "clean", "l2 R" or "linf R" accuracy of the linear probe; [data sets][encoders]."""

    name: str
    values: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """A coefficient with its 95 % interval, on one data set or "overall"; see docs/validity.md."""

    predictor: str
    target: str
    data: str
    coefficient: str
    value: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Spearman's coefficient of what one half of the encoders chose among the candidates of a family.

    `family`: a task, "any task", or a single predictor, of which nothing is chosen. Means over random halves:
    `apparent` on the half that chose and the data set `chosen_on`, `encoders` on the other half and the same data
    set, `both` on the other half and `tested_on`, with its standard deviation and 5 % and 95 % quantiles over the
    halves. With a single data set `both` is `encoders`. `choice` is the candidate chosen most often, in a share
    `choice_share` of the halves.
    """

    family: str
    candidates: int
    target: str
    chosen_on: str
    tested_on: str
    apparent: float
    encoders: float
    both: float
    both_sd: float
    both_low: float
    both_high: float
    choice: str
    choice_share: float
