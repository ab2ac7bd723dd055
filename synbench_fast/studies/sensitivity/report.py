"""What a sensitivity analysis reports: scores at every level, effects, seeds, rankings, as a document and as tables."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.records import Environment, with_error
from synbench_fast.studies.base import Report, Table, row_of
from synbench_fast.studies.sensitivity.records import (
    Effect,
    LevelRanking,
    LevelScore,
    MissingRun,
    SeedSpread,
    VariedEncoder,
)

__all__ = ["SENSITIVITY_SCHEMA", "SENSITIVITY_SCHEMA_VERSION", "Sensitivity"]

SENSITIVITY_SCHEMA = "synbench-fast/sensitivity"
SENSITIVITY_SCHEMA_VERSION = 1

_SHOWN = 4  # encoders side by side in 100 columns


@dataclass(frozen=True, kw_only=True, repr=False)
class Sensitivity(Report):
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
    failures: list[MissingRun]
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
        return [row_of(one) for one in self.levels]

    def tables(self) -> Iterator[Table | str]:
        """Scores at every level, the effect of every factor, the seeds, the ranking; all at the first budget."""
        eps = self.eps[0]
        short = {one.label: f"[{number}]" for number, one in enumerate(self.encoders, 1)}
        for one in self.encoders:
            yield (
                f"{short[one.label]} {one.label}: F = {one.encoder.feature_dim}, {len(one.scales)} scales x "
                f"{one.samples} samples, {one.dtype}"
            )
        yield ""
        yield (
            f"score above accuracy {self.threshold:g} at eps {eps:g}, ± one standard error; "
            f"{self.estimator}, seed {self.seed}"
        )
        yield from self._scores(eps, short)
        effects = [one for one in self.effects if one.eps == eps]
        if effects:
            yield ""
            yield "change from the base: the largest, and the largest in standard errors of the change"
            yield _effects(effects, short)
        spreads = [one for one in self.seeds if one.eps == eps]
        if spreads:
            yield ""
            count = max(len(one.seeds) for one in spreads)
            yield f"deviation over {count} seeds against the reported standard error"
            yield _spreads(spreads, short)
        yield from self._swaps(eps, short)
        yield from self.notes
        for failure in self.failures:
            label = short.get(failure.encoder, failure.encoder)
            yield f"failed: {label} {failure.factor} {failure.level}: {failure.reason}"

    def _scores(self, eps: float, short: Mapping[str, str]) -> Iterator[Table | str]:
        """Levels down, encoders across, with tau of each level's ranking; further encoders in further tables."""
        cells = {
            (one.factor, one.level, one.encoder): with_error(one.score, one.stderr)
            for one in self.levels
            if one.eps == eps
        }
        failed = {(one.factor, one.level, one.encoder) for one in self.failures}
        levels = list(dict.fromkeys((factor, level) for factor, level, _ in [*cells, *failed]))
        places = {factor: place for place, factor in enumerate(("base", *self.factors))}
        levels.sort(key=lambda one: places[one[0]])
        taus = {(one.factor, one.level): f"{one.tau:+.2f}" for one in self.rankings if one.eps == eps}
        names = [one.label for one in self.encoders]
        for start in range(0, len(names), _SHOWN):
            part = names[start : start + _SHOWN]
            if start:
                yield ""
            rows = []
            for factor, level in levels:
                row = [factor, "" if factor == "base" else level]
                if taus:
                    row.append(taus.get((factor, level), ""))
                for name in part:
                    key = (factor, level, name)
                    row.append(cells.get(key, "failed" if key in failed else ""))
                rows.append(row)
            columns = ["factor", "level", *(["tau"] if taus else []), *(short[name] for name in part)]
            yield Table(columns, rows, left=2)

    def _swaps(self, eps: float, short: Mapping[str, str]) -> Iterator[str]:
        rankings = [one for one in self.rankings if one.eps == eps]
        if not rankings:
            return
        swapped = [one for one in rankings if one.swaps]
        levels = "level" if len(rankings) == 1 else "levels"
        yield ""
        yield f"ranking: other than the base's at {len(swapped)} of {len(rankings)} {levels}"
        known = {True: "a tie in the base", False: "no tie in the base", None: "unknown in the base"}
        for one in swapped:
            parts = [
                f"{short[swap.ahead]} before {short[swap.behind]} ({known[swap.base_tie]})"
                for swap in one.swaps
            ]
            yield f"  {one.factor} {one.level}: {', '.join(parts)}"

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


def _effects(effects: Sequence[Effect], short: Mapping[str, str]) -> Table:
    columns = [
        "factor", "encoder", "largest", "error", "base errors", "at", "errors", "at", "limit", "verdict",
    ]  # fmt: skip
    rows = [
        [
            one.factor, short[one.encoder], _number(one.change, "+.4f"), _number(one.change_stderr, ".4f"),
            _number(one.base_stderrs, ".1f"), one.level, _number(abs(one.z), ".1f"), one.z_level,
            _number(one.critical_z, ".1f"), one.verdict,
        ]
        for one in effects
    ]  # fmt: skip
    return Table(columns, rows, left=2)


def _spreads(spreads: Sequence[SeedSpread], short: Mapping[str, str]) -> Table:
    columns = ["encoder", "mean", "deviation", "reported", "ratio", "95 % range if right", "consistent"]
    rows = [
        [
            short[one.encoder],
            *(_number(value, ".4f") for value in (one.mean, one.deviation, one.stderr)),
            _number(one.ratio, ".2f"),
            f"{_number(one.ratio_low, '.2f')} to {_number(one.ratio_high, '.2f')}",
            {True: "yes", False: "no", None: "unknown"}[one.consistent],
        ]
        for one in spreads
    ]
    return Table(columns, rows)


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
