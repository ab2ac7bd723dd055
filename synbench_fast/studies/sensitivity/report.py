"""What a sensitivity analysis reports: scores at every level, effects, seeds, rankings, as a document."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.documents import Document, nan_field
from synbench_fast.results.records import EncoderRecord, Environment

__all__ = [
    "SENSITIVITY_SCHEMA",
    "SENSITIVITY_SCHEMA_VERSION",
    "Effect",
    "Failure",
    "LevelRanking",
    "LevelScore",
    "SeedSpread",
    "Sensitivity",
    "Swap",
    "VariedEncoder",
]

SENSITIVITY_SCHEMA = "synbench-fast/sensitivity"
SENSITIVITY_SCHEMA_VERSION = 1


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
class Failure:
    """A run that gave no score, and why; level `base` means that the encoder is missing altogether."""

    encoder: str
    factor: str
    level: str
    reason: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Sensitivity(Document):
    """Scores at every level of every factor, and what follows from them; eps runs over all budgets of the base.

    Levels of `thresholds` are the base's own thresholds; all others are at the lowest one, `threshold`.
    """

    schema: str = SENSITIVITY_SCHEMA
    schema_version: int = SENSITIVITY_SCHEMA_VERSION
    factors: list[str]
    estimator: str
    seed: int
    eps: list[float]
    threshold: float
    prior: float
    encoders: list[VariedEncoder]
    levels: list[LevelScore]
    effects: list[Effect]
    seeds: list[SeedSpread]
    rankings: list[LevelRanking]
    failures: list[Failure]
    notes: list[str]
    environment: Environment
    command: str

    def effect(self, factor: str, encoder: str | None = None, eps: float | None = None) -> Effect:
        """The effect of one factor; by default on the first encoder, at the first budget."""
        label = self.encoders[0].label if encoder is None else encoder
        budget = self.eps[0] if eps is None else eps
        for one in self.effects:
            if (one.factor, one.encoder, one.eps) == (factor, label, budget):
                return one
        known = sorted({one.factor for one in self.effects})
        raise SynbenchError(
            f"effect: expected one of {', '.join(known)} with an encoder and eps of this document, "
            f"got {factor!r}, {label!r}, {budget!r}{suggest(str(factor), known)}"
        )

    def summary(self) -> str:
        """A line per encoder and factor at the first budget."""
        lines = [f"changes of the score above accuracy {self.threshold:g} at eps {self.eps[0]:g}"]
        for one in self.effects:
            if one.eps == self.eps[0]:
                lines.append(
                    f"  {one.encoder}: {one.factor} up to {one.change:+.4f} ({one.level}), "
                    f"{abs(one.z):.1f} standard errors ({one.z_level}): {one.verdict}"
                )
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per factor, level, encoder and eps; None where a value is not finite."""
        return [
            {key: None if value != value else value for key, value in dataclasses.asdict(one).items()}
            for one in self.levels
        ]

    def file_name(self) -> str:
        """File name of these encoders, factors and settings."""
        document = self.to_dict()
        names = ("factors", "estimator", "seed", "eps", "threshold", "prior", "command")
        settings = [
            {key: value for key, value in one.items() if key not in ("seconds", "warnings")}
            for one in document["encoders"]
        ]
        text = json.dumps([[document[key] for key in names], settings], sort_keys=True)
        first = re.sub(r"[^A-Za-z0-9._-]+", "_", self.encoders[0].label).strip("._")[:80]
        return f"sensitivity-{first or 'encoder'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
