"""What a sensitivity analysis reports of encoders, levels, effects, seeds and rankings."""

from __future__ import annotations

from dataclasses import dataclass

from synbench_fast.results.codec import nan_field
from synbench_fast.results.records import EncoderRecord

__all__ = [
    "Effect",
    "LevelRanking",
    "LevelScore",
    "MissingRun",
    "SeedSpread",
    "Swap",
    "VariedEncoder",
]


@dataclass(frozen=True, kw_only=True)
class VariedEncoder:
    """An encoder and its base run: `samples` per scale (per half for `paper`), what it ran in, and the cost of all."""

    label: str
    encoder: EncoderRecord
    scales: list[float]
    samples: int
    center: float
    dtype: str
    device: str
    images: int
    seconds: float
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class LevelScore:
    """A score at one level of one factor (factor and level `base` for the base) and its change from the base.

    `setting` says what the level is for this encoder. `paired` means that the error of the change uses that both
    runs saw the same samples; otherwise it is the one of independent runs. z is change / change_stderr.
    """

    factor: str
    level: str
    setting: str
    encoder: str
    eps: float
    threshold: float
    score: float = nan_field()
    stderr: float = nan_field()
    change: float = nan_field()
    change_stderr: float = nan_field()
    z: float = nan_field()
    paired: bool


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a factor does to one encoder: its largest change, and the largest in standard errors of the change.

    `base_stderrs` is the largest change in standard errors of the base's score. `more_than_noise` is whether the
    largest |z| exceeds `critical_z`; None where no error is known.
    """

    factor: str
    encoder: str
    eps: float
    level: str
    change: float = nan_field()
    change_stderr: float = nan_field()
    base_stderrs: float = nan_field()
    z_level: str
    z: float = nan_field()
    critical_z: float = nan_field()
    more_than_noise: bool | None

    @property
    def verdict(self) -> str:
        """`noise`; `real`; `small`: real, but below one standard error of the base's score; `unknown`."""
        if self.more_than_noise is None:
            return "unknown"
        if not self.more_than_noise:
            return "noise"
        return "small" if self.base_stderrs < 1 else "real"


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Observed deviation of the score over seeds against the reported standard error (root mean square).

    If that error is right, `ratio` lies between `ratio_low` and `ratio_high` with 95 %.
    """

    encoder: str
    eps: float
    seeds: list[int]
    mean: float = nan_field()
    deviation: float = nan_field()
    stderr: float = nan_field()
    ratio: float = nan_field()
    ratio_low: float = nan_field()
    ratio_high: float = nan_field()
    consistent: bool | None


@dataclass(frozen=True, kw_only=True)
class Swap:
    """`ahead` is behind `behind` in the base and ahead at a level. `base_tie`: the base could not tell them apart."""

    ahead: str
    behind: str
    base_tie: bool | None


@dataclass(frozen=True, kw_only=True)
class LevelRanking:
    """Kendall's tau between the ranking of the base and that of one level, over the encoders that both have."""

    factor: str
    level: str
    eps: float
    encoders: list[str]
    tau: float
    swaps: list[Swap]


@dataclass(frozen=True, kw_only=True)
class MissingRun:
    """A run that gave no score, and why; level `base` means that the encoder is missing altogether."""

    encoder: str
    factor: str
    level: str
    reason: str
