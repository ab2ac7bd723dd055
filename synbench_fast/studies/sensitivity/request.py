"""Which factors are varied around which base: the arguments of `sensitivity`, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from synbench_fast.checks import check_integer
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError, suggest

__all__ = ["FACTORS", "Request", "check_request", "labels", "replay"]

FACTORS = ("seed", "samples", "scales", "thresholds", "dtype", "preprocessing")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Checked factors, number of seeds, and the arguments of the base."""

    factors: tuple[str, ...]
    seeds: int
    config: ScoreConfig


def check_request(
    encoders: Sequence[Any], vary: str | Sequence[str] | None, seeds: int, config: ScoreConfig
) -> Request:
    """The arguments of `sensitivity`, checked as far as that needs no encoder."""
    if not encoders:
        raise SynbenchError("encoders: expected at least one, got none")
    factors = _factors(vary)
    if "seed" in factors:
        check_integer("seeds", seeds, 2, "at least 2 to see their spread")
    if config.checkpoint is not None and len(encoders) > 1:
        raise SynbenchError(
            f"checkpoint: expected a single encoder to load it into, got {len(encoders)} encoders"
        )
    if "seed" in factors:
        check_integer("seed", config.seed, 0, f"an integer below 2^64 - {seeds - 1}", 2**64 - seeds + 1)
    if len(config.thresholds) < 2 and "thresholds" in factors:
        if vary is not None:
            raise SynbenchError("thresholds: expected at least two to vary them, got one")
        factors = tuple(one for one in factors if one != "thresholds")
    return Request(factors=factors, seeds=seeds, config=config)


def _factors(vary: str | Sequence[str] | None) -> tuple[str, ...]:
    if vary is None:
        return FACTORS
    wanted = [part.strip() for part in vary.split(",")] if isinstance(vary, str) else list(vary)
    listed = ", ".join(FACTORS)
    if not wanted or wanted == [""]:
        raise SynbenchError(f"vary: expected at least one of {listed}, got none")
    for one in wanted:
        if one not in FACTORS:
            raise SynbenchError(f"vary: expected some of {listed}, got {one!r}{suggest(str(one), FACTORS)}")
        if wanted.count(one) > 1:
            raise SynbenchError(f"vary: expected every factor once, got {one!r} twice")
    return tuple(one for one in FACTORS if one in wanted)


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


def replay(encoders: Sequence[Any], request: Request) -> str:
    """The shell line that repeats it; empty where no shell line can."""
    if not all(isinstance(one, str) for one in encoders):
        return ""
    return request.config.command(
        *encoders, verb="study sensitivity", vary=list(request.factors), seeds=request.seeds
    )
