"""Ranks of the members of a board, every one an interval, all of them true together with 95 %.

Three ways, by the size of the board and by what its results store:

pairs (up to 32 members): `compare`, whose intervals come from simulating the largest of all differences.
bound (up to 2000): the differences and standard errors of `compare`, and in place of the simulated quantile its
    upper bound by Sidak (1967): with P pairs, Phi^-1((1 + 0.95^(1/P)) / 2). It holds for correlated normals, so
    the ranks are right with at least 95 %; they are a little wider.
separate (larger boards, suites): every score gets its own interval at 1 - 0.05/M, and one member is better than
    another if their intervals do not overlap (Bonferroni). This asks nothing of the correlations and is the
    widest.

Results without influences (those of the estimator `paper`) are not ranked: their samples' common luck is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError
from synbench_fast.report.collection import Board
from synbench_fast.results.records import NON_GAUSSIAN, Influence, Result
from synbench_fast.stats.compare import RESOLUTION, free_groups, unit_rows

__all__ = ["Ranking", "rank", "separate_ranks"]

PAIRS_LIMIT = 32
BOUND_LIMIT = 2000
_LEVEL = 0.05
_BLOCK = 256
# Added to 1 - rho, as `difference_error` does, so that rounding makes no difference certain.
_ROUNDING = RESOLUTION**2

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Best and worst rank of every member at one budget and threshold, None for one that is not ranked.

    `method` is pairs, bound, separate or none, `note` the reason why members are not ranked.
    """

    eps: float
    threshold: float
    ranks: list[tuple[int, int] | None]
    method: str
    note: str


def rank(
    board: Board,
    points: Sequence[tuple[float, float]],
    *,
    pairs_limit: int = PAIRS_LIMIT,
    problems: list[str] | None = None,
) -> list[Ranking]:
    """The ranking at each (eps, threshold); boards of at most `pairs_limit` members are simulated.

    A member whose curve or influences cannot be read is not ranked; its file is named in `problems`.
    """
    size = len(board.members)
    separate = board.suite
    usable = np.ones(size, dtype=bool)
    if not board.suite:
        usable[:] = [one.first.paired for one in board.members]
        separate = int(usable.sum()) > BOUND_LIMIT
    read: dict[int, Influence] = {}
    for i in [] if separate else np.flatnonzero(usable).tolist():
        try:
            read[i] = _influence(board.members[i].first, curve=int(usable.sum()) <= pairs_limit)
        except SynbenchError as error:
            usable[i] = False
            if problems is not None and str(error) not in problems:
                problems.append(str(error))
    pairs = not separate and len(read) <= pairs_limit
    rankings = []
    for eps, threshold in points:
        score, stderr = _scores(board, eps, threshold)
        keep = usable & np.isfinite(score) & np.isfinite(stderr)
        ranks, method, places = np.zeros((size, 2), dtype=int), "none", np.flatnonzero(keep).tolist()
        if len(places) > 1 and separate:
            ranks, method = separate_ranks(score, stderr, keep), "separate"
        elif len(places) > 1 and pairs:
            ranks[places], method = _pairs([board.members[i].first for i in places], eps, threshold), "pairs"
        elif len(places) > 1:
            with _one_thread():
                unit, groups = _directions(
                    [(board.members[i].first, read[i]) for i in places], eps, threshold
                )
            ranks[places], method = _count(score[places], stderr[places], unit, groups), "bound"
        rankings.append(
            Ranking(
                eps=eps,
                threshold=threshold,
                ranks=[
                    (int(low), int(high)) if known and method != "none" else None
                    for (low, high), known in zip(ranks, keep, strict=True)
                ],
                method=method,
                note=_note(board, usable, keep),
            )
        )
    return rankings


def _influence(result: Result, *, curve: bool) -> Influence:
    """The influences, from the file of arrays; SynbenchError where they, or the `curve` if asked for, cannot be read."""
    assert result.influence is not None
    if curve:
        _ = result.curve
    return result.influence


def _note(board: Board, usable: NDArray[np.bool_], keep: NDArray[np.bool_]) -> str:
    notes = []
    doubtful = sum(
        any(one.startswith(NON_GAUSSIAN) for one in member.document.warnings) for member in board.members
    )
    if doubtful:
        notes.append(
            f"{NON_GAUSSIAN} of {doubtful}: estimator gaussian has no interval where counting refutes them, consistent counts them"
        )
    if not usable.all():
        notes.append(f"{int((~usable).sum())} not ranked: no influences that can be compared")
    if (usable & ~keep).any():
        notes.append(f"{int((usable & ~keep).sum())} not ranked: no score with a standard error")
    if keep.sum() == 1:
        notes.append("one result is not ranked")
    return "; ".join(notes)


def _scores(board: Board, eps: float, threshold: float) -> tuple[Array, Array]:
    """Score (of a suite the mean) and standard error of every member."""
    values = np.full((len(board.members), 2), np.nan)
    for row, one in zip(values, board.members, strict=True):
        place = one.first.place(eps, threshold)
        if place is None:
            continue
        if one.suite is not None:
            mean = one.suite.scores[place]
            row[:] = mean.mean, mean.mean_stderr
        else:
            score = one.first.scores[place]
            row[:] = score.score, score.stderr
    return values[:, 0], values[:, 1]


def separate_ranks(score: Array, stderr: Array, keep: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Ranks from intervals that do not overlap: counts in sorted ends, no pairs."""
    ranks = np.zeros((len(score), 2), dtype=int)
    s, error = score[keep], stderr[keep]
    if len(s) < 2:
        ranks[keep] = 1
        return ranks
    z = NormalDist().inv_cdf(1 - _LEVEL / (2 * len(s)))
    low, high = np.sort(s - z * error), np.sort(s + z * error)
    ranks[keep, 0] = 1 + len(s) - np.searchsorted(low, s + z * error, side="right")
    ranks[keep, 1] = len(s) - np.searchsorted(high, s - z * error, side="left")
    return ranks


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small operations: on a busy machine threads of torch that wait for each other take 15 times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pairs(results: Sequence[Result], eps: float, threshold: float) -> NDArray[np.int_]:
    from synbench_fast.stats.compare import compare_scores

    with _one_thread():
        ranking = compare_scores(*results, eps=eps, thresholds=threshold).ranking
    scores = np.array([one.score(eps, threshold).score for one in results])
    ranks = np.zeros((len(results), 2), dtype=int)
    # the order of Comparison.ranking
    for i, one in zip(np.argsort(-scores, kind="stable"), ranking, strict=True):
        ranks[i] = one.best_rank, one.worst_rank
    return ranks


def reach(pairs: int) -> float:
    """Sidak's bound of the 95 % quantile of the largest of `pairs` |normals|, however they are correlated."""
    # 1 - 0.95^(1/P) from the logarithm: the difference itself has no digits left for many pairs.
    tail = -math.expm1(math.log1p(-_LEVEL) / pairs)
    return -NormalDist().inv_cdf(tail / 2)


def _directions(
    members: Sequence[tuple[Result, Influence]], eps: float, threshold: float
) -> tuple[NDArray[np.float32], int]:
    """`compare`'s rows of influences, and the degrees of freedom from which correlations are known."""
    unit = np.asarray(unit_rows(members, eps, threshold), dtype=np.float32)
    return unit, max(1, free_groups([influence for _, influence in members])[0])


def _count(score: Array, stderr: Array, unit: NDArray[np.float32], groups: int) -> NDArray[np.int_]:
    """[M, 2] ranks: how many are better, how many worse. A block of rows at a time bounds the memory."""
    from synbench_fast.stats.compare import widened

    size = len(score)
    limit = widened(reach(size * (size - 1) // 2), groups)
    ranks = np.zeros((size, 2), dtype=int)
    for start in range(0, size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        apart = np.clip(1.0 - (unit[rows] @ unit.T).astype(np.float64), 0.0, 2.0) + _ROUNDING
        # (s_i - s_j)^2 + 2 s_i s_j (1 - rho), in which nothing cancels
        variance = (stderr[rows, None] - stderr) ** 2 + 2 * stderr[rows, None] * stderr * apart
        gap = score[rows, None] - score
        certain = np.abs(gap) > limit * np.sqrt(variance)
        ranks[rows, 0] = 1 + (certain & (gap < 0)).sum(1)
        ranks[rows, 1] = size - (certain & (gap > 0)).sum(1)
    return ranks
