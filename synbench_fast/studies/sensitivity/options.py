"""Which factors are varied around which base: the options of `measure_sensitivity`, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from synbench_fast.checks import check_integer
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.studies.base import Study, option

__all__ = ["FACTORS", "SensitivityStudy", "check_options", "labels"]

FACTORS = ("seed", "samples", "scales", "thresholds", "dtype", "preprocessing")


def _factors(name: str, vary: str | Sequence[str] | None) -> tuple[str, ...]:
    if vary is None:
        return FACTORS
    wanted = [part.strip() for part in vary.split(",")] if isinstance(vary, str) else list(vary)
    listed = ", ".join(FACTORS)
    if not wanted or wanted == [""]:
        raise SynbenchError(f"{name}: expected at least one of {listed}, got none")
    for one in wanted:
        if one not in FACTORS:
            raise SynbenchError(f"{name}: expected some of {listed}, got {one!r}{suggest(str(one), FACTORS)}")
        if wanted.count(one) > 1:
            raise SynbenchError(f"{name}: expected every factor once, got {one!r} twice")
    return tuple(one for one in FACTORS if one in wanted)


@dataclass(frozen=True, kw_only=True)
class SensitivityStudy(Study):
    """Options of `measure_sensitivity`.

    Attributes:
        vary: factors out of FACTORS, also as "seed,dtype"; default all.
        seeds: how many seeds the factor seed takes.
    """

    verb: ClassVar[str] = "sensitivity"
    # No table or level of the study has the structure score, and the command has no option for it.
    reads: ClassVar[tuple[str, ...] | None] = tuple(
        one.name for one in fields(ScoreConfig) if one.name != "structure"
    )

    vary: tuple[str, ...] = option(None, _factors)
    seeds: int = 5

    def __post_init__(self) -> None:
        every = self.vary is None  # then what cannot be varied is left out
        super().__post_init__()
        if "seed" in self.vary:
            check_integer("seeds", self.seeds, 2, "at least 2 to see their spread")
            most = 2**64 - self.seeds
            check_integer("seed", self.config.seed, 0, f"an integer below 2^64 - {self.seeds - 1}", most + 1)
        if len(self.config.thresholds) < 2 and "thresholds" in self.vary:
            if not every:
                raise SynbenchError("thresholds: expected at least two to vary them, got one")
            object.__setattr__(self, "vary", tuple(one for one in self.vary if one != "thresholds"))


def check_options(
    encoders: Sequence[Any], vary: str | Sequence[str] | None, seeds: int, config: ScoreConfig
) -> SensitivityStudy:
    """The arguments of `measure_sensitivity`, checked as far as that needs no encoder."""
    if not encoders:
        raise SynbenchError("encoders: expected at least one, got none")
    options = SensitivityStudy.of(config, {"vary": vary, "seeds": seeds})
    options.check_checkpoint(encoders)
    return options


def labels(encoders: Sequence[Any]) -> list[str]:
    """Specs, or names of Python objects; a number is added where several are alike."""
    names = []
    for one in encoders:
        kind = "module" if isinstance(one, nn.Module) else "callable"
        names.append(
            one
            if isinstance(one, str)
            else f"{kind}:{getattr(one, '__qualname__', type(one).__name__).rpartition('.')[2]}"
        )
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})"
        for i, name in enumerate(names)
    ]
