"""The best K of many encoders, without spending on those that are already out of it (successive elimination).

All encoders are scored to a half-width of 8 H, those left to 4 H, to 2 H, and to H, which was asked for; a stage
costs about four times the one before, so that an encoder that is out after the first saves some 98 % of its
images. After every stage an encoder is out if at least K others are better than it, by the paired difference of
their scores (see `compare`), at a level that holds for all pairs and stages together: with P pairs and R stages

    score_j - score_i > z error_ij,   z = Phi^-1((1 + (1 - 0.05/R)^(1/P)) / 2)

(Sidak over the pairs, Bonferroni over the stages), so that with 95 % no encoder of the true best K is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.checks import check_integer
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.fleet.store import Job
from synbench_fast.results.documents import remove_files
from synbench_fast.results.records import Result
from synbench_fast.stats.compare import difference_error, standings, widened
from synbench_fast.stats.estimators import find_estimator

__all__ = ["Race", "Stage", "Standing", "outside", "race"]

STAGES = (8.0, 4.0, 2.0, 1.0)  # half-widths, in units of the one that was asked for
LEVEL = 0.05

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One half-width of all scores: how many encoders reached it, and who was out then."""

    half_width: float
    encoders: int
    out: list[str]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An encoder's last score; `out_after` is the half-width at which it was out, None for those left."""

    encoder: str
    score: float
    stderr: float
    images: int
    out_after: float | None
    result: str


@dataclass(frozen=True, kw_only=True)
class Race:
    """The best K: those left come first, in the order of their scores.

    `settled` says whether exactly `best` encoders are left. `images` were drawn; `images_without` is what scoring
    all encoders to the last half-width would draw, estimated for those that are out from their errors.
    `failures` has the reason of every encoder that could not be scored.
    """

    best: int
    eps: float
    threshold: float
    settled: bool
    stages: list[Stage]
    standings: list[Standing]
    images: int
    images_without: int
    failures: dict[str, str]

    @property
    def left(self) -> list[Standing]:
        return [one for one in self.standings if one.out_after is None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What happened, for a person."""
        found = [
            f"half-width {stage.half_width:g}: {stage.encoders} scored, {len(stage.out)} out"
            for stage in self.stages
        ]
        if not self.standings:
            return [*found, "nothing could be scored"]
        left = len(self.left)
        saved = 1 - self.images / self.images_without
        place = f"at eps {self.eps:g}, above accuracy {self.threshold:g}"
        verdict = (
            f"the best {self.best} {place}"
            if self.settled
            else f"{left} encoders left for {self.best} places {place}: a smaller --half-width may tell them apart"
            if left > self.best
            else f"{left} encoders for {self.best} places {place}"
        )
        return [*found, f"images: {self.images}, about {saved:.0%} fewer than scoring all", verdict]


def outside(scores: Array, errors: Array, rho: Array, best: int, z: Array | float) -> NDArray[np.bool_]:
    """Which of M encoders at least `best` others are better than: scores [M], errors [M], correlations [M, M].

    One whose interval is withheld has a NaN for its error: it is never out, and puts none out.
    """
    gap = scores[:, None] - scores  # of i over j
    better = gap > z * difference_error(errors[:, None], errors, rho)
    return np.asarray(better.sum(0) >= best)


def _outside(
    results: Sequence[Result], eps: float, threshold: float, best: int, z: float
) -> NDArray[np.bool_]:
    """`outside` of results, z widened to Student's t of each pair's degrees of freedom."""
    scores, errors, rho, degrees = standings(results, eps, threshold)
    return outside(scores, errors, rho, best, np.array([[widened(z, one) for one in row] for row in degrees]))


def race(
    models: Sequence[str | tuple[str, Mapping[str, Any]]],
    folder: str | Path,
    *,
    best: int,
    config: ScoreConfig,
    said: Callable[[str], None] | None = None,
    **fleet: Any,
) -> Race:
    """Find the best `best` of `models` by the score at the first eps above the lowest threshold.

    Args:
        models, folder: as for `run_fleet`. Interrupted, the same call goes on where it was.
        best: K.
        config: arguments of the scores, with `half_width`, that at which scoring ends, and an estimator whose
            results hold influences.
        said: called with a line after each stage.
        fleet: other arguments of `run_fleet`.

    Raises:
        SynbenchError: no half-width, another estimator, K that is no positive number, and what `run_fleet` raises.
    """
    best = check_integer("best", best, 1, "a positive integer")
    last = _last_half_width(config)
    pairs = len(models) * (len(models) - 1) // 2
    z = _reach(max(1, pairs), LEVEL / len(STAGES))
    running: list[str | tuple[str, Mapping[str, Any]]] = list(models)
    stages: list[Stage] = []
    latest: dict[int, tuple[Job, Result]] = {}
    out_after: dict[int, float] = {}
    failures: dict[str, str] = {}
    superseded: set[Path] = set()
    places = list(range(len(running)))
    eps = threshold = math.nan
    for factor in STAGES:
        half_width = min(0.5, factor * last)
        jobs = run_fleet(
            [running[i] for i in places],
            folder,
            config=replace(config, half_width=half_width),
            said=said,
            **fleet,
        )
        alive = []
        for i, job in zip(places, jobs, strict=True):
            if job.state == "done":
                path = Path(folder) / "results" / str(job.result)
                if i in latest and latest[i][0].result != job.result:
                    superseded.add(path.with_name(str(latest[i][0].result)))
                latest[i] = job, Result.load(path, own=True)
                if latest[i][1].influence is None:  # one of another package
                    raise SynbenchError(
                        "estimator: expected one whose points have influences of the samples for the best K, got "
                        f"{config.estimator}"
                    )
                alive.append(i)
            else:
                failures[job.name] = str(job.reason)
                latest.pop(i, None)
        if alive:
            first = latest[alive[0]][1]
            eps, threshold = first.eps[0], min(first.thresholds)  # that decide
        dropped: list[int] = []
        if len(alive) > best:
            gone = _outside([latest[i][1] for i in alive], eps, threshold, best, z)
            dropped = [i for i, out in zip(alive, gone, strict=True) if out]
        out_after |= dict.fromkeys(dropped, half_width)
        stages.append(
            Stage(half_width=half_width, encoders=len(alive), out=[latest[i][0].name for i in dropped])
        )
        if said is not None:
            said(f"half-width {half_width:g}: {len(alive)} scored, {len(dropped)} out")
        places = [i for i in alive if i not in out_after]
    for path in superseded - {Path(folder) / "results" / str(job.result) for job, _ in latest.values()}:
        remove_files(path)  # its units stay in the store
    return _told(best, eps, threshold, last, stages, latest, out_after, failures)


def _last_half_width(config: ScoreConfig) -> float:
    """The half-width at which scoring ends; SynbenchError without one, or where scores depend on the number of samples."""
    if config.half_width is None:
        raise SynbenchError("half_width: expected the half-width at which scoring ends, got none")
    if not find_estimator(config.estimator).unbiased:
        raise SynbenchError(
            f"estimator: expected consistent or gaussian for the best K, got {config.estimator}"
        )
    return config.half_width


def _reach(pairs: int, level: float) -> float:
    # From the logarithm: 1 - (1 - level)^(1/P) itself has no digits left for many pairs.
    return -NormalDist().inv_cdf(-math.expm1(math.log1p(-level) / pairs) / 2)


def _told(
    best: int,
    eps: float,
    threshold: float,
    last: float,
    stages: list[Stage],
    latest: Mapping[int, tuple[Job, Result]],
    out_after: Mapping[int, float],
    failures: dict[str, str],
) -> Race:
    found: list[Standing] = []
    without = 0.0
    for i, (job, result) in latest.items():
        score = result.score(eps, threshold)
        found.append(
            Standing(
                encoder=job.name,
                score=score.score,
                stderr=score.stderr,
                images=result.cost.images,
                out_after=out_after.get(i),
                result=str(job.result),
            )
        )
        widths = [one.ci95_high - one.score for one in result.scores]
        widest = max((one for one in widths if math.isfinite(one)), default=0.0)
        without += result.cost.images * (max(1.0, widest / last) ** 2 if i in out_after else 1.0)
    found.sort(key=lambda one: (-(one.out_after is None), -one.score))
    left = sum(one.out_after is None for one in found)
    return Race(
        best=best,
        eps=eps,
        threshold=threshold,
        settled=left == best,
        stages=stages,
        standings=found,
        images=sum(one.images for one in found),
        images_without=round(without),
        failures=failures,
    )
